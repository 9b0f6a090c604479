//! GPT-2's pattern (r50k, p50k): contractions, words, numbers and the rest, each with at most one
//! space before it.
//!
//! `'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`

use super::classes::{Class, Set};
use super::text::{Text, contraction};

/// The end of the piece that begins at `start`, which is inside the text.
pub fn piece(text: Text<'_>, start: usize) -> usize {
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
        Class::Other | Class::Mark => Set::OTHER,
        Class::Upper | Class::Lower | Class::Caseless => Set::LETTER,
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
