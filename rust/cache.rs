//! Pieces met before -> ids: the word cache. Natural text repeats itself, so nearly all of encoding is
//! one look here a piece.
//!
//! Pieces of up to [`INLINE`] bytes with up to four ids live in a two-way table of 64-byte sets, a cache
//! line each: two keys (the piece and its length) side by side, so that one vector comparison asks for
//! both, then four ids for each. A piece that finds its set full goes to the neighbouring line, which is
//! asked only after a miss. An entry with more ids says where they are in a list (at most
//! [`MAX_LISTED`], 16 MiB). Longer pieces, up to [`LONGEST`] bytes, live as records in an arena behind an
//! open-addressed index. All begin small, grow with what they hold, and stop growing at [`MAX_SETS`]
//! (32 MiB) and [`MAX_RECORDS`] (8 MiB of index, 32 MiB of records); a full table forgets old pieces, a
//! full list or arena forgets all. English and source code stay at [`SEEDED_SETS`] (8 MiB); scripts
//! without spaces have more pieces. A table that outgrows its first size takes in the vocabulary's
//! tokens: text that goes on for so long will spell most of those that are short and frequent.

use crate::hash::{hash_bytes, hash_key};
use crate::pieces::{INLINE, Places};
use std::ops::{Deref, DerefMut, Range};

/// The longest piece worth remembering.
const LONGEST: usize = 512;

/// `u64` words in a set: two keys of two words, then the ids of each in two words.
const SET_WORDS: usize = 8;
const FIRST_SETS: usize = 1 << 12;
/// The size at which a table takes in seeds.
const SEEDED_SETS: usize = 1 << 17;
const MAX_SETS: usize = 1 << 19;
/// The usual size of a large page.
const HUGE_PAGE: usize = 2 << 20;
/// Tokens of the vocabulary that a table takes in when it first grows: those of lowest id.
const MAX_SEEDS: usize = SEEDED_SETS / 2;

const FIRST_RECORDS: usize = 1 << 12;
const MAX_RECORDS: usize = 1 << 20;
const MAX_ARENA: usize = 32 << 20;

/// How many ids an entry holds stands above the first id.
const COUNT_SHIFT: u32 = 24;
/// The count of an entry whose ids are elsewhere: it holds their place, number and generation.
const LISTED: usize = 7;
/// A list is read this many ids at a time: a piece of [`INLINE`] bytes has fewer.
pub(crate) const LISTED_IDS: usize = INLINE + 1;
/// Ids in lists.
const MAX_LISTED: usize = 4 << 20;

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

    /// Starts loading what is known of a piece of more than [`INLINE`] bytes; returns its hash.
    pub(crate) fn approach_long(&self, piece: &[u8]) -> u64 {
        let mut hash = 0;
        if piece.len() <= LONGEST {
            hash = hash_bytes(piece);
            prefetch(&self.records.index[hash as usize & (self.records.index.len() - 1)]);
        }
        hash
    }

    /// The table of short pieces as it is now, for one quick look after the other.
    #[inline(always)]
    pub(crate) fn quick(&self) -> Quick<'_> {
        self.sets.quick()
    }

    /// The ids of a short piece, which may have found its own set full when it came. Then it takes a
    /// place there now: what is asked for often will be asked for again.
    pub(crate) fn few_anywhere(&mut self, key: u128) -> Option<Few> {
        let hash = hash_key(key);
        let start = self.sets.start(hash);
        let found = self.sets.find(hash, key);
        if found.is_some() && few::<false>(self.sets.set(start), key).is_none() {
            self.sets.bring_home(start, key);
        }
        found
    }

    /// The ids of a short piece that has more than four, with others behind them, and how many are
    /// its own; unless they were forgotten.
    #[inline(always)]
    pub(crate) fn listed(&self, four: [u32; 4]) -> Option<(&[u32; LISTED_IDS], usize)> {
        let [_, place, number, generation] = four;
        let ids = self.list.get(place as usize..)?.first_chunk()?;
        (generation == self.generation).then_some((ids, number as usize))
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

    /// Remembers a piece of up to [`INLINE`] bytes. `seeds` are what a growing table takes in.
    pub(crate) fn insert(&mut self, key: u128, ids: &[u32], seeds: Option<&Sets>) {
        let hash = hash_key(key);
        if self.sets.is_full() {
            self.sets.grow(seeds);
        }
        let mut four = [0; 4];
        if ids.len() <= 4 {
            four[..ids.len()].copy_from_slice(ids);
            self.sets.place(hash, key, pack(four, ids.len()));
        } else {
            if self.list.len() > MAX_LISTED {
                self.list.clear();
                self.generation = self.generation.wrapping_add(1);
            }
            // What is read behind the last list.
            self.list
                .truncate(self.list.len().saturating_sub(LISTED_IDS));
            let place = self.list.len() as u32;
            four[1..].copy_from_slice(&[place, ids.len() as u32, self.generation]);
            self.list.extend_from_slice(ids);
            self.list.extend_from_slice(&[0; LISTED_IDS]);
            self.sets.place(hash, key, pack(four, LISTED));
        }
    }

    /// Remembers a longer one.
    pub(crate) fn insert_long(&mut self, hash: u64, piece: &[u8], ids: &[u32]) {
        if piece.len() <= LONGEST {
            self.records.insert(hash, piece, ids);
        }
    }
}

