//! GPT-2's pattern (r50k, p50k): contractions, words, numbers and the rest, each with at most one
//! space before it.
//!
//! `'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
//!
//! In masks: a piece starts where a run of letters, of numbers or of the rest starts, unless a
//! space stands before it; where a run of white space starts; and at the last character of such a
//! run. An apostrophe that starts a piece and is followed by the letters of a contraction moves
//! the next start behind them.

use super::blocks::{Block, Open, Rule, Step};
use super::classes::{Class, Set};
use super::masks::{Masks, bits, low};
use super::planes::WIDTH;
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
        let (letter, number, white) = (masks.letter, masks.number, masks.white);
        let other = masks.valid & !(letter | number | white);
        let runs =
            letter & !(letter << 1 | open.word) | number & !(number << 1) | other & !(other << 1);
        let glued = masks.space << 1;
        let last_white = masks.firsts(white & !(white >> 1));
        let starts = runs & !glued | white & !(white << 1) | last_white;
        let Some(mut block) = Block::new(masks, letter, starts) else {
            return Step::Pieces { until: WIDTH };
        };
        for quote in bits(masks.quote & starts & letter >> 1 & low(block.length)) {
            if let Some(taken) = contraction(text.bytes, at + quote, false) {
                block.contract(masks, quote, taken, false);
            }
        }
        Step::Block(block)
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
