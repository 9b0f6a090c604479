//! Pieces met before -> ids: the word cache. Natural text repeats itself, so nearly all of encoding is
//! one look here a piece.
//!
//! Pieces of up to [`INLINE`] bytes with up to four ids live in a two-way table of 32-byte entries: the
//! piece and its length make a 16-byte key, the ids follow, and both ways share a 64-byte cache line.
//! A piece that finds its set full goes to the neighbouring line, which is asked only after a miss.
//! An entry with more ids says where they are in a list (at most [`MAX_LISTED`], 8 MiB). Longer pieces,
//! up to [`LONGEST`] bytes, live as records in an arena behind an open-addressed index. All begin
//! small, grow with what they hold, and stop growing at [`MAX_SETS`] (8 MiB) and [`MAX_RECORDS`] (8 MiB
//! of index, 32 MiB of records); a full table forgets old pieces, a full list or arena forgets all.

use crate::hash::{hash_bytes, hash_key};

/// The longest piece that fits a key: fifteen bytes and the length.
pub(crate) const INLINE: usize = 15;
/// The longest piece worth remembering.
const LONGEST: usize = 512;

/// `u64` words in a set: two entries of two words key and two words ids.
const SET_WORDS: usize = 8;
const FIRST_SETS: usize = 1 << 12;
const MAX_SETS: usize = 1 << 17;

const FIRST_RECORDS: usize = 1 << 12;
const MAX_RECORDS: usize = 1 << 20;
const MAX_ARENA: usize = 32 << 20;

/// How many ids an entry holds stands above the first id.
const COUNT_SHIFT: u32 = 24;
/// The count of an entry whose ids are elsewhere: it holds their place, number and generation.
const LISTED: u32 = 7;
/// Ids in lists.
const MAX_LISTED: usize = 2 << 20;

/// Up to four ids, and how many; or, where that is more than four, what [`WordCache::listed`] reads.
pub(crate) type Few = ([u32; 4], usize);

/// One encoder's memory.
#[derive(Debug)]
pub(crate) struct WordCache {
    sets: Sets,
    /// The ids of short pieces that have more than four, and how often they were all forgotten.
    list: Vec<u32>,
    generation: u32,
    records: Records,
}

impl WordCache {
    /// An empty cache.
    pub(crate) fn new() -> Self {
        Self {
            sets: Sets::new(FIRST_SETS),
            list: Vec::new(),
            generation: 0,
            records: Records::default(),
        }
    }

    /// Starts loading the place of a short piece; returns the hash that finds it.
    #[inline(always)]
    pub(crate) fn approach(&self, key: u128) -> u64 {
        let hash = hash_key(key);
        prefetch(&self.sets.words[self.sets.start(hash)]);
        hash
    }

    /// The same for a piece of more than [`INLINE`] bytes.
    #[inline(always)]
    pub(crate) fn approach_long(&self, piece: &[u8]) -> u64 {
        if piece.len() > LONGEST {
            return 0;
        }
        let hash = hash_bytes(piece);
        prefetch(&self.records.index[hash as usize & (self.records.index.len() - 1)]);
        hash
    }

    /// The ids of a short piece.
    #[inline(always)]
    pub(crate) fn few(&self, hash: u64, key: u128) -> Option<Few> {
        self.sets.get(hash, key)
    }

    /// The same, where the piece may have found its own set full when it came.
    pub(crate) fn few_anywhere(&self, hash: u64, key: u128) -> Option<Few> {
        self.sets.find(hash, key)
    }

    /// The ids of a short piece that has more than four, unless they were forgotten.
    #[inline]
    pub(crate) fn listed(&self, [_, place, number, generation]: [u32; 4]) -> Option<&[u32]> {
        let place = place as usize;
        let ids = self.list.get(place..place + number as usize)?;
        (generation == self.generation).then_some(ids)
    }

    /// Starts loading the record of a long piece, once its place in the index has come.
    #[inline]
    pub(crate) fn approach_record(&self, hash: u64) {
        let entry = self.records.index[hash as usize & (self.records.index.len() - 1)];
        if let Some(record) = self
            .records
            .arena
            .get((entry as u32 as usize).wrapping_sub(1))
        {
            prefetch(record);
        }
    }

    /// The ids of a longer piece, as little-endian bytes.
    pub(crate) fn many(&self, hash: u64, piece: &[u8]) -> Option<&[[u8; 4]]> {
        self.records.get(hash, piece)
    }