/// A look into the sets that keeps where they are in registers.
#[derive(Clone, Copy)]
pub(crate) struct Quick<'a> {
    words: &'a [u64],
    shift: u32,
}

impl<'a> Quick<'a> {
    /// The first word of the set that a hash belongs to.
    #[inline(always)]
    fn start(self, hash: u64) -> usize {
        (hash >> self.shift) as usize * SET_WORDS
    }

    /// The set that begins at a word which [`Quick::start`] gave, or its neighbour.
    #[inline(always)]
    fn set(self, start: usize) -> &'a [u64; SET_WORDS] {
        debug_assert!(start + SET_WORDS <= self.words.len());
        // SAFETY: a hash is shifted down to the number of a set, and the table only grows.
        unsafe { &*self.words.as_ptr().add(start).cast() }
    }

    /// The ids of a short piece, if the set that begins at `start` has them. A place that was
    /// approached before the table grew is inside the table still, only in vain.
    #[inline(always)]
    pub(crate) fn few<const WIDE: bool>(self, start: u32, key: u128) -> Option<Few> {
        few::<WIDE>(self.set(start as usize), key)
    }
}

impl Places for Quick<'_> {
    #[inline(always)]
    fn approach(self, key: u128) -> u32 {
        let start = self.start(hash_key(key));
        prefetch(self.set(start));
        start as u32
    }
}

/// Four ids and their number as an entry holds them.
fn pack(four: [u32; 4], count: usize) -> [u64; 2] {
    let word = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    let first = four[0] | (count as u32) << COUNT_SHIFT;
    [word(first, four[1]), word(four[2], four[3])]
}

/// Words from the edge of a cache line on, or of a large page where they fill one.
#[derive(Debug)]
pub(crate) struct Words {
    /// Zeroed by the system, so that pages which nothing reaches cost nothing.
    all: Vec<u64>,
    used: Range<usize>,
}

impl Words {
    /// So many zeros.
    pub(crate) fn new(count: usize) -> Self {
        let bytes = count * size_of::<u64>();
        // A large table is worth whole large pages; what is left over before them is never touched.
        let edge = if bytes < HUGE_PAGE { 64 } else { HUGE_PAGE };
        let all: Vec<u64> = vec![0; (bytes + edge) / size_of::<u64>()];
        prefer_huge_pages(&all);
        let base = all.as_ptr().align_offset(edge);
        Self {
            all,
            used: base..base + count,
        }
    }
}

impl Deref for Words {
    type Target = [u64];

    #[inline(always)]
    fn deref(&self) -> &[u64] {
        &self.all[self.used.clone()]
    }
}

impl DerefMut for Words {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [u64] {
        &mut self.all[self.used.clone()]
    }
}

/// The two-way table.
#[derive(Debug)]
pub(crate) struct Sets {
    words: Words,
    shift: u32,
    used: usize,
}

impl Sets {
    /// A power of two of empty sets, at least two.
    pub(crate) fn new(sets: usize) -> Self {
        Self {
            words: Words::new(sets * SET_WORDS),
            shift: 64 - sets.trailing_zeros(),
            used: 0,
        }
    }

