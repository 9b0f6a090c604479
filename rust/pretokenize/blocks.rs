//! The walk over a text in blocks of 64 bytes, for any rule that finds piece starts in masks.
//!
//! A block begins where a piece begins (the state is *closed*), or inside a word (*open*). It ends
//! behind the last letter that it holds, so that no other run of characters, white space least of
//! all, is ever cut: whatever a rule asks about what follows a character is in the block. The rule
//! turns the masks into the starts of pieces with a few integer operations, without a branch on
//! the kind of character. A block without a letter ends where its last number begins. Where there
//! is none either, or where the rule meets one of its rare cases, pieces are scanned a character
//! at a time for a while.

use super::masks::{Masks, low};
#[cfg(target_arch = "aarch64")]
use super::neon::Neon;
#[cfg(target_arch = "x86_64")]
use super::planes::Avx2;
#[cfg(not(target_arch = "aarch64"))]
use super::planes::Portable;
use super::planes::{Lanes, WIDTH};
use super::text::Text;
use crate::cache::prefetch;

/// How far ahead of the scanner text is asked for, in bytes.
const AHEAD: usize = 1024;

/// What the block before leaves open: whether the text goes on inside a word, and whether the last
/// character there is in lower case or of no case, a bit each.
#[derive(Clone, Copy, Debug, Default)]
pub struct Open {
    pub word: u64,
    pub lower: u64,
    pub caseless: u64,
}

impl Open {
    /// The state behind the word character that ends at bit `length`.
    #[inline(always)]
    pub fn behind(masks: &Masks, length: usize) -> Self {
        let last = |mask: u64| mask >> (length - 1) & 1;
        Self {
            word: 1,
            lower: last(masks.lower()),
            caseless: last(masks.caseless | masks.mark),
        }
    }
}

/// What a rule makes of a block.
pub enum Step {
    Block(Block),
    /// The piece in progress and those behind it, up to this byte of the block at least, have to
    /// be scanned a character at a time.
    Pieces {
        until: usize,
    },
}

/// Where a block ends and its pieces start.
pub struct Block {
    /// The pieces' first bytes, a bit each; those from `length` on do not count.
    pub starts: u64,
    pub length: usize,
    /// The state of the next block. When it is closed, a piece starts there.
    pub open: Open,
}

impl Block {
    /// The block up to its last word character, else up to the piece that its last number begins.
    /// `None` where it has neither.
    #[inline(always)]
    pub fn new(masks: &Masks, word: u64, starts: u64) -> Option<Self> {
        let word = word & masks.valid;
        if word != 0 {
            let length = WIDTH - word.leading_zeros() as usize;
            return Some(Self {
                starts,
                length,
                open: Open::behind(masks, length),
            });
        }
        let numbers = masks.number & !(masks.number << 1) & masks.valid & !1;
        let before = starts & low(WIDTH - numbers.leading_zeros() as usize);
        Self::before(before, starts)
    }

    /// The block up to the last of these starts; `None` where there is none but the first bit.
    #[inline(always)]
    pub fn before(last: u64, starts: u64) -> Option<Self> {
        let length = WIDTH - 1 - (last & !1 | 1).leading_zeros() as usize;
        (length != 0).then_some(Self {
            starts,
            length,
            open: Open::default(),
        })
    }

    /// Takes a contraction of `taken` bytes as a piece, or as the end of the word before it
    /// (`suffix`). One that the block does not hold ends the block before it.
    #[inline(always)]
    pub fn contract(&mut self, masks: &Masks, quote: usize, taken: usize, suffix: bool) {
        debug_assert!(quote < self.length, "only the last can end the block");
        let end = quote + taken;
        if end > self.length {
            self.open = if suffix {
                Open::behind(masks, quote)
            } else {
                Open::default()
            };
            self.length = quote;
            return;
        }
        let kept = low(if suffix { quote } else { quote + 1 }) | !low(end);
        self.starts = self.starts & kept | 1_u64.unbounded_shl(end as u32);
        if end == self.length {
            self.open = Open::default();
        }
    }
}

