//! A tokenizer as the writer of datasets needs it.

use super::batch::character_edge;
use super::{Encode, EncodeText, TokenizerFacts};
use crate::control::Control;
use crate::error::Result;
use crate::formats::huggingface;
use crate::pretokenize::Pattern;
use crate::specials::{Names, SpecialRule};
use crate::tokenizer::{Encoder, Tokenizer};
use memchr::memmem;
use std::path::Path;

/// How far back from the end of a part a cut is looked for, a step at a time.
const STEP_BYTES: usize = 64 << 10;
/// The first step, which nearly always finds one.
const FIRST_STEP_BYTES: usize = 2 << 10;

/// A place late in `text` where the pattern proves that it can be cut.
pub(super) fn late_split(pattern: &Pattern, text: &[u8]) -> Option<usize> {
    let mut near = text.len().saturating_sub(FIRST_STEP_BYTES);
    loop {
        let cut = pattern.safe_split(text, near);
        if cut.is_some() || near == 0 {
            return cut;
        }
        near = near.saturating_sub(STEP_BYTES);
    }
}

/// A tokenizer, and the special tokens that it recognises in documents.
pub struct DocumentEncoder<'t> {
    tokenizer: &'t Tokenizer,
    rule: SpecialRule,
    /// The texts of those that are recognised.
    specials: Vec<String>,
}

impl<'t> DocumentEncoder<'t> {
    /// Documents are encoded with `special_tokens` recognised where they are spelled, and all others
    /// as plain text.
    pub fn new(tokenizer: &'t Tokenizer, special_tokens: &[String]) -> Self {
        let rule = SpecialRule {
            allowed: Names::Some(special_tokens.to_vec()),
            refused: Names::None,
        };
        let known = tokenizer.vocab().specials().iter();
        let specials = known
            .filter(|special| rule.allows(special))
            .map(|special| special.text.clone())
            .collect();
        Self {
            tokenizer,
            rule,
            specials,
        }
    }

    /// The place before `cut` where the special token begins that lies across it; else `cut`.
    fn before_special(&self, text: &[u8], mut cut: usize) -> usize {
        let across = |cut: usize| {
            let begins = |special: &String| {
                let reach = special.len() - 1;
                let start = cut.saturating_sub(reach);
                let window = &text[start..text.len().min(cut + reach)];
                memmem::find(window, special.as_bytes()).map(|at| start + at)
            };
            self.specials.iter().filter_map(begins).min()
        };
        // Another may lie across the place where this one begins.
        while let Some(earlier) = across(cut) {
            cut = earlier;
        }
        cut
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
        // A special token whose end is yet to come must not be cut either.
        let longest = self.specials.iter().map(String::len).max().unwrap_or(0);
        let seen = &text[..text.len().saturating_sub(longest)];
        let cut = if self.tokenizer.kind() == "byte" {
            character_edge(seen)
        } else {
            late_split(self.tokenizer.pattern(), seen)?
        };
        Some(self.before_special(text, cut)).filter(|&cut| cut > 0)
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
    fn cut_is_found_far_from_the_end() {
        let pattern = Pattern::named("gpt2").unwrap();
        let text = [b"words ".as_slice(), &vec![b'x'; 900_000]].concat();
        assert_eq!(late_split(&pattern, &text), Some(5));
        assert_eq!(late_split(&pattern, &text[6..]), None);
    }
}