    fn len(&self) -> usize {
        1 << (64 - self.shift)
    }

    /// The words of all sets.
    #[inline(always)]
    fn quick(&self) -> Quick<'_> {
        Quick {
            words: &self.words,
            shift: self.shift,
        }
    }

    fn start(&self, hash: u64) -> usize {
        self.quick().start(hash)
    }

    fn set(&self, start: usize) -> &[u64; SET_WORDS] {
        self.quick().set(start)
    }

    /// The set that takes what the one at `start` has no room for: the other half of 128 bytes.
    fn neighbour(&self, start: usize) -> usize {
        start ^ SET_WORDS
    }

    /// What is known of a piece, wherever it is. A set with room has sent none to its neighbour.
    pub(crate) fn find(&self, hash: u64, key: u128) -> Option<Few> {
        let start = self.start(hash);
        let full = self.set(start)[3] != 0;
        few::<false>(self.set(start), key).or_else(|| {
            if full {
                few::<false>(self.set(self.neighbour(start)), key)
            } else {
                None
            }
        })
    }

    /// Starts loading the set of a piece.
    pub(crate) fn approach(&self, key: u128) {
        self.quick().approach(key);
    }

    /// Places a piece of one id, and never grows.
    pub(crate) fn place_one(&mut self, key: u128, id: u32) {
        self.place(hash_key(key), key, pack([id, 0, 0, 0], 1));
    }

    fn is_full(&self) -> bool {
        self.used > self.len() && self.len() < MAX_SETS
    }

    /// Into a free way of the set or of its neighbour, else in the place of the set's older piece.
    fn place(&mut self, hash: u64, key: u128, ids: [u64; 2]) {
        let start = self.start(hash);
        let neighbour = self.neighbour(start);
        let ways = [(start, 0), (start, 1), (neighbour, 0), (neighbour, 1)];
        let free = ways
            .into_iter()
            .find(|&(start, way)| self.set(start)[2 * way + 1] == 0);
        let (start, way) = match free {
            Some(place) => {
                self.used += 1;
                place
            }
            None => {
                self.words.copy_within(start..start + 2, start + 2);
                self.words.copy_within(start + 4..start + 6, start + 6);
                (start, 0)
            }
        };
        let at = start + 2 * way;
        self.words[at..at + 2].copy_from_slice(&[key as u64, (key >> 64) as u64]);
        self.words[at + 4..at + 6].copy_from_slice(&ids);
    }

    /// Exchanges the piece of this key, which is in the neighbouring set, and the second of its own.
    /// That one is found in the neighbour, or comes home itself.
    fn bring_home(&mut self, start: usize, key: u128) {
        let neighbour = self.neighbour(start);
        let is_first = self.words[neighbour..neighbour + 2] == [key as u64, (key >> 64) as u64];
        let from = neighbour + if is_first { 0 } else { 2 };
        for word in [0, 1, 4, 5] {
            self.words.swap(start + 2 + word, from + word);
        }
    }

    /// The pieces that are here, and what is stored with each.
    fn entries(&self) -> impl Iterator<Item = (u128, [u64; 2])> {
        let sets = self.words.as_chunks::<SET_WORDS>().0;
        sets[..self.len()].iter().flat_map(|set| {
            [0, 1].into_iter().filter_map(|way| {
                let key = u128::from(set[2 * way]) | u128::from(set[2 * way + 1]) << 64;
                (key != 0).then_some((key, [set[2 * way + 4], set[2 * way + 5]]))
            })
        })
    }

    /// A larger table.
    fn grow(&mut self, seeds: Option<&Self>) {
        let seeds = seeds.filter(|_| self.len() < SEEDED_SETS);
        let sets = if seeds.is_some() {
            SEEDED_SETS
        } else {
            self.len() * 4
        };
        let mut larger = Self::new(sets.min(MAX_SETS));
        for (key, ids) in self.entries() {
            larger.place(hash_key(key), key, ids);
        }
        for (key, ids) in seeds.iter().flat_map(|seeds| seeds.entries()) {
            let hash = hash_key(key);
            if (ids[0] as u32 & ((1 << COUNT_SHIFT) - 1)) < MAX_SEEDS as u32
                && larger.find(hash, key).is_none()
            {
                larger.place(hash, key, ids);
            }
        }
        *self = larger;
    }
}

