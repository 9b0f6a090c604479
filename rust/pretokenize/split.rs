//! Where text can be cut in two so that its pieces stay the same.
//!
//! gpt2: before white space that follows something else. White space is glued to nothing before
//! it, and a piece that ends there would end at the end of the text as well.
//!
//! cl100k and its family: the same, except before a line end, which punctuation takes. And between
//! a line end and a letter or number: nothing is glued to a line end before it, and the white space
//! that the line end closes, or the punctuation that takes it, is one piece up to there, with text
//! behind it or without.

use super::classes::{CLASSES, Class};
use super::known::Rule;

/// How far to look.
const REACH: usize = 64 << 10;

/// The first such place at or after `near` that is not the text's beginning.
pub fn find(rule: Rule, text: &[u8], near: usize) -> Option<usize> {
    let end = text.len().min(near.saturating_add(REACH));
    let line_end = |at: usize| matches!(text[at], b'\r' | b'\n');
    (near.max(1)..end).find(|&at| match rule {
        Rule::Whole => false,
        Rule::Gpt2 => begins_white(text, at),
        Rule::Words(_) if line_end(at - 1) => begins_word(text, at),
        Rule::Words(_) => !line_end(at) && begins_white(text, at),
    })
}

/// Whether white space that begins with an ASCII character follows something else at `at`.
fn begins_white(text: &[u8], at: usize) -> bool {
    text[at] < 0x80
        && CLASSES.at(text, at).0 == Class::White
        && class_before(text, at) != Class::White
}

/// Whether a letter or a number begins at `at`.
fn begins_word(text: &[u8], at: usize) -> bool {
    let class = CLASSES.at(text, at).0;
    !matches!(class, Class::Other | Class::Mark | Class::White)
}

/// The class of the character that ends at `at`, which is not the beginning of the text.
fn class_before(text: &[u8], at: usize) -> Class {
    // The longest first: the last byte of a character, alone, would be an invalid one.
    let found = (1..=at.min(4)).rev().find_map(|length| {
        let (class, found) = CLASSES.at(&text[..at], at - length);
        (found == length).then_some(class)
    });
    found.unwrap_or(Class::Other)
}

/// The end of the last whole character of `text`.
pub(crate) fn character_edge(text: &[u8]) -> usize {
    let is_start = |&at: &usize| text[at] & 0xC0 != 0x80;
    let Some(last) = (text.len().saturating_sub(4)..text.len())
        .rev()
        .find(is_start)
    else {
        return text.len();
    };
    let length = match text[last] {
        0xF0.. => 4,
        0xE0.. => 3,
        0xC0.. => 2,
        _ => 1,
    };
    if last == 0 || last + length <= text.len() {
        text.len()
    } else {
        last
    }
}