    /// Remembers a piece of up to [`INLINE`] bytes.
    pub(crate) fn insert(&mut self, hash: u64, key: u128, ids: &[u32]) {
        let mut four = [0; 4];
        if ids.len() <= 4 {
            four[..ids.len()].copy_from_slice(ids);
            four[0] |= (ids.len() as u32) << COUNT_SHIFT;
        } else {
            if self.list.len() > MAX_LISTED {
                self.list.clear();
                self.generation = self.generation.wrapping_add(1);
            }
            let place = self.list.len() as u32;
            four = [
                LISTED << COUNT_SHIFT,
                place,
                ids.len() as u32,
                self.generation,
            ];
            self.list.extend_from_slice(ids);
        }
        self.sets.insert(hash, key, four);
    }

    /// Remembers a longer one.
    pub(crate) fn insert_long(&mut self, hash: u64, piece: &[u8], ids: &[u32]) {
        if piece.len() <= LONGEST {
            self.records.insert(hash, piece, ids);
        }
    }
}

/// The key of `text[start..end]`, of 1 to [`INLINE`] bytes.
#[inline(always)]
pub(crate) fn key(text: &[u8], start: usize, end: usize) -> u128 {
    let length = end - start;
    let bytes = match text.get(start..start + 16) {
        Some(window) => {
            let mut sixteen = [0; 16];
            sixteen.copy_from_slice(window);
            u128::from_le_bytes(sixteen) & (u128::MAX >> (128 - 8 * length))
        }
        None => {
            let mut sixteen = [0; 16];
            sixteen[..length].copy_from_slice(&text[start..end]);
            u128::from_le_bytes(sixteen)
        }
    };
    bytes | (length as u128) << 120
}

/// The two-way table.
#[derive(Debug)]
pub(crate) struct Sets {
    /// Zeroed by the system, so that pages which no piece reaches cost nothing.
    words: Vec<u64>,
    /// The first word on a cache line's edge.
    base: usize,
    shift: u32,
    used: usize,
}

impl Sets {
    /// A power of two of empty sets, at least two.
    pub(crate) fn new(sets: usize) -> Self {
        let words = vec![0; (sets + 1) * SET_WORDS];
        let base = words.as_ptr().align_offset(64).min(SET_WORDS);
        Self {
            words,
            base,
            shift: 64 - sets.trailing_zeros(),
            used: 0,
        }
    }

    fn len(&self) -> usize {
        1 << (64 - self.shift)
    }

    #[inline(always)]
    fn start(&self, hash: u64) -> usize {
        self.base + (hash >> self.shift) as usize * SET_WORDS
    }

    #[inline(always)]
    fn get(&self, hash: u64, key: u128) -> Option<Few> {
        self.get_at(self.start(hash), key)
    }

    /// The set that takes what the one at `start` has no room for: the other half of 128 bytes.
    fn neighbour(&self, start: usize) -> usize {
        self.base + ((start - self.base) ^ SET_WORDS)
    }

    /// What is known of a piece, wherever it is. A set with room has sent none to its neighbour.
    pub(crate) fn find(&self, hash: u64, key: u128) -> Option<Few> {
        let start = self.start(hash);
        let full = self.words[start + 5] != 0;
        self.get_at(start, key).or_else(|| {
            if full {
                self.get_at(self.neighbour(start), key)
            } else {
                None
            }
        })
    }

    /// Places a piece of one id, and never grows.
    pub(crate) fn place_one(&mut self, key: u128, id: u32) {
        let ids = u64::from(id | 1 << COUNT_SHIFT);
        self.place(hash_key(key), [key as u64, (key >> 64) as u64, ids, 0]);
    }

    #[inline(always)]
    fn get_at(&self, start: usize, key: u128) -> Option<Few> {
        let set = self.words[start..].first_chunk::<SET_WORDS>()?;
        let (low, high) = (key as u64, (key >> 64) as u64);
        // Which of the two ways holds the piece is a coin toss, so it is computed, not branched on.
        let first = (set[0] ^ low) | (set[1] ^ high) == 0;
        let second = (set[4] ^ low) | (set[5] ^ high) == 0;
        if !(first | second) {
            return None;
        }
        let way = usize::from(second) * 4;
        let (a, b) = (set[(way + 2) & 7], set[(way + 3) & 7]);
        let first = a as u32 & ((1 << COUNT_SHIFT) - 1);
        let count = (a as u32 >> COUNT_SHIFT) as usize;
        Some(([first, (a >> 32) as u32, b as u32, (b >> 32) as u32], count))
    }

