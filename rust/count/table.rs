//! Distinct pieces and how often each was met: open addressing over 32-byte entries, two a cache line.
//!
//! A piece of up to 15 bytes is its own key; a longer one is keyed by its hash, and its bytes lie in
//! an arena. The hash is seeded anew in each process, so no text can be built to make it collide,
//! and nothing that leaves this module depends on it.

use crate::cache::prefetch;
use std::hash::{BuildHasher, RandomState};

/// Bytes that fit into a key beside their length.
const INLINE: usize = 15;
/// Marks the key of a piece that lies in the arena, where an inline key has its length.
const LONG: u64 = 0xFF << 56;
/// Pieces hashed ahead of their look-up, so that their cache lines are on the way.
const AHEAD: usize = 32;

/// The secret half of the hash; tables that are merged share it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seeds(u64, u64);

impl Seeds {
    pub(super) fn random() -> Self {
        let state = RandomState::new();
        Self(state.hash_one(1u8), state.hash_one(2u8))
    }

    fn hash(self, [low, high]: [u64; 2]) -> u64 {
        let product = u128::from(low ^ self.0) * u128::from(high ^ self.1);
        (product >> 64) as u64 ^ product as u64
    }

    fn hash_long(self, piece: &[u8]) -> u64 {
        let (words, rest) = piece.as_chunks::<16>();
        let mut hash = piece.len() as u64;
        for word in words {
            let [low, high] = halves(*word);
            hash = self.hash([low ^ hash, high]).rotate_left(23);
        }
        let [low, high] = halves(padded(rest));
        self.hash([low ^ hash, high])
    }
}

fn halves(bytes: [u8; 16]) -> [u64; 2] {
    let bits = u128::from_le_bytes(bytes);
    [bits as u64, (bits >> 64) as u64]
}

fn padded(bytes: &[u8]) -> [u8; 16] {
    let mut all = [0; 16];
    all[..bytes.len()].copy_from_slice(bytes);
    all
}

/// The inline key of `text[start..end]`, at most 15 bytes of it: the bytes, then their number.
#[inline]
fn inline_key(text: &[u8], start: usize, end: usize) -> [u64; 2] {
    let len = end - start;
    let bits = match text.get(start..start + 16) {
        Some(window) => {
            let mut all = [0; 16];
            all.copy_from_slice(window);
            u128::from_le_bytes(all) & ((1 << (len * 8)) - 1)
        }
        None => u128::from_le_bytes(padded(&text[start..end])),
    };
    let bits = bits | (len as u128) << 120;
    [bits as u64, (bits >> 64) as u64]
}

/// Where the count is 0 nothing was entered.
#[derive(Clone, Copy, Default)]
#[repr(C, align(32))]
struct Entry {
    key: [u64; 2],
    count: u64,
    /// The least position at which the piece was met.
    first: u64,
}

/// The pieces of one thread, or of one share of all pieces.
pub(super) struct Table {
    entries: Vec<Entry>,
    used: usize,
    long: Vec<u8>,
    long_ends: Vec<usize>,
    seeds: Seeds,
}

impl Table {
    pub(super) fn new(seeds: Seeds) -> Self {
        let entries = vec![Entry::default(); 1 << 12];
        Self {
            entries,
            used: 0,
            long: Vec::new(),
            long_ends: Vec::new(),
            seeds,
        }
    }

    /// An empty one that hashes alike.
    pub(super) fn fresh(&self) -> Self {
        Self::new(self.seeds)
    }

    /// Distinct pieces held.
    pub(super) fn len(&self) -> usize {
        self.used
    }

    /// Counts the pieces of `text` from `start` to each of `ends`; `base` is the position of the
    /// text's first byte in the corpus.
    pub(super) fn count(&mut self, text: &[u8], mut start: usize, ends: &[usize], base: u64) {
        let mut keys = [([0; 2], 0); AHEAD];
        for batch in ends.chunks(AHEAD) {
            let mut from = start;
            for (slot, &end) in keys.iter_mut().zip(batch) {
                *slot = self.key(text, from, end);
                prefetch(&self.entries[self.home(slot.1)]);
                from = end;
            }
            for (&(key, hash), &end) in keys.iter().zip(batch) {
                self.add(key, hash, &text[start..end], 1, base + start as u64);
                start = end;
            }
        }
    }

