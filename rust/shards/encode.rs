//! A tokenizer as the writer of datasets needs it.

use super::{Encode, EncodeText, TokenizerFacts};
use crate::control::Control;
use crate::error::Result;
use crate::formats::huggingface;
use crate::specials::{Names, SpecialRule};
use crate::tokenizer::{Encoder, Tokenizer};
use std::path::Path;

/// A tokenizer, and the special tokens that it recognises in documents.
pub struct DocumentEncoder<'t> {
    tokenizer: &'t Tokenizer,
    rule: SpecialRule,
}

impl<'t> DocumentEncoder<'t> {
    /// Documents are encoded with `special_tokens` recognised where they are spelled, and all others
    /// as plain text.
    pub fn new(tokenizer: &'t Tokenizer, special_tokens: &[String]) -> Self {
        let rule = SpecialRule {
            allowed: Names::Some(special_tokens.to_vec()),
            refused: Names::None,
        };
        Self { tokenizer, rule }
    }
}

impl Encode for DocumentEncoder<'_> {
    type Encoder<'e>
        = DocumentThread<'e>
    where
        Self: 'e;

    fn start(&self) -> DocumentThread<'_> {
        DocumentThread {
            encoder: self.tokenizer.encoder(),
            rule: &self.rule,
        }
    }

    fn safe_cut(&self, text: &[u8]) -> Option<usize> {
        self.tokenizer.safe_cut(text, &self.rule)
    }

    fn facts(&self) -> TokenizerFacts {
        TokenizerFacts {
            fingerprint: self.tokenizer.fingerprint().to_owned(),
            vocab_size: self.tokenizer.vocab().size() as u32,
            end_of_text_id: self.tokenizer.vocab().end_of_text(),
            kind: self.tokenizer.kind().to_owned(),
        }
    }

    fn save(&self, path: &Path) -> Result<()> {
        huggingface::save(self.tokenizer, path)
    }
}

/// One thread's hold on a [`DocumentEncoder`].
pub struct DocumentThread<'e> {
    encoder: Encoder<'e>,
    rule: &'e SpecialRule,
}

impl EncodeText for DocumentThread<'_> {
    fn encode(&mut self, text: &[u8], ids: &mut Vec<u32>) -> Result<()> {
        self.encoder
            .encode_with(text, self.rule, &Control::new(), ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pretokenize::Pattern;

    fn ids(encoder: &DocumentEncoder, parts: &[&[u8]]) -> Vec<u32> {
        let (mut thread, mut ids) = (encoder.start(), Vec::new());
        for part in parts {
            thread.encode(part, &mut ids).unwrap();
        }
        ids
    }

    #[test]
    fn no_cut_goes_through_a_special_token() {
        let specials = ["<|s|>", "|>x y", "y<"].map(str::to_owned);
        let merges = [(97, 98), (32, 97)];
        let pattern = Pattern::named("gpt2").unwrap();
        let bpe = Tokenizer::from_merges(&merges, pattern, &specials).unwrap();
        let text = b"<|s|>x y ab a<|s|>x y b<|s|><|s|>x|>x y  <|s ab|>x y";
        for tokenizer in [Tokenizer::byte(&specials).unwrap(), bpe] {
            for recognised in [&specials[..], &specials[..1], &[]] {
                let encoder = DocumentEncoder::new(&tokenizer, recognised);
                for end in 1..text.len() {
                    let Some(cut) = encoder.safe_cut(&text[..end]) else {
                        continue;
                    };
                    let parts = ids(&encoder, &[&text[..cut], &text[cut..]]);
                    assert_eq!(
                        parts,
                        ids(&encoder, &[text]),
                        "{recognised:?} at {cut} of {end}"
                    );
                }
            }
        }
    }

    #[test]
    fn no_cut_goes_through_a_character_which_would_look_ill_formed() {
        let bytes = Tokenizer::byte(&["<|s|>".to_owned()]).unwrap();
        let encoder = DocumentEncoder::new(&bytes, &["<|s|>".to_owned()]);
        let text = "naïve 日本 😀<|s|>é".repeat(3);
        for end in 1..text.len() {
            if let Some(cut) = encoder.safe_cut(&text.as_bytes()[..end]) {
                assert!(text.is_char_boundary(cut), "{cut} of {end}");
            }
        }
    }
}
