//! The patterns of cl100k, llama3, qwen2 and o200k: a word takes any one character before it, a
//! number few digits, punctuation the line ends after it.
//!
//! cl100k: `'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*`
//! `|\s++$|\s*[\r\n]|\s+(?!\S)|\s`. The others differ as [`Rules`] says.
//!
//! In masks, with "white" for what punctuation has not taken: a piece starts where a run of white
//! space starts; behind the last line end in such a run; at its last character, if that is no line
//! end; at the first, fourth, seventh digit of a number; where a run of punctuation starts, unless
//! a space stands before it; and where a word starts, unless white space that is no line end, or
//! punctuation of one character that starts a piece, stands before it. In o200k also where a
//! capital follows a lower-case letter. Contractions then move some starts.

use super::blocks::{Block, Open, Rule, Step};
use super::classes::{Class, Set};
use super::masks::{Masks, bits, low};
use super::planes::WIDTH;
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

/// Where a block's pieces start, before contractions are looked at.
struct Starts {
    starts: u64,
    /// The characters of words.
    word: u64,
    /// Apostrophes that may begin a contraction.
    quotes: u64,
    /// Where the masks cannot tell: see [`Words::unsure`].
    unsure: u64,
}

/// A rule of the family, compiled for words with and without case.
#[derive(Clone, Copy)]
pub struct Words<const CASED: bool>(pub Rules);

impl<const CASED: bool> Rule for Words<CASED> {
    #[inline(always)]
    fn piece(self, text: Text<'_>, start: usize) -> usize {
        self.0.piece(text, start)
    }

    #[inline(always)]
    fn step(self, masks: &Masks, text: Text<'_>, at: usize, open: Open) -> Step {
        let found = self.starts(masks, open);
        let Some(mut block) = Block::new(masks, found.word, found.starts) else {
            return Step::Pieces { until: WIDTH };
        };
        let mut last_end = None;
        for quote in bits(found.quotes & low(block.length)) {
            // In o200k a contraction ends its word: one right behind it has none to belong to.
            let taken = match last_end {
                Some(end) if CASED && end == quote => None,
                _ => contraction(text.bytes, at + quote, true),
            };
            if let Some(taken) = taken {
                last_end = Some(quote + taken);
                block.contract(masks, quote, taken, CASED);
            }
        }
        if CASED && found.unsure & low(block.length) != 0 {
            let unsure = found.unsure.trailing_zeros() as usize;
            return match Block::before(block.starts & low(unsure), block.starts) {
                Some(block) => Step::Block(block),
                None => Step::Pieces { until: unsure + 1 },
            };
        }
        Step::Block(block)
    }
}

impl<const CASED: bool> Words<CASED> {
    #[inline(always)]
    fn starts(self, masks: &Masks, open: Open) -> Starts {
        let (letter, number, line) = (masks.letter, masks.number, masks.line);
        let word = if CASED { letter | masks.mark } else { letter };
        let other = masks.valid & !(word | number | masks.white);
        let taken = self.taken_by_punctuation(masks, other);
        let (white, other) = (masks.white & !taken, other & !taken);
        let blank = white & !line;

        let after_line = blank & !(blank << 1) & (white & line) << 1;
        let last_blank = masks.firsts(blank & !(white >> 1));
        let white_starts = white & !(white << 1) | closing(after_line, blank, line) | last_blank;

        let other_starts = other & !(other << 1) & !(masks.space << 1);
        let word_starts = word & !(word << 1 | open.word);
        let before_word = masks.firsts(word_starts >> 1 & other) & other_starts;
        let glued = blank << 1 | masks.nexts(before_word);

        let mut starts = white_starts | other_starts | word_starts & !glued;
        starts |= self.number_starts(masks);
        let before_letter = masks.quote & letter >> 1;
        let (quotes, unsure) = if CASED {
            starts |= masks.upper & (masks.lower() << 1 | open.lower);
            (
                before_letter & (word << 1 | open.word),
                self.unsure(masks, word, open),
            )
        } else {
            (before_letter & other_starts, 0)
        };
        Starts {
            starts,
            word,
            quotes,
            unsure,
        }
    }

    /// What `[\r\n]*` (o200k: `[\r\n/]*`) takes behind punctuation.
    #[inline(always)]
    fn taken_by_punctuation(self, masks: &Masks, other: u64) -> u64 {
        let takes = if CASED {
            masks.line | masks.slash
        } else {
            masks.line
        };
        let firsts = masks.line & other << 1;
        // The sum carries from each first bit through its run; a second first bit in a run, which
        // only slashes allow, comes out as it was.
        ((takes.wrapping_add(firsts) ^ takes) | firsts) & takes
    }

    /// Each digit that starts a piece.
    #[inline(always)]
    fn number_starts(self, masks: &Masks) -> u64 {
        let number = masks.number;
        if self.0.digits == 1 {
            return number & !masks.inner;
        }
        if self.0.digits != 3 || number & masks.inner != 0 {
            return every_nth(self.0.digits, number, masks.inner);
        }
        let mut third = number & !(number << 1);
        let fourth_on = number & number << 1 & number << 2 & number << 3;
        let mut starts = third;
        while third != 0 {
            third = third << 3 & fourth_on;
            starts |= third;
        }
        starts
    }

    /// Marks that begin a word, and capitals behind a letter of both kinds (`\u{4E00}A`), where
    /// what a word takes depends on all that follows.
    #[inline(always)]
    fn unsure(self, masks: &Masks, word: u64, open: Open) -> u64 {
        let both = masks.caseless | masks.mark;
        masks.mark & !(word << 1 | open.word) | masks.upper & (both << 1 | open.caseless)
    }
}

/// Of these starts of runs of `blank`, those whose run no line end follows.
#[inline(always)]
fn closing(mut starts: u64, blank: u64, line: u64) -> u64 {
    // The sum carries to the bit behind each run.
    let mut followed = blank.wrapping_add(starts) & !blank & line;
    while followed != 0 {
        let below = starts & low(followed.trailing_zeros() as usize);
        starts ^= 1_u64.unbounded_shl(63 - below.leading_zeros());
        followed &= followed - 1;
    }
    starts
}

/// The first of every n characters of each run of numbers.
#[cold]
fn every_nth(n: usize, number: u64, inner: u64) -> u64 {
    let (mut starts, mut in_run) = (0, 0);
    for i in bits(number & !inner) {
        let begins = i == 0 || number >> (i - 1) & 1 == 0;
        in_run = if begins { 0 } else { in_run + 1 };
        starts |= u64::from(in_run % n == 0) << i;
    }
    starts
}

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
