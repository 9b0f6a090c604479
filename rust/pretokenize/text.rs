//! What the scanners of all patterns read text with, a character at a time.

use super::classes::{CLASSES, Class, Classes, Set};

/// A text and the table that classifies its characters.
#[derive(Clone, Copy)]
pub struct Text<'a> {
    pub bytes: &'a [u8],
    pub classes: &'static Classes,
}

impl<'a> Text<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            classes: &CLASSES,
        }
    }

    /// The class and length of the character at `at`, which is inside the text.
    #[inline(always)]
    pub fn at(self, at: usize) -> (Class, usize) {
        self.classes.at(self.bytes, at)
    }

    /// Whether a character of the set begins at `at`; false at the end of the text.
    pub fn is(self, at: usize, set: Set) -> bool {
        at < self.bytes.len() && set.has(self.at(at).0)
    }

    /// The end of the run of characters of the set that begins at `at`.
    pub fn run(self, at: usize, set: Set) -> usize {
        self.run_and_last(at, set).0
    }

    /// The end of the run, and where its last character begins (`at` where the run is empty).
    pub fn run_and_last(self, mut at: usize, set: Set) -> (usize, usize) {
        let mut last = at;
        while at < self.bytes.len() {
            let (class, length) = self.at(at);
            if !set.has(class) {
                break;
            }
            last = at;
            at += length;
        }
        (at, last)
    }

    /// The end of the run of these bytes, all ASCII, that begins at `at`.
    pub fn run_of(self, at: usize, bytes: &[u8]) -> usize {
        let run = self.bytes[at..]
            .iter()
            .take_while(|byte| bytes.contains(byte));
        at + run.count()
    }
}

/// The length of the contraction (`'s`, `'t`, `'re`, `'ve`, `'m`, `'ll`, `'d`) at `at`. Where case
/// does not count, the long s (U+017F), whose upper case is S, is an s too.
#[inline]
pub fn contraction(bytes: &[u8], at: usize, any_case: bool) -> Option<usize> {
    if bytes[at] != b'\'' {
        return None;
    }
    let fold = if any_case { 0x20 } else { 0 };
    let first = bytes.get(at + 1)? | fold;
    if matches!(first, b's' | b'd' | b'm' | b't') {
        return Some(2);
    }
    let second = bytes.get(at + 2)?;
    let long_s = any_case && bytes[at + 1] == 0xC5 && *second == 0xBF;
    let pair = matches!((first, second | fold), (b'l', b'l') | (b'v' | b'r', b'e'));
    (pair || long_s).then_some(3)
}
