//! Distinct pieces and how often each was met: open addressing over 32-byte entries, two a cache line.
//!
//! A piece of up to 15 bytes is its own key; a longer one is keyed by its hash, and its bytes lie in
//! an arena. The hash is seeded anew in each process, so no text can be built to make it collide,
//! and nothing that leaves this module depends on it.

use crate::cache::{filled, prefetch};
use crate::control::{Control, sort_by};
use crate::error::{Error, Result};
use crate::pieces::{Group, INLINE, LONG, MOST, Pieces, Places, key};
use std::cmp::Ordering;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

/// Entries of an empty table.
pub(super) const FIRST_ENTRIES: usize = 1 << 12;
/// Entries handled between two looks at the stop flag.
const STRIDE: usize = 1 << 16;

/// The secret half of the hash; tables that are joined share it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seeds(u64, u64);

impl Seeds {
    pub(super) fn random() -> Self {
        let state = RandomState::new();
        Self(state.hash_one(1u8), state.hash_one(2u8))
    }

    #[inline(always)]
    fn hash(self, key: u128) -> u64 {
        let (low, high) = (key as u64, (key >> 64) as u64);
        let product = u128::from(low ^ self.0) * u128::from(high ^ self.1);
        (product >> 64) as u64 ^ product as u64
    }

    fn hash_long(self, piece: &[u8]) -> u64 {
        let (words, rest) = piece.as_chunks::<16>();
        let mut hash = piece.len() as u64;
        for word in words {
            let word = u128::from_le_bytes(*word);
            hash = self.hash(word ^ u128::from(hash)).rotate_left(23);
        }
        self.hash(u128::from_le_bytes(padded(rest)) ^ u128::from(hash))
    }
}

fn padded(bytes: &[u8]) -> [u8; 16] {
    let mut all = [0; 16];
    all[..bytes.len()].copy_from_slice(bytes);
    all
}

/// Where the count is 0 nothing was entered, and the key is 0, which no piece has.
#[derive(Clone, Copy, Default)]
#[repr(C, align(32))]
struct Entry {
    key: u128,
    count: u64,
    /// The least position at which the piece was met.
    first: u64,
}

/// The pieces of one thread.
pub(super) struct Table {
    /// A power of two of them.
    entries: Vec<Entry>,
    used: usize,
    long: Vec<u8>,
    long_ends: Vec<usize>,
    seeds: Seeds,
    /// Bytes that it may take.
    limit: usize,
    group: Box<Group>,
}

/// A look into the entries that keeps where they are in registers.
#[derive(Clone, Copy)]
struct Quick<'a> {
    entries: &'a [Entry],
    seeds: Seeds,
}

impl Quick<'_> {
    /// Where a piece of this hash is, unless something else was there before.
    #[inline(always)]
    fn home(self, hash: u64) -> u32 {
        // By the highest bits, so that all tables have their pieces in about the same order, whatever
        // their size: they are joined, and grow, front to back.
        (((hash >> 32) * self.entries.len() as u64) >> 32) as u32
    }

    /// Gives long pieces their hashes, and asks for their places.
    #[inline(never)]
    fn approach_long(self, group: &mut Group, pieces: Pieces<'_>) {
        for place in 0..pieces.ends.len() {
            if group.keys[place] >= LONG {
                let hash = self.seeds.hash_long(pieces.get(place));
                group.keys[place] = LONG | u128::from(hash);
                group.places[place] = self.home(hash);
                prefetch(&self.entries[group.places[place] as usize]);
            }
        }
    }
}

impl Places for Quick<'_> {
    #[inline(always)]
    fn approach(self, key: u128) -> u32 {
        let home = self.home(self.seeds.hash(key));
        prefetch(self.entries.as_ptr().wrapping_add(home as usize));
        home
    }
}

impl Table {
    /// An empty one that takes `limit` bytes at most, if no single piece needs more.
    pub(super) fn new(seeds: Seeds, limit: usize) -> Self {
        Self {
            entries: vec![Entry::default(); FIRST_ENTRIES],
            used: 0,
            long: Vec::new(),
            long_ends: Vec::new(),
            seeds,
            limit,
            group: Box::new(Group::new()),
        }
    }

    /// Distinct pieces held.
    pub(super) fn len(&self) -> usize {
        self.used
    }