    /// Adds `count` occurrences of one piece, the first of them at `first`.
    pub(super) fn add_piece(&mut self, piece: &[u8], count: u64, first: u64) {
        let (key, hash) = self.key(piece, 0, piece.len());
        self.add(key, hash, piece, count, first);
    }

    /// Calls `each` with every piece, its count and its first position, in no particular order.
    pub(super) fn for_each<'a>(&'a self, mut each: impl FnMut(Piece<'a>, u64, u64)) {
        for entry in self.entries.iter().filter(|entry| entry.count != 0) {
            each(self.piece(entry.key), entry.count, entry.first);
        }
    }

    /// Adds those of the other table's pieces whose hash falls into `share` of `shares`.
    pub(super) fn absorb(&mut self, other: &Self, share: u64, shares: u64) {
        for entry in other.entries.iter().filter(|entry| entry.count != 0) {
            let hash = self.hash_of(entry.key);
            if ((hash & 0xFFFF) * shares) >> 16 == share {
                let piece = other.piece(entry.key);
                self.add_entry(entry, hash, &piece);
            }
        }
    }

    fn add_entry(&mut self, entry: &Entry, hash: u64, piece: &Piece) {
        self.add(entry.key, hash, piece.as_bytes(), entry.count, entry.first);
    }

    #[inline]
    fn key(&self, text: &[u8], start: usize, end: usize) -> ([u64; 2], u64) {
        if end - start <= INLINE {
            let key = inline_key(text, start, end);
            (key, self.seeds.hash(key))
        } else {
            let hash = self.seeds.hash_long(&text[start..end]);
            ([hash, LONG], hash)
        }
    }

    fn hash_of(&self, key: [u64; 2]) -> u64 {
        if key[1] >= LONG {
            key[0]
        } else {
            self.seeds.hash(key)
        }
    }

    fn home(&self, hash: u64) -> usize {
        (hash >> (64 - self.entries.len().trailing_zeros())) as usize
    }

    #[inline]
    fn add(&mut self, key: [u64; 2], hash: u64, piece: &[u8], count: u64, first: u64) {
        let mask = self.entries.len() - 1;
        let mut at = self.home(hash);
        loop {
            let entry = &self.entries[at & mask];
            if entry.count == 0 {
                return self.insert(at & mask, key, piece, count, first);
            }
            let same = if key[1] < LONG {
                entry.key == key
            } else {
                entry.key[0] == key[0]
                    && entry.key[1] >= LONG
                    && self.long_piece(entry.key) == piece
            };
            if same {
                let entry = &mut self.entries[at & mask];
                entry.count += count;
                entry.first = entry.first.min(first);
                return;
            }
            at += 1;
        }
    }

    #[cold]
    fn insert(&mut self, at: usize, mut key: [u64; 2], piece: &[u8], count: u64, first: u64) {
        if piece.len() > INLINE {
            key[1] = LONG | self.long_ends.len() as u64;
            self.long.extend_from_slice(piece);
            self.long_ends.push(self.long.len());
        }
        self.entries[at] = Entry { key, count, first };
        self.used += 1;
        if self.used * 2 > self.entries.len() {
            self.grow();
        }
    }

    fn grow(&mut self) {
        let wider = vec![Entry::default(); self.entries.len() * 2];
        let old = std::mem::replace(&mut self.entries, wider);
        let mask = self.entries.len() - 1;
        for entry in old.into_iter().filter(|entry| entry.count != 0) {
            let mut at = self.home(self.hash_of(entry.key));
            while self.entries[at & mask].count != 0 {
                at += 1;
            }
            self.entries[at & mask] = entry;
        }
    }

    fn long_piece(&self, key: [u64; 2]) -> &[u8] {
        let index = (key[1] & !LONG) as usize;
        let start = if index == 0 {
            0
        } else {
            self.long_ends[index - 1]
        };
        &self.long[start..self.long_ends[index]]
    }

    fn piece(&self, key: [u64; 2]) -> Piece<'_> {
        if key[1] >= LONG {
            return Piece::Long(self.long_piece(key));
        }
        let bits = u128::from(key[0]) | u128::from(key[1]) << 64;
        Piece::Short {
            bytes: bits.to_le_bytes(),
            len: (key[1] >> 56) as usize,
        }
    }
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
