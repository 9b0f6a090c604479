//! Text that comes in parts: cut where neither a piece nor a special token goes across, so that the parts
//! have the ids of the whole.

use crate::error::Result;
use crate::specials::SpecialRule;
use crate::tokenizer::Tokenizer;

/// A part's share of its text, and the bounds of that. Parts should stay in a near cache, but for each of
/// them the maker may have to wait for somebody (Python's lock).
const PARTS: usize = 32;
const SMALLEST: usize = 256 << 10;
const LARGEST: usize = 4 << 20;

/// A text that is made while it is read.
pub trait TextSource: Send {
    /// Appends what comes next until `text` holds `wanted` bytes or more; false where the text ended
    /// before.
    ///
    /// # Errors
    /// What makes it unreadable.
    fn read(&mut self, text: &mut Vec<u8>, wanted: usize) -> Result<bool>;
}

/// A stretch of the text.
pub(crate) struct Part {
    pub text: Vec<u8>,
    /// Where it begins in the whole.
    pub position: usize,
    /// Its place among the parts.
    pub number: usize,
}

/// How large the parts of a text of about so many bytes should be.
pub(crate) fn part_bytes(bytes: usize) -> usize {
    (bytes / PARTS).clamp(SMALLEST, LARGEST)
}

/// Cuts a source into parts.
pub(crate) struct Parts<'t, S> {
    tokenizer: &'t Tokenizer,
    pub rule: &'t SpecialRule,
    source: S,
    /// Bytes in a part, about, where the text can be cut.
    size: usize,
    /// Read, but not handed out.
    pending: Vec<u8>,
    position: usize,
    number: usize,
    ended: bool,
}

impl<'t, S: TextSource> Parts<'t, S> {
    pub(crate) fn new(
        tokenizer: &'t Tokenizer,
        rule: &'t SpecialRule,
        source: S,
        size: usize,
    ) -> Self {
        Self {
            tokenizer,
            rule,
            source,
            size,
            pending: Vec::new(),
            position: 0,
            number: 0,
            ended: false,
        }
    }

    /// The next part, in the memory of `used`; `None` behind the last. A text that cannot be cut is read
    /// on in doubling steps.
    pub(crate) fn next(&mut self, used: Vec<u8>) -> Result<Option<Part>> {
        let mut wanted = self.size;
        let end = loop {
            self.ended = self.ended || !self.source.read(&mut self.pending, wanted)?;
            if self.ended {
                break self.pending.len();
            }
            if let Some(cut) = self.tokenizer.safe_cut(&self.pending, self.rule) {
                break cut;
            }
            wanted = 2 * self.pending.len();
        };
        if end == 0 {
            return Ok(None);
        }
        let mut text = std::mem::replace(&mut self.pending, used);
        self.pending.clear();
        self.pending.extend_from_slice(&text[end..]);
        text.truncate(end);
        let part = Part {
            text,
            position: self.position,
            number: self.number,
        };
        self.position += end;
        self.number += 1;
        Ok(Some(part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Control;
    use crate::pretokenize::Pattern;

    /// A text that comes `step` bytes at a time, and is unreadable from `broken` on.
    struct Slow<'a> {
        text: &'a [u8],
        done: usize,
        step: usize,
        broken: usize,
    }

    impl TextSource for Slow<'_> {
        fn read(&mut self, text: &mut Vec<u8>, wanted: usize) -> Result<bool> {
            while text.len() < wanted {
                if self.done >= self.broken {
                    return Err(crate::Error::usage("broken"));
                }
                if self.done == self.text.len() {
                    return Ok(false);
                }
                let end = self.text.len().min(self.done + self.step);
                text.extend_from_slice(&self.text[self.done..end]);
                self.done = end;
            }
            Ok(true)
        }
    }

    fn slow(text: &[u8], step: usize) -> Slow<'_> {
        let (done, broken) = (0, usize::MAX);
        Slow {
            text,
            done,
            step,
            broken,
        }
    }

    const SPECIALS: [&str; 3] = ["<|s|>", "|>x y", "y<"];

    fn tokenizers() -> Vec<Tokenizer> {
        let specials = SPECIALS.map(str::to_owned);
        let bpe = |name| {
            let pattern = Pattern::named(name).unwrap();
            Tokenizer::from_merges(&[(97, 98), (32, 97)], pattern, &specials).unwrap()
        };
        let mut all: Vec<_> = ["gpt2", "cl100k", "o200k", "none", r"\w+|\W"]
            .map(bpe)
            .into();
        all.push(Tokenizer::byte(&specials).unwrap());
        all
    }

    fn text() -> Vec<u8> {
        let some = "ab a<|s|>x y b  \n aab<|s|><|s|>x|>x y  <|s ab|>x y\u{e9}\r\n\t3a y<|s|> ";
        some.repeat(9).into_bytes()
    }

    #[test]
    fn parts_have_the_ids_of_the_whole() {
        let (text, control) = (text(), Control::new());
        for tokenizer in tokenizers() {
            for rule in [SpecialRule::PLAIN, SpecialRule::ALL] {
                let whole = tokenizer.encode(&text, &rule, Some(1), &control).unwrap();
                for size in [1, 2, 7, 30, 64, 1000] {
                    for threads in [1, 3] {
                        let parts = Parts::new(&tokenizer, &rule, slow(&text, 1 + size / 3), size);
                        let ids = tokenizer.encode_parts(parts, text.len(), threads, &control);
                        assert_eq!(
                            ids.unwrap(),
                            whole,
                            "{tokenizer:?} {rule:?} {size} {threads}"
                        );
                    }
                }
                let count = tokenizer.count_source(slow(&text, 9), 5, &rule, &control);
                assert_eq!(count.unwrap(), whole.len());
            }
        }
    }

    #[test]
    fn the_first_error_counts_and_names_a_place_in_the_whole() {
        let (text, control) = ("words and ".repeat(20) + "<|s|>", Control::new());
        let text = text.repeat(5).into_bytes();
        let tokenizer = &tokenizers()[0];
        for (broken, said) in [
            (usize::MAX, "at byte 200"),
            (300, "at byte 200"),
            (100, "broken"),
        ] {
            for threads in [1, 2] {
                let source = Slow {
                    broken,
                    ..slow(&text, 5)
                };
                let parts = Parts::new(tokenizer, &SpecialRule::REFUSE, source, 20);
                let refused = tokenizer.encode_parts(parts, text.len(), threads, &control);
                let message = refused.unwrap_err().to_string();
                assert!(message.contains(said), "{message}");
            }
        }
    }

    #[test]
    fn a_text_without_a_place_to_cut_is_read_in_doubling_steps() {
        let (tokenizer, text) = (&tokenizers()[0], vec![b'x'; 5000]);
        let mut parts = Parts::new(tokenizer, &SpecialRule::PLAIN, slow(&text, 1), 10);
        let part = parts.next(Vec::new()).unwrap().unwrap();
        assert_eq!(
            (part.text, part.position, part.number),
            (text.clone(), 0, 0)
        );
        assert!(parts.next(Vec::new()).unwrap().is_none());
    }
}