    /// Bytes taken.
    pub(super) fn bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>()
            + self.long.capacity()
            + self.long_ends.capacity() * size_of::<usize>()
    }

    /// Whether it has to be emptied before more is added.
    pub(super) fn is_full(&self) -> bool {
        self.used > 0 && (self.bytes() > self.limit || (self.is_crowded(MOST) && !self.can_grow()))
    }

    /// Whether the limit allows for twice the entries beside those that are moved.
    fn can_grow(&self) -> bool {
        self.bytes() + 2 * self.entries.len() * size_of::<Entry>() <= self.limit
    }

    /// Whether so many new pieces call for more entries.
    #[inline(always)]
    fn is_crowded(&self, new: usize) -> bool {
        (self.used + new) * 2 > self.entries.len()
    }

    /// Counts the pieces of `text` from `start` to each of `ends`; `base` is the position of the
    /// text's first byte in the corpus. Pieces come in the order of the corpus. Stops early where the
    /// table is full; returns how many pieces were counted.
    ///
    /// # Errors
    /// [`Error::Interrupted`].
    pub(super) fn count(
        &mut self,
        text: &[u8],
        start: usize,
        ends: &[usize],
        base: u64,
        control: &Control,
    ) -> Result<usize> {
        let pieces = Pieces { text, start, ends };
        let mut counted = 0;
        for pieces in pieces.groups() {
            if self.is_crowded(MOST) {
                if !self.can_grow() {
                    break;
                }
                self.grow(control)?;
            }
            let quick = Quick {
                entries: &self.entries,
                seeds: self.seeds,
            };
            if self.group.approach(quick, pieces) {
                quick.approach_long(&mut self.group, pieces);
            }
            let mut place = 0;
            loop {
                place = self.count_known(place..pieces.ends.len());
                if place == pieces.ends.len() {
                    break;
                }
                let first = base + pieces.start_of(place) as u64;
                self.count_elsewhere(self.group.keys[place], pieces.get(place), first);
                place += 1;
            }
            counted += pieces.ends.len();
        }
        Ok(counted)
    }

    fn quick(&self) -> Quick<'_> {
        Quick {
            entries: &self.entries,
            seeds: self.seeds,
        }
    }

    /// Counts the pieces in `places` up to the first that is not where its hash says; returns the place
    /// of that one, or the end.
    #[inline(never)]
    fn count_known(&mut self, places: Range<usize>) -> usize {
        let Self { entries, group, .. } = self;
        let end = places.end.min(MOST);
        for place in places.start..end {
            let entry = &mut entries[group.places[place] as usize];
            if entry.key != group.keys[place] {
                return place;
            }
            entry.count += 1;
        }
        end
    }

    /// Counts a piece that is not where its hash says.
    #[inline(never)]
    fn count_elsewhere(&mut self, key: u128, piece: &[u8], first: u64) {
        let at = self.find(key, piece);
        if self.entries[at].count == 0 {
            self.insert(at, key, piece, 1, first);
        } else {
            self.entries[at].count += 1;
        }
    }

    /// Adds `count` occurrences of one piece, the first of them at `first`; an empty one is left out.
    ///
    /// # Errors
    /// [`Error::Interrupted`]; [`Error::Usage`] where the sum does not fit.
    pub(super) fn add_piece(
        &mut self,
        piece: &[u8],
        count: u64,
        first: u64,
        control: &Control,
    ) -> Result<()> {
        if piece.is_empty() {
            return Ok(()); // it holds nothing, and has no key
        }
        let key = if piece.len() <= INLINE {
            key(piece, 0, piece.len())
        } else {
            LONG | u128::from(self.seeds.hash_long(piece))
        };
        self.add(key, piece, count, first, control)
    }

    fn add(
        &mut self,
        key: u128,
        piece: &[u8],
        count: u64,
        first: u64,
        control: &Control,
    ) -> Result<()> {
        if self.is_crowded(1) {
            self.grow(control)?;
        }
        let at = self.find(key, piece);
        let entry = &mut self.entries[at];
        if entry.count == 0 {
            self.insert(at, key, piece, count, first);
        } else {
            entry.count = sum(entry.count, count)?;
            entry.first = entry.first.min(first);
        }
        Ok(())
    }

    /// Calls `each` with every piece of a window, told by the highest `bits` of its hash, with its hash,
    /// count and first position. Windows must be no more than [`FIRST_ENTRIES`].
    ///
    /// # Errors
    /// Those of `each`.
    pub(super) fn for_each_in_window<'t>(
        &'t self,
        window: u64,
        bits: u32,
        mut each: impl FnMut(u64, Piece<'t>, u64, u64) -> Result<()>,
    ) -> Result<()> {
        let entries = self.entries.len() as u64;
        let (start, end) = ((window * entries) >> bits, ((window + 1) * entries) >> bits);
        for at in start..start + entries {
            let entry = &self.entries[(at % entries) as usize];
            if entry.count == 0 {
                // What finds its place taken stands behind it, maybe past the window's end.
                if at >= end {
                    break;
                }
                continue;
            }
            let hash = self.hash_of(entry.key);
            if (u128::from(hash) << bits) >> 64 == u128::from(window) {
                each(hash, self.piece(entry.key), entry.count, entry.first)?;
            }
        }
        Ok(())
    }

    /// Calls `each` with every piece, its count and its first position, in no particular order.
    ///
    /// # Errors
    /// Those of `each`; [`Error::Interrupted`].
    pub(super) fn for_each(
        &self,
        control: &Control,
        mut each: impl FnMut(&[u8], u64, u64) -> Result<()>,
    ) -> Result<()> {
        for entries in self.entries.chunks(STRIDE) {
            control.check()?;
            for entry in entries.iter().filter(|entry| entry.count != 0) {
                each(self.piece(entry.key).as_bytes(), entry.count, entry.first)?;
            }
        }
        Ok(())
    }

    /// Empties the table: hands over its pieces, with counts and first positions, up to `most` at a
    /// time in the order of their bytes.
    ///
    /// # Errors
    /// Those of `run`; [`Error::Interrupted`].
    pub(super) fn drain_sorted(
        &mut self,
        most: usize,
        control: &Control,
        mut run: impl FnMut(&mut dyn Iterator<Item = (Piece<'_>, u64, u64)>) -> Result<()>,
    ) -> Result<()> {
        let len = self.entries.len();
        let mut entries = std::mem::take(&mut self.entries);
        entries.retain(|entry| entry.count != 0);
        for entries in entries.chunks_mut(most) {
            sort_by(entries, control, |a, b| self.compare(a.key, b.key))?;
            run(&mut entries
                .iter()
                .map(|entry| (self.piece(entry.key), entry.count, entry.first)))?;
        }
        entries.clear();
        entries.resize(len, Entry::default());
        self.entries = entries;
        self.used = 0;
        self.long.clear();
        self.long_ends.clear();
        // A single long piece must not fill the table for good.
        self.long.shrink_to(self.limit / 4);
        Ok(())
    }

    #[inline(always)]
    fn hash_of(&self, key: u128) -> u64 {
        if key >= LONG {
            key as u64
        } else {
            self.seeds.hash(key)
        }
    }

    /// Where the piece is or, if it is new, belongs.
    fn find(&self, key: u128, piece: &[u8]) -> usize {
        let mask = self.entries.len() - 1;
        let mut at = self.quick().home(self.hash_of(key)) as usize;
        loop {
            let entry = &self.entries[at];
            let same = if key < LONG {
                entry.key == key
            } else {
                entry.key >= LONG
                    && entry.key as u64 == key as u64
                    && self.long_piece(entry.key) == piece
            };
            if same || entry.count == 0 {
                return at;
            }
            at = (at + 1) & mask;
        }
    }

    fn insert(&mut self, at: usize, mut key: u128, piece: &[u8], count: u64, first: u64) {
        if piece.len() > INLINE {
            let room = self.long.capacity() - self.long.len();
            if room < piece.len() {
                // Not by doubling, which would take the limit by surprise.
                let more = (self.long.capacity() / 8).max(1 << 12).max(piece.len());
                self.long.reserve_exact(more);
            }
            self.long.extend_from_slice(piece);
            self.long_ends.push(self.long.len());
            // From 1 on, so that no piece that is looked for has the key of one that is here.
            key |= (self.long_ends.len() as u128) << 64;
        }
        self.entries[at] = Entry { key, count, first };
        self.used += 1;
    }

    #[cold]
    fn grow(&mut self, control: &Control) -> Result<()> {
        let wider = filled(self.entries.len() * 2);
        let old = std::mem::replace(&mut self.entries, wider);
        let mask = self.entries.len() - 1;
        for entries in old.chunks(STRIDE) {
            control.check()?;
            for entry in entries.iter().filter(|entry| entry.count != 0) {
                let mut at = self.quick().home(self.hash_of(entry.key)) as usize;
                while self.entries[at].count != 0 {
                    at = (at + 1) & mask;
                }
                self.entries[at] = *entry;
            }
        }
        Ok(())
    }

    fn long_piece(&self, key: u128) -> &[u8] {
        let index = ((key & !LONG) >> 64) as usize - 1;
        let start = if index == 0 {
            0
        } else {
            self.long_ends[index - 1]
        };
        &self.long[start..self.long_ends[index]]
    }

    fn piece(&self, key: u128) -> Piece<'_> {
        if key >= LONG {
            return Piece::Long(self.long_piece(key));
        }
        Piece::Short {
            bytes: key.to_le_bytes(),
            len: (key >> 120) as usize,
        }
    }

    /// Compares two pieces by their bytes.
    fn compare(&self, a: u128, b: u128) -> Ordering {
        if a < LONG && b < LONG {
            // Bytes, most significant first, then the length, which decides where one is the
            // other with zeros behind it.
            return a.swap_bytes().cmp(&b.swap_bytes());
        }
        self.piece(a).as_bytes().cmp(self.piece(b).as_bytes())
    }
}

/// The sum of two counts of one piece.
///
/// # Errors
/// [`Error::Usage`] where it does not fit in 64 bits.
pub(super) fn sum(a: u64, b: u64) -> Result<u64> {
    a.checked_add(b).ok_or_else(|| {
        Error::usage(format!(
            "the counts {a} and {b} of one piece make more than 64 bits hold: train on fewer count files"
        ))
    })
}

/// A piece's bytes, out of the key or out of the arena.
#[derive(Clone, Copy, Debug)]
pub(super) enum Piece<'a> {
    Short { bytes: [u8; 16], len: usize },
    Long(&'a [u8]),
}

impl Piece<'_> {
    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Short { bytes, len } => &bytes[..*len],
            Self::Long(bytes) => bytes,
        }
    }
}