/// A pattern as the walk sees it.
pub trait Rule: Copy {
    /// The end of the piece that begins at `start`.
    fn piece(self, text: Text<'_>, start: usize) -> usize;

    /// The piece starts of the block at `at`. Whether the first bit of a closed block, where a
    /// piece is known to start, is among them does not matter.
    fn step(self, masks: &Masks, text: Text<'_>, at: usize, open: Open) -> Step;
}

/// Where a walk is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Walk {
    /// Where the next block begins.
    at: usize,
    /// Where the piece in progress begins; `at` when closed.
    begun: usize,
    open: Open,
}

impl Walk {
    /// Appends the end of the text, once, if there is text.
    pub fn rest(&mut self, text: Text<'_>, ends: &mut Vec<usize>) {
        if self.at < text.bytes.len() {
            self.at = text.bytes.len();
            ends.push(self.at);
        }
    }

    /// Appends the ends of the next pieces: `count`, or up to a block's more.
    pub fn fill<R: Rule>(&mut self, rule: R, text: Text<'_>, ends: &mut Vec<usize>, count: usize) {
        #[cfg(target_arch = "x86_64")]
        if Avx2::detected() {
            // SAFETY: the processor has the features that the function is compiled for.
            return unsafe { self.fill_avx2(rule, text, ends, count) };
        }
        #[cfg(target_arch = "aarch64")]
        return self.fill_by::<Neon, R>(rule, text, ends, count);
        #[cfg(not(target_arch = "aarch64"))]
        self.fill_by::<Portable, R>(rule, text, ends, count);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn fill_avx2<R: Rule>(&mut self, rule: R, text: Text<'_>, ends: &mut Vec<usize>, count: usize) {
        self.fill_by::<Avx2, R>(rule, text, ends, count);
    }

    #[inline(always)]
    pub fn fill_by<L: Lanes, R: Rule>(
        &mut self,
        rule: R,
        text: Text<'_>,
        ends: &mut Vec<usize>,
        count: usize,
    ) {
        let length = text.bytes.len();
        while ends.len() < count && self.at < length {
            prefetch(text.bytes.as_ptr().wrapping_add(self.at + AHEAD));
            let (ascii, high) = Masks::of_ascii::<L>(text, self.at);
            let step = if high == 0 {
                rule.step(&ascii, text, self.at, self.open)
            } else {
                let masks = ascii.and_others::<L>(high, text, self.at);
                rule.step(&masks, text, self.at, self.open)
            };
            match step {
                Step::Block(block) => {
                    let starts = block.starts & low(block.length) & (!1 | self.open.word);
                    push_bits(ends, self.at, starts);
                    self.at += block.length;
                    self.open = block.open;
                    if self.open.word == 0 {
                        ends.push(self.at);
                    }
                    self.begun = ends.last().copied().unwrap_or(self.begun);
                }
                Step::Pieces { until } => {
                    let until = (self.at + until).min(length);
                    while self.begun < until {
                        self.begun = rule.piece(text, self.begun);
                        ends.push(self.begun);
                    }
                    (self.at, self.open) = (self.begun, Open::default());
                }
            }
        }
        if self.at == length && self.begun < length {
            self.begun = length;
            ends.push(length);
        }
    }
}

/// Appends `base + i` for each bit i.
#[inline(always)]
fn push_bits(ends: &mut Vec<usize>, base: usize, mut bits: u64) {
    let count = bits.count_ones() as usize;
    ends.reserve(WIDTH);
    let slots = &mut ends.spare_capacity_mut()[..WIDTH];
    let mut done = 0;
    // Eight at a time, past the last bit too, so that few branches are hard to predict.
    while done < count {
        for slot in &mut slots[done..done + 8] {
            slot.write(base + bits.trailing_zeros() as usize);
            bits &= bits.wrapping_sub(1);
        }
        done += 8;
    }
    // SAFETY: `count` slots, at most 64, have been written behind the old length.
    unsafe { ends.set_len(ends.len() + count) };
}
