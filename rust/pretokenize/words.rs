//! The patterns of cl100k, llama3, qwen2 and o200k: a word takes any one character before it, a
//! number few digits, punctuation the line ends after it.
//!
//! cl100k: `'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*`
//! `|\s++$|\s*[\r\n]|\s+(?!\S)|\s`. The others differ as [`Rules`] says.

use super::classes::{Class, Set};
use super::text::{Text, contraction};

/// Where the patterns of the family differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// o200k: a word is `[upper]*[lower]+` or `[upper]+[lower]*`, where letters without case and
    /// marks are both; contractions belong to the word before them; a slash is a line end when
    /// punctuation takes those. Else a word is `\p{L}+`, and a contraction is a piece.
    pub cased: bool,
    /// The most digits in a number.
    pub digits: usize,
    /// White space that reaches the end of the text is one piece (`\s++$`).
    pub whole_tail: bool,
}

/// What may stand in a word of o200k.
const CASED_WORD: Set = Set::of(&[Class::Upper, Class::Lower, Class::Caseless, Class::Mark]);
const UPPER_PART: Set = Set::of(&[Class::Upper, Class::Caseless, Class::Mark]);
const LOWER_PART: Set = Set::of(&[Class::Lower, Class::Caseless, Class::Mark]);

impl Rules {
    /// The end of the piece that begins at `start`, which is inside the text.
    pub fn piece(self, text: Text<'_>, start: usize) -> usize {
        let contracted = if self.cased {
            None
        } else {
            contraction(text.bytes, start, true)
        };
        if let Some(length) = contracted {
            return start + length;
        }
        let word = if self.cased { CASED_WORD } else { Set::LETTER };
        let (class, length) = text.at(start);
        let line_end = matches!(text.bytes[start], b'\r' | b'\n');
        if word.has(class) {
            self.word(text, start)
        } else if class == Class::Number {
            self.number(text, start)
        } else if !line_end && text.is(start + length, word) {
            self.word(text, start + length)
        } else if class != Class::White {
            self.punctuation(text, start)
        } else if text.bytes[start] == b' ' && text.is(start + 1, Set::OTHER) {
            self.punctuation(text, start + 1)
        } else {
            self.white(text, start)
        }
    }

    /// The end of the word whose first letter is at `start`.
    fn word(self, text: Text<'_>, start: usize) -> usize {
        if !self.cased {
            return text.run(start, Set::LETTER);
        }
        let end = cased_word(text, start);
        let suffix = if end < text.bytes.len() {
            contraction(text.bytes, end, true)
        } else {
            None
        };
        end + suffix.unwrap_or(0)
    }

    fn number(self, text: Text<'_>, start: usize) -> usize {
        let mut end = start;
        for _ in 0..self.digits {
            if !text.is(end, Set::NUMBER) {
                break;
            }
            end += text.at(end).1;
        }
        end
    }

    fn punctuation(self, text: Text<'_>, start: usize) -> usize {
        let end = text.run(start, Set::OTHER);
        text.run_of(end, if self.cased { b"\r\n/" } else { b"\r\n" })
    }

    /// Up to the last line end in the run; without one, all but the last character, which is left
    /// to what follows, if anything does.
    fn white(self, text: Text<'_>, start: usize) -> usize {
        let (end, last) = text.run_and_last(start, Set::WHITE);
        let at_end = end == text.bytes.len();
        let line = text.bytes[start..end]
            .iter()
            .rposition(|byte| matches!(byte, b'\r' | b'\n'));
        match line {
            _ if at_end && self.whole_tail => end,
            Some(line) => start + line + 1,
            None if at_end || last == start => end,
            None => last,
        }
    }
}

/// `[upper]*[lower]+|[upper]+[lower]*`, the first alternative that matches.
///
/// A character of both kinds lets the first alternative match without a lower-case letter, but
/// only up to the last such character: `\u{4E00}A` is two words, `\u{4E00}Ab` one.
fn cased_word(text: Text<'_>, start: usize) -> usize {
    let (mut at, mut both_end) = (start, start);
    while at < text.bytes.len() {
        let (class, length) = text.at(at);
        if !UPPER_PART.has(class) {
            break;
        }
        at += length;
        if class != Class::Upper {
            both_end = at;
        }
    }
    if text.is(at, LOWER_PART) {
        text.run(at, LOWER_PART)
    } else if both_end > start {
        both_end
    } else {
        at
    }
}
