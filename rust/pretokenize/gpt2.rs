//! GPT-2's pattern (r50k, p50k): contractions, words, numbers and the rest, each with at most one
//! space before it.
//!
//! `'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
//!
//! In masks: a piece starts where a run of letters, of numbers or of the rest starts, unless a
//! space stands before it; where a run of white space starts; and at the last character of such a
//! run. An apostrophe that starts a piece and is followed by the letters of a contraction moves
//! the next start behind them.

use super::blocks::{Open, Rule, Step, cut, move_starts};
use super::classes::{Class, Set};
use super::masks::{Masks, low};
use super::text::{Text, contraction};

/// The pattern's rule.
#[derive(Clone, Copy)]
pub struct Gpt2;

impl Rule for Gpt2 {
    #[inline(always)]
    fn piece(self, text: Text<'_>, start: usize) -> usize {
        piece(text, start)
    }

    #[inline(always)]
    fn step(self, masks: &Masks, text: Text<'_>, at: usize, open: Open) -> Step {
        let Masks {
            letter,
            number,
            white,
            ..
        } = *masks;
        let other = masks.valid & !(letter | number | white);
        let runs =
            letter & !(letter << 1 | open.word) | number & !(number << 1) | other & !(other << 1);
        let glued = masks.space << 1;
        let last_white = masks.firsts(white & !(white >> 1));
        let mut starts = runs & !glued | white & !(white << 1) | last_white;
        let Some((mut length, in_word)) = cut(masks, letter, starts) else {
            return Step::Pieces { until: 64 };
        };
        let mut open_after = Open {
            word: u64::from(in_word),
            ..Open::default()
        };
        let mut quotes = masks.quote & starts & letter >> 1 & low(length);
        while quotes != 0 {
            let quote = quotes.trailing_zeros() as usize;
            quotes &= quotes - 1;
            let Some(taken) = contraction(text.bytes, at + quote, false) else {
                continue;
            };
            let end = quote + taken;
            if end > length {
                (length, open_after) = (quote, Open::default());
                break;
            }
            starts = move_starts(starts, quote + 1, end);
            if end == length {
                open_after = Open::default();
            }
        }
        starts &= low(length) & (!1 | open.word);
        Step::Block {
            starts,
            length,
            open: open_after,
        }
    }
}

/// The end of the piece that begins at `start`, which is inside the text.
fn piece(text: Text<'_>, start: usize) -> usize {
    if let Some(length) = contraction(text.bytes, start, false) {
        return start + length;
    }
    let (mut class, mut length) = text.at(start);
    let mut at = start;
    if text.bytes[start] == b' ' && start + 1 < text.bytes.len() {
        let (next, next_length) = text.at(start + 1);
        if next != Class::White {
            (class, length, at) = (next, next_length, start + 1);
        }
    }
    let kind = match class {
        Class::White => return white(text, start),
        Class::Number => Set::NUMBER,
        Class::Upper | Class::Lower | Class::Caseless => Set::LETTER,
        Class::Other | Class::Mark | Class::Invalid => Set::OTHER,
    };
    text.run(at + length, kind)
}

/// `\s+(?!\S)|\s+`: a run leaves its last character to what follows it, if anything does.
fn white(text: Text<'_>, start: usize) -> usize {
    let (end, last) = text.run_and_last(start, Set::WHITE);
    if end < text.bytes.len() && last > start {
        last
    } else {
        end
    }
}