/// What a set knows of a piece.
#[inline(always)]
fn few<const WIDE: bool>(set: &[u64; SET_WORDS], key: u128) -> Option<Few> {
    #[cfg(target_arch = "x86_64")]
    if WIDE {
        // SAFETY: only functions compiled for AVX2, called where there is AVX2, ask so.
        return unsafe { few_avx2(set, key) };
    }
    let (low, high) = (key as u64, (key >> 64) as u64);
    let same = |at: usize| (set[at] ^ low) | (set[at + 1] ^ high) == 0;
    // Which of the two ways holds the piece is a coin toss, so it is computed, not branched on.
    let (first, second) = (same(0), same(2));
    if !(first | second) {
        return None;
    }
    let way = 4 + 2 * usize::from(second);
    let (a, b) = (set[way], set[way + 1]);
    let count = (a as u32 >> COUNT_SHIFT) as usize;
    let first = a as u32 & ((1 << COUNT_SHIFT) - 1);
    Some(([first, (a >> 32) as u32, b as u32, (b >> 32) as u32], count))
}

/// Where in a set, in bytes, the ids stand for these words of its keys that are equal, a bit each;
/// 0 where no key is.
#[cfg(target_arch = "x86_64")]
static IDS_AT: [u8; 16] = {
    let mut at = [0; 16];
    let mut same = 0;
    while same < 16 {
        if same & 0b0011 == 0b0011 {
            at[same] = 32;
        } else if same & 0b1100 == 0b1100 {
            at[same] = 48;
        }
        same += 1;
    }
    at
};

/// Both keys in one comparison, and the ids from memory to memory in one register.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn few_avx2(set: &[u64; SET_WORDS], key: u128) -> Option<Few> {
    use std::arch::x86_64::*;
    let key = _mm256_broadcastsi128_si256(_mm_set_epi64x((key >> 64) as i64, key as i64));
    let bytes = set.as_ptr().cast::<u8>();
    // SAFETY: the load is inside the set.
    let keys = unsafe { _mm256_loadu_si256(bytes.cast()) };
    let same = _mm256_movemask_pd(_mm256_castsi256_pd(_mm256_cmpeq_epi64(keys, key)));
    let at = usize::from(IDS_AT[same as usize & 15]);
    if at == 0 {
        return None;
    }
    let plain = _mm_set_epi32(-1, -1, -1, (1 << COUNT_SHIFT) - 1);
    // SAFETY: 16 bytes from 32 or 48 on are inside the set, and four ids are as good as a register.
    unsafe {
        let ids = _mm_and_si128(_mm_loadu_si128(bytes.add(at).cast()), plain);
        let count = bytes.add(at + 3).read();
        Some((std::mem::transmute::<__m128i, [u32; 4]>(ids), count.into()))
    }
}

/// `len` times the default value, in large pages where there is enough of it.
pub(crate) fn filled<T: Default>(len: usize) -> Vec<T> {
    let mut memory = Vec::with_capacity(len);
    prefer_huge_pages(&memory);
    memory.resize_with(len, T::default);
    memory
}

/// Asks for large pages, which the system zeroes and finds many times quicker than small ones.
pub(crate) fn prefer_huge_pages<T>(memory: &Vec<T>) {
    #[cfg(target_os = "linux")]
    {
        let start = memory.as_ptr() as usize;
        let end = start + memory.capacity() * size_of::<T>();
        let (first, last) = (
            start.next_multiple_of(HUGE_PAGE),
            end / HUGE_PAGE * HUGE_PAGE,
        );
        if first < last {
            // SAFETY: advice about whole pages that the vector owns; nothing but time depends on it.
            unsafe {
                libc::madvise(
                    first as *mut libc::c_void,
                    last - first,
                    libc::MADV_HUGEPAGE,
                );
            }
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = memory;
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
pub(crate) fn prefetch<T>(place: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing; any address is allowed.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(place.cast()) };
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: `prfm` reads nothing; any address is allowed.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{0}]", in(reg) place, options(nostack, readonly, preserves_flags));
    };
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = place;
}