    /// Remembers what a piece's entry holds.
    fn insert(&mut self, hash: u64, key: u128, four: [u32; 4]) {
        if self.used > self.len() && self.len() < MAX_SETS {
            self.grow();
        }
        let word = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let (low, high) = (word(four[0], four[1]), word(four[2], four[3]));
        self.place(hash, [key as u64, (key >> 64) as u64, low, high]);
    }

    /// Into a free way of the set or of its neighbour, else in the place of the set's older piece.
    fn place(&mut self, hash: u64, entry: [u64; 4]) {
        let start = self.start(hash);
        let neighbour = self.neighbour(start);
        let ways = [start, start + 4, neighbour, neighbour + 4];
        match ways.into_iter().find(|&way| self.words[way + 1] == 0) {
            Some(way) => {
                self.words[way..way + 4].copy_from_slice(&entry);
                self.used += 1;
            }
            None => {
                self.words.copy_within(start..start + 4, start + 4);
                self.words[start..start + 4].copy_from_slice(&entry);
            }
        }
    }

    fn grow(&mut self) {
        let mut larger = Self::new((self.len() * 4).min(MAX_SETS));
        for entry in self.words[self.base..].as_chunks::<4>().0 {
            if entry[1] != 0 {
                larger.place(
                    hash_key(u128::from(entry[0]) | u128::from(entry[1]) << 64),
                    *entry,
                );
            }
        }
        *self = larger;
    }
}

/// Records `[length, count, piece, ids]`, found by hash.
#[derive(Debug)]
struct Records {
    /// High half of the hash, then one more than the record's place; 0 where free.
    index: Vec<u64>,
    arena: Vec<u8>,
    used: usize,
}

impl Default for Records {
    fn default() -> Self {
        Self {
            index: vec![0; FIRST_RECORDS],
            arena: Vec::new(),
            used: 0,
        }
    }
}

impl Records {
    const HEAD: usize = 8;

    fn get(&self, hash: u64, piece: &[u8]) -> Option<&[[u8; 4]]> {
        let mask = self.index.len() - 1;
        let mut slot = hash as usize & mask;
        while self.index[slot] != 0 {
            let entry = self.index[slot];
            if entry >> 32 == hash >> 32 {
                let (stored, ids) = self.record(entry as u32 as usize - 1);
                if stored == piece {
                    return Some(ids);
                }
            }
            slot = (slot + 1) & mask;
        }
        None
    }

    fn record(&self, place: usize) -> (&[u8], &[[u8; 4]]) {
        let (head, rest) = self.arena[place..].split_at(Self::HEAD);
        let number =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (piece, rest) = rest.split_at(number(0) as usize);
        (piece, &rest.as_chunks::<4>().0[..number(4) as usize])
    }

    fn insert(&mut self, hash: u64, piece: &[u8], ids: &[u32]) {
        if self.arena.len() > MAX_ARENA || self.used * 2 > MAX_RECORDS {
            *self = Self::default();
        }
        if self.used * 2 > self.index.len() {
            self.grow();
        }
        let place = self.arena.len();
        self.arena
            .extend_from_slice(&(piece.len() as u32).to_le_bytes());
        self.arena
            .extend_from_slice(&(ids.len() as u32).to_le_bytes());
        self.arena.extend_from_slice(piece);
        self.arena
            .extend(ids.iter().flat_map(|id| id.to_le_bytes()));
        self.link(hash, place);
    }

    fn link(&mut self, hash: u64, place: usize) {
        let mask = self.index.len() - 1;
        let mut slot = hash as usize & mask;
        while self.index[slot] != 0 {
            slot = (slot + 1) & mask;
        }
        self.index[slot] = hash >> 32 << 32 | (place as u64 + 1);
        self.used += 1;
    }

    fn grow(&mut self) {
        self.index = vec![0; self.index.len() * 4];
        self.used = 0;
        let mut place = 0;
        while place < self.arena.len() {
            let (piece, ids) = self.record(place);
            let (hash, end) = (
                hash_bytes(piece),
                place + Self::HEAD + piece.len() + ids.len() * 4,
            );
            self.link(hash, place);
            place = end;
        }
    }
}

/// Asks for a cache line ahead of its use; nothing but time depends on it.
#[inline(always)]
pub(crate) fn prefetch<T>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing; any address is allowed.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(place).cast()) };
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: `prfm` reads nothing; any address is allowed.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{0}]", in(reg) place, options(nostack, readonly, preserves_flags));
    };
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = place;
}
