//! A table from pair to its count and its sites: a grid of all pairs of bytes, then open addressing.

use super::pairs::Pair;
use crate::cache::{filled, prefetch};

/// Pairs of bytes.
const GRID: usize = 1 << 16;
/// The least room for other pairs.
const SPARE: usize = 1 << 14;

/// What is known of a pair; without sites it is nothing.
#[derive(Clone, Copy, Default)]
pub(super) struct Entry {
    code: u64,
    pub count: u64,
    /// Where in an array of sites those of the pair begin, which may be there no longer.
    pub start: u64,
    pub sites: u32,
}

impl Entry {
    pub(super) fn pair(&self) -> Pair {
        Pair {
            left: (self.code >> 32) as u32,
            right: self.code as u32,
        }
    }
}

/// Pairs that were counted `floor` times or more when they came.
pub(super) struct Table {
    entries: Vec<Entry>,
    /// Entries in use behind the grid.
    used: usize,
    floor: u64,
}

impl Table {
    /// One without room, for no pair.
    pub(super) fn none() -> Self {
        Self {
            entries: Vec::new(),
            used: 0,
            floor: 1,
        }
    }

    /// An empty one, with room for pairs of bytes and some thousands more.
    pub(super) fn new() -> Self {
        Self {
            entries: filled(GRID + SPARE),
            ..Self::none()
        }
    }

    /// Bytes taken.
    pub(super) fn bytes(&self) -> usize {
        self.entries.len() * size_of::<Entry>()
    }

    pub(super) fn floor(&self) -> u64 {
        self.floor
    }

    /// Entries of pairs, in no particular order.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.sites > 0)
    }

    /// The same, to be changed.
    pub(super) fn entries_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.entries.iter_mut().filter(|entry| entry.sites > 0)
    }

    /// Asks for the memory of the pair's entry.
    pub(super) fn approach(&self, pair: Pair) {
        prefetch(&self.entries[self.home(pair)]);
    }

    /// The pair's entry, which is empty where there is no such pair.
    #[inline(always)]
    pub(super) fn get(&self, pair: Pair) -> &Entry {
        &self.entries[self.slot(pair)]
    }

    /// The same, to be changed.
    #[inline(always)]
    pub(super) fn get_mut(&mut self, pair: Pair) -> &mut Entry {
        let at = self.slot(pair);
        &mut self.entries[at]
    }

    /// The pair's entry, or an empty one that is made for it and has to be given sites.
    pub(super) fn place(&mut self, pair: Pair) -> &mut Entry {
        let mut at = self.slot(pair);
        if self.entries[at].sites == 0 && at >= GRID {
            if (self.used + 1) * 2 > self.entries.len() - GRID {
                self.rebuild(2 * self.entries.len() - GRID);
                at = self.slot(pair);
            }
            self.used += 1;
        }
        let entry = &mut self.entries[at];
        entry.code = pair.code();
        entry
    }

    /// Drops pairs counted fewer times than `floor`, from now on too where room is made for others, and
    /// the room that they took.
    pub(super) fn raise_floor(&mut self, floor: u64) {
        self.floor = floor;
        let kept = self.entries().filter(|entry| entry.count >= floor).count();
        self.rebuild(GRID + (4 * kept).next_power_of_two().max(SPARE));
    }

    /// Gives all pairs stretches for their sites, side by side; returns their length together.
    pub(super) fn lay_out(&mut self) -> usize {
        let mut all = 0;
        for entry in self.entries_mut() {
            entry.start = all;
            all += u64::from(entry.sites);
        }
        all as usize
    }

    /// Moves the entries that still count into room for `len`.
    fn rebuild(&mut self, len: usize) {
        let old = std::mem::replace(&mut self.entries, filled(len));
        self.used = 0;
        for entry in old {
            if entry.sites > 0 && entry.count >= self.floor {
                let at = self.slot(entry.pair());
                self.used += usize::from(at >= GRID);
                self.entries[at] = entry;
            }
        }
    }

    /// Where the pair is unless something else was there before.
    #[inline(always)]
    fn home(&self, pair: Pair) -> usize {
        if pair.left < 256 && pair.right < 256 {
            return (pair.left << 8 | pair.right) as usize;
        }
        let len = self.entries.len() - GRID;
        GRID + (pair.hash() >> (64 - len.trailing_zeros())) as usize
    }

    /// Where the pair's entry is or, if it has none, belongs.
    #[inline(always)]
    fn slot(&self, pair: Pair) -> usize {
        let (mut at, code) = (self.home(pair), pair.code());
        if at < GRID {
            return at;
        }
        loop {
            let entry = &self.entries[at];
            if entry.code == code || entry.sites == 0 {
                return at;
            }
            at += 1;
            if at == self.entries.len() {
                at = GRID;
            }
        }
    }
}
