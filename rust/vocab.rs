//! A vocabulary: ids <-> token bytes <-> merges, and the special tokens.
//!
//! Three numberings meet here. An *id* is what a model sees; a file may order ids as it likes and
//! leave gaps. A *symbol* is what merging works on: symbol `b` below 256 is the byte `b`, the others
//! follow in the order in which merges first make them. A *rank* is the place of a merge in its list;
//! the lowest rank that fits is merged first. A trained vocabulary has `id == symbol` and
//! `rank == symbol - 256`.
//!
//! Ranked token lists (`.tiktoken`) hold no merges. The merge of a token is recovered by merging its
//! bytes with the tokens ranked before it: a vocabulary made by BPE always ends with two parts. Where
//! every token does, "join the two neighbours whose bytes are the token of lowest rank" and "apply
//! the merges" give the same ids (induction over ranks: what stands between two boundaries evolves as
//! it would alone). Where some token does not, every way to cut every token into two tokens becomes a
//! pair of that token's rank, and a piece that is itself a token is taken whole.

use crate::cache::{Sets, Words, filled, prefetch};
use crate::control::Control;
use crate::encode::{Scratch, merge};
use crate::error::{Error, Result};
use crate::formats::printable::to_bytes;
use crate::hash::{hash_bytes, hash_key, hash_word};
use crate::pieces::{INLINE, key};
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::ops::Range;

/// Ids lie below this.
pub const MAX_IDS: u32 = 1 << 22;
/// Symbols lie below this (21 bits in a packed pair).
const MAX_SYMBOLS: usize = 1 << 21;
/// Merges number less than this (22 bits in a packed pair).
const MAX_MERGES: usize = (1 << 22) - 1;
/// All tokens together; a chain of doublings would otherwise claim any amount of memory.
const MAX_TOKEN_BYTES: usize = 1 << 28;
/// How far ahead of its use memory is asked for where whole vocabularies go through large tables.
const AHEAD: usize = 16;
/// Tokens that no merges form are cut at every place, which is quadratic in their length.
const MAX_UNFORMED_TOKEN: usize = 256;

/// The rank of a pair that never merges. `NO_RANK << 6 | position` still fits in 32 bits.
pub(crate) const NO_RANK: u32 = (1 << 26) - 1;

/// A token that text does not contain: it is written by name and stands for one id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Special {
    /// Its text, such as `<|endoftext|>`.
    pub text: String,
    /// Its id.
    pub id: u32,
    /// Found in every text, whatever the caller allows: an added token that its file calls ordinary.
    pub always: bool,
}

/// Token bytes by id; ids without a token are gaps.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    bytes: Vec<u8>,
    spans: Vec<Range<u32>>,
}

impl Tokens {
    /// None yet, with room for `tokens`.
    pub fn with_capacity(tokens: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(tokens * 8),
            spans: Vec::with_capacity(tokens),
        }
    }

    /// Gives `id` its bytes.
    ///
    /// # Errors
    /// A sentence where the id is taken or too large, the token empty, or all tokens too long.
    pub fn insert(&mut self, id: u32, token: &[u8]) -> std::result::Result<(), String> {
        if id >= MAX_IDS {
            return Err(format!("id {id} is too large: ids lie below {MAX_IDS}"));
        }
        if token.is_empty() {
            return Err(format!("the token with id {id} is empty"));
        }
        if self.bytes.len() + token.len() > MAX_TOKEN_BYTES {
            return Err(format!(
                "the tokens take more than {MAX_TOKEN_BYTES} bytes in all"
            ));
        }
        let slot = id as usize;
        if self.spans.len() <= slot {
            self.spans.resize(slot + 1, 0..0);
        }
        if !self.spans[slot].is_empty() {
            return Err(format!("two tokens have the id {id}"));
        }
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(token);
        self.spans[slot] = start..self.bytes.len() as u32;
        Ok(())
    }

    /// The token's bytes; empty for a gap or an id past the end.
    #[inline]
    pub fn get(&self, id: u32) -> &[u8] {
        match self.spans.get(id as usize) {
            Some(span) => &self.bytes[span.start as usize..span.end as usize],
            None => &[],
        }
    }

    /// One more than the largest id.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Ids that have a token, and its bytes, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &[u8])> {
        (0..self.len() as u32)
            .map(|id| (id, self.get(id)))
            .filter(|(_, token)| !token.is_empty())
    }
}

/// Merges as files spell them, in order of rank.
#[derive(Debug, Default)]
pub struct SpelledMerges {
    bytes: Vec<u8>,
    /// Where the right token begins, and where it ends.
    cuts: Vec<(usize, usize)>,
}

impl SpelledMerges {
    /// Adds the merge of next rank, whose tokens `left` and `right` append to the buffer.
    pub(crate) fn push(
        &mut self,
        left: impl FnOnce(&mut Vec<u8>),
        right: impl FnOnce(&mut Vec<u8>),
    ) {
        left(&mut self.bytes);
        let middle = self.bytes.len();
        right(&mut self.bytes);
        self.cuts.push((middle, self.bytes.len()));
    }

    /// Left token, right token, and both together.
    fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8], &[u8])> {
        let starts = [0].into_iter().chain(self.cuts.iter().map(|&(_, end)| end));
        starts.zip(&self.cuts).map(|(start, &(middle, end))| {
            let whole = &self.bytes[start..end];
            (&whole[..middle - start], &whole[middle - start..], whole)
        })
    }
}

/// Token bytes -> id: open addressing over the high half of the hash and one more than the id; 0 where
/// free.
#[derive(Debug, Default)]
struct Index {
    slots: Vec<u64>,
    longest: usize,
}

impl Index {
    const EMPTY: u64 = 0;

    /// Indexes all of `tokens` but the ids in `except`, which ascend.
    fn new(tokens: &Tokens, except: &[u32]) -> std::result::Result<Self, String> {
        let slots = (tokens.len() * 2).next_power_of_two().max(4);
        let mut index = Self {
            slots: filled(slots),
            longest: 0,
        };
        let hashed: Vec<(u32, u64)> = tokens
            .iter()
            .filter(|(id, _)| except.binary_search(id).is_err())
            .map(|(id, token)| (id, hash_bytes(token)))
            .collect();
        for (place, &(id, hash)) in hashed.iter().enumerate() {
            if let Some((_, later)) = hashed.get(place + AHEAD) {
                index.approach(*later);
            }
            let token = tokens.get(id);
            let slot = index.slot(tokens, token, hash);
            if index.slots[slot] != Self::EMPTY {
                let (other, text) = (index.slots[slot] as u32, String::from_utf8_lossy(token));
                return Err(format!(
                    "ids {} and {id} stand for the same token {text:?}",
                    other - 1
                ));
            }
            index.slots[slot] = hash >> 32 << 32 | u64::from(id + 1);
            index.longest = index.longest.max(token.len());
        }
        Ok(index)
    }

    /// Starts loading the slot of a token of this hash.
    fn approach(&self, hash: u64) {
        prefetch(&self.slots[hash as usize & (self.slots.len() - 1)]);
    }

    /// Starts loading the token that the slot of this hash speaks of.
    fn approach_token(&self, tokens: &Tokens, hash: u64) {
        let id = (self.slots[hash as usize & (self.slots.len() - 1)] as u32).wrapping_sub(1);
        if let Some(span) = tokens.spans.get(id as usize) {
            prefetch(tokens.bytes.as_ptr().wrapping_add(span.start as usize));
        }
    }

    /// Where `token` is, or would be.
    fn slot(&self, tokens: &Tokens, token: &[u8], hash: u64) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = hash as usize & mask;
        loop {
            let entry = self.slots[slot];
            let same = || entry >> 32 == hash >> 32 && tokens.get(entry as u32 - 1) == token;
            if entry == Self::EMPTY || same() {
                return slot;
            }
            slot = (slot + 1) & mask;
        }
    }

    fn get(&self, tokens: &Tokens, token: &[u8]) -> Option<u32> {
        if token.len() > self.longest {
            return None;
        }
        self.get_hashed(tokens, token, hash_bytes(token))
    }

    fn get_hashed(&self, tokens: &Tokens, token: &[u8], hash: u64) -> Option<u32> {
        let entry = self.slots[self.slot(tokens, token, hash)];
        (entry != Self::EMPTY).then(|| entry as u32 - 1)
    }
}

/// (left symbol, right symbol) -> rank, and rank -> the symbol made.
#[derive(Debug)]
pub(crate) struct MergeTable {
    /// Left in the top 21 bits, right in the next 21, one more than the rank in the last 22; `EMPTY`
    /// where free.
    slots: Words,
    shift: u32,
    /// The same for pairs of bytes, directly: `left << 8 | right`.
    byte_pairs: Vec<u32>,
    /// One bit for eight times the slots, set where a pair may be: most questions are about pairs that
    /// never merge, and this answers them from an eighth of the memory.
    filter: Words,
    products: Vec<u32>,
    /// Whether `products` are 256, 257, ..., so that nobody needs to read them.
    sequential: bool,
    /// Whether there is one pair a rank, and what it joins was made before.
    orderly: bool,
    /// Bytes of each symbol, where the table is orderly.
    lengths: Vec<u32>,
}

impl MergeTable {
    const EMPTY: u64 = 0;

    fn with_capacity(pairs: usize) -> Self {
        let slots = (pairs * 5 / 2).next_power_of_two().max(4);
        Self {
            slots: Words::new(slots),
            shift: 64 - slots.trailing_zeros(),
            byte_pairs: vec![NO_RANK; 1 << 16],
            filter: Words::new((slots / 8).max(1)),
            products: Vec::with_capacity(pairs),
            sequential: true,
            orderly: true,
            lengths: vec![1; 256],
        }
    }

    /// The merge of next rank: `left` and `right` make `product`. A pair keeps its first rank.
    fn push(&mut self, left: u32, right: u32, product: u32) {
        let orderly = self.orderly && left < product && right < product;
        self.make(product);
        self.orderly = orderly && self.sequential;
        if self.orderly {
            let length = |symbol: u32| self.lengths[symbol as usize];
            self.lengths
                .push(length(left).saturating_add(length(right)));
        }
        self.pair(left, right, self.products.len() as u32 - 1);
    }

    /// The rank after the last makes `product`, of pairs that are told apart from this.
    fn make(&mut self, product: u32) {
        self.orderly = false;
        self.sequential &= product == self.products.len() as u32 + 256;
        self.products.push(product);
    }

    /// Whether joining never makes a pair of lower rank than the one joined.
    pub(crate) fn is_orderly(&self) -> bool {
        self.orderly
    }

    /// How many bytes a symbol of an orderly table stands for.
    pub(crate) fn length(&self, symbol: u32) -> usize {
        self.lengths[symbol as usize] as usize
    }

    /// The word of the filter, and the bit in it, for a pair's hash.
    #[inline(always)]
    fn filter_bit(&self, hash: u64) -> (usize, u64) {
        let bit = (hash >> (self.shift - 3)) as usize;
        ((bit >> 6) & (self.filter.len() - 1), 1 << (bit & 63))
    }

    /// Gives a pair its rank, unless it has one.
    fn pair(&mut self, left: u32, right: u32, rank: u32) {
        let key = Self::key(left, right);
        let mask = self.slots.len() - 1;
        let (word, bit) = self.filter_bit(hash_word(key));
        self.filter[word] |= bit;
        let mut slot = (hash_word(key) >> self.shift) as usize;
        while self.slots[slot] != Self::EMPTY {
            if self.slots[slot] >> 22 == key {
                return;
            }
            slot = (slot + 1) & mask;
        }
        self.slots[slot] = key << 22 | u64::from(rank + 1);
        if left < 256 && right < 256 {
            self.byte_pairs[(left << 8 | right) as usize] = rank;
        }
    }

    #[inline(always)]
    fn key(left: u32, right: u32) -> u64 {
        u64::from(left) << 21 | u64::from(right)
    }

    /// Starts loading what [`MergeTable::rank`] reads.
    #[inline(always)]
    pub(crate) fn approach(&self, left: u32, right: u32) {
        let slot = (hash_word(Self::key(left, right)) >> self.shift) as usize;
        prefetch(self.slots.as_ptr().wrapping_add(slot));
    }

    /// The pair's rank, or [`NO_RANK`].
    #[inline(always)]
    pub(crate) fn rank(&self, left: u32, right: u32) -> u32 {
        let key = Self::key(left, right);
        let hash = hash_word(key);
        let (word, bit) = self.filter_bit(hash);
        if self.filter[word] & bit == 0 {
            return NO_RANK;
        }
        let mask = self.slots.len() - 1;
        let mut slot = (hash >> self.shift) as usize & mask;
        loop {
            let entry = self.slots[slot];
            if entry == Self::EMPTY {
                return NO_RANK;
            }
            if entry >> 22 == key {
                return (entry as u32 & ((1 << 22) - 1)) - 1;
            }
            slot = (slot + 1) & mask;
        }
    }

    /// The rank of a pair of bytes, or [`NO_RANK`].
    #[inline(always)]
    pub(crate) fn byte_rank(&self, left: u8, right: u8) -> u32 {
        self.byte_pairs[usize::from(left) << 8 | usize::from(right)]
    }

    /// The symbol that the merge of this rank makes.
    #[inline(always)]
    pub(crate) fn product(&self, rank: u32) -> u32 {
        if self.sequential {
            rank + 256
        } else {
            self.products[rank as usize]
        }
    }
}

/// All that encoding and decoding need to know of a tokenizer, but its pattern.
#[derive(Debug)]
pub struct Vocab {
    tokens: Tokens,
    index: Index,
    /// Symbol -> id.
    ids: Vec<u32>,
    /// In order of rank, as ids.
    merges: Vec<(u32, u32)>,
    pub(crate) table: MergeTable,
    specials: Vec<Special>,
    /// A piece that is a token is that token, whatever the merges say.
    whole_pieces: bool,
    /// The tokens that fit a cache key, where looking a piece up before merging it changes nothing or
    /// is the rule; some may be missing.
    short_tokens: Option<ShortTokens>,
    /// Whether `merges` say all that `table` does; not so for a ranked list with unformed tokens.
    exact_merges: bool,
}

impl Vocab {
    /// The vocabulary of trained merges: bytes are 0-255, merge `k` makes id `256 + k` of two lower
    /// ids, then come the special tokens.
    ///
    /// # Errors
    /// [`Error::Usage`] where a merge names a later id, repeats a pair, or tokens grow too large.
    pub fn from_merges(merges: &[(u32, u32)], specials: &[String]) -> Result<Self> {
        let mut tokens = Tokens::with_capacity(256 + merges.len());
        for byte in 0..=255_u8 {
            tokens.insert(byte.into(), &[byte]).map_err(Error::Usage)?;
        }
        let mut joined = Vec::new();
        for (&(left, right), id) in merges.iter().zip(256..) {
            if left >= id || right >= id {
                return Err(Error::usage(format!(
                    "merge {} joins {left} and {right}, but ids from {id} on are not made yet",
                    id - 256
                )));
            }
            joined.clear();
            joined.extend_from_slice(tokens.get(left));
            joined.extend_from_slice(tokens.get(right));
            tokens.insert(id, &joined).map_err(Error::Usage)?;
        }
        let made = (256..)
            .zip(merges)
            .map(|(id, &(left, right))| [left, right, id])
            .collect();
        let first = tokens.len() as u32;
        let specials: Vec<Special> = (first..)
            .zip(specials)
            .map(|(id, text)| special(text.clone(), id))
            .collect();
        let special_ids = add_specials(&mut tokens, &specials).map_err(Error::Usage)?;
        let index = Index::new(&tokens, &special_ids).map_err(Error::Usage)?;
        Self::assemble(tokens, index, made, specials, &special_ids, false).map_err(Error::Usage)
    }

    /// The vocabulary of given ids and merges spelled in bytes. Special tokens need not be among
    /// `tokens`.
    ///
    /// # Errors
    /// A sentence where a byte has no token, ids or tokens are claimed twice, or a merge names or
    /// makes what is no token.
    pub fn from_spelled_merges(
        mut tokens: Tokens,
        merges: &SpelledMerges,
        specials: Vec<Special>,
        whole_pieces: bool,
    ) -> std::result::Result<Self, String> {
        let special_ids = add_specials(&mut tokens, &specials)?;
        let index = Index::new(&tokens, &special_ids)?;
        byte_ids(&tokens, &index)?;
        let merges = find_merges(&tokens, &index, &special_ids, merges)?;
        Self::assemble(tokens, index, merges, specials, &special_ids, whole_pieces)
    }

    /// Puts together tokens and merges, which hold left, right and made id in order of rank.
    fn assemble(
        tokens: Tokens,
        index: Index,
        merges: Vec<[u32; 3]>,
        specials: Vec<Special>,
        special_ids: &[u32],
        whole_pieces: bool,
    ) -> std::result::Result<Self, String> {
        if merges.len() >= MAX_MERGES {
            return Err(format!(
                "{} merges are too many: the limit is {MAX_MERGES}",
                merges.len()
            ));
        }
        check_specials(&specials, &tokens, &index)?;
        let mut ids = byte_ids(&tokens, &index)?;
        let mut symbols = vec![u32::MAX; tokens.len()];
        for (&id, byte) in ids.iter().zip(0..) {
            symbols[id as usize] = byte;
        }
        // Products first, so that a trained vocabulary keeps symbol == id.
        let products = merges.iter().map(|merge| merge[2]);
        for id in products.chain(merges.iter().flat_map(|merge| [merge[0], merge[1]])) {
            let symbol = &mut symbols[id as usize];
            if *symbol == u32::MAX {
                *symbol = ids.len() as u32;
                ids.push(id);
            }
        }
        if ids.len() > MAX_SYMBOLS {
            return Err(format!(
                "{} tokens are too many: the limit is {MAX_SYMBOLS}",
                ids.len()
            ));
        }
        let mut table = MergeTable::with_capacity(merges.len());
        for (rank, &[left, right, product]) in merges.iter().enumerate() {
            let symbol = |id: u32| symbols[id as usize];
            if let Some(&[left, right, _]) = merges.get(rank + AHEAD) {
                table.approach(symbol(left), symbol(right));
            }
            if table.rank(symbol(left), symbol(right)) != NO_RANK {
                return Err(format!(
                    "merge {rank} joins ids {left} and {right}, which an earlier merge joins"
                ));
            }
            table.push(symbol(left), symbol(right), symbol(product));
        }
        let merges = merges
            .into_iter()
            .map(|[left, right, _]| (left, right))
            .collect();
        let takes_whole = whole_pieces
            || unformed(&tokens, special_ids, &table, &ids)
                .next()
                .is_none();
        let short_tokens = takes_whole.then(|| ShortTokens::new(&tokens, special_ids));
        Ok(Self {
            tokens,
            index,
            ids,
            merges,
            table,
            specials,
            whole_pieces,
            short_tokens,
            exact_merges: true,
        })
    }

    /// The vocabulary of tokens whose ids are their ranks, as `.tiktoken` files hold them.
    ///
    /// # Errors
    /// A sentence where a byte has no token, or ids or tokens are claimed twice.
    pub fn from_ranks(
        mut tokens: Tokens,
        specials: Vec<Special>,
    ) -> std::result::Result<Self, String> {
        let ranked: Vec<u32> = tokens
            .iter()
            .filter(|(_, token)| token.len() > 1)
            .map(|(id, _)| id)
            .collect();
        if ranked.len() + 256 > MAX_SYMBOLS {
            return Err(format!(
                "{} tokens are too many: the limit is {MAX_SYMBOLS}",
                ranked.len()
            ));
        }
        let special_ids = add_specials(&mut tokens, &specials)?;
        let index = Index::new(&tokens, &special_ids)?;
        check_specials(&specials, &tokens, &index)?;
        let mut ids = byte_ids(&tokens, &index)?;
        let mut table = MergeTable::with_capacity(ranked.len());
        let mut merges = Vec::with_capacity(ranked.len());
        let (mut scratch, mut parts) = (Scratch::default(), Vec::new());
        for (&id, symbol) in ranked.iter().zip(256..) {
            parts.clear();
            formed(&table, tokens.get(id), &mut scratch, &mut parts);
            ids.push(id);
            match parts[..] {
                [left, right] => {
                    table.push(left, right, symbol);
                    merges.push((ids[left as usize], ids[right as usize]));
                }
                _ => table.make(symbol),
            }
        }
        let exact_merges = merges.len() == ranked.len();
        let short_tokens = ShortTokens::new(&tokens, &special_ids);
        if !exact_merges {
            table = pair_all_cuts(&tokens, &index, &ids)?;
        }
        Ok(Self {
            tokens,
            index,
            ids,
            merges,
            table,
            specials,
            whole_pieces: !exact_merges,
            short_tokens: Some(short_tokens),
            exact_merges,
        })
    }

    /// One more than the largest id.
    pub fn size(&self) -> usize {
        self.tokens.len()
    }

    /// The tokens by id, special ones included.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// The id of a token, or of a special token by its text.
    pub fn id(&self, token: &[u8]) -> Option<u32> {
        let special = || {
            self.specials
                .iter()
                .find(|special| special.text.as_bytes() == token)
        };
        self.index
            .get(&self.tokens, token)
            .or_else(|| special().map(|special| special.id))
    }

    /// The tokens that fit a cache key, where a piece that is a token may be taken whole.
    pub(crate) fn short_tokens(&self) -> Option<&Sets> {
        self.short_tokens.as_ref().map(|tokens| &tokens.sets)
    }

    /// The id of a piece that need not be merged, or may not be, because it is a token. A short
    /// piece comes with the word cache's key.
    pub(crate) fn whole(&self, piece: &[u8], short: Option<u128>) -> Option<u32> {
        let found = short
            .zip(self.short_tokens.as_ref())
            .and_then(|(key, tokens)| tokens.find(key));
        let look = || self.index.get(&self.tokens, piece);
        found.or_else(|| if self.whole_pieces { look() } else { None })
    }

    /// Left and right id of each merge, in order of rank.
    pub fn merges(&self) -> &[(u32, u32)] {
        &self.merges
    }

    /// Whether the merges alone make the same ids.
    pub fn has_exact_merges(&self) -> bool {
        self.exact_merges
    }

    /// The ordinary tokens, ascending, that merging their bytes does not give.
    pub(crate) fn unformed(&self) -> Vec<u32> {
        let mut specials: Vec<u32> = self.specials.iter().map(|special| special.id).collect();
        specials.sort_unstable();
        unformed(&self.tokens, &specials, &self.table, &self.ids).collect()
    }

    /// Whether a piece that is a token is taken whole, whatever the merges say.
    pub fn whole_pieces(&self) -> bool {
        self.whole_pieces
    }

    /// The special tokens, in the order in which they were given.
    pub fn specials(&self) -> &[Special] {
        &self.specials
    }

    /// The id that begins each document: that of the first special token which names an end of text.
    pub fn end_of_text(&self) -> Option<u32> {
        let names = ["<|endoftext|>", "<|end_of_text|>", "</s>"];
        names
            .iter()
            .find_map(|name| self.specials.iter().find(|special| special.text == *name))
            .map(|special| special.id)
    }

    /// Whether ids are bytes: no merges, and id `b` is the byte `b`.
    pub fn is_bytes(&self) -> bool {
        self.merges.is_empty()
            && self.exact_merges
            && self.ids.len() == 256
            && (0..256).all(|byte| self.ids[byte as usize] == byte)
    }

    /// Symbol -> id.
    #[inline(always)]
    pub(crate) fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Feeds everything that decides ids into a hash.
    pub(crate) fn digest(&self, hash: &mut Sha256) {
        hash.update([u8::from(self.whole_pieces)]);
        for (id, token) in self.tokens.iter() {
            hash.update(id.to_le_bytes());
            hash.update((token.len() as u32).to_le_bytes());
            hash.update(token);
        }
        hash.update(u32::MAX.to_le_bytes());
        for &(left, right) in &self.merges {
            hash.update(left.to_le_bytes());
            hash.update(right.to_le_bytes());
        }
        hash.update(u32::MAX.to_le_bytes());
        for special in &self.specials {
            hash.update(special.id.to_le_bytes());
            hash.update([u8::from(special.always)]);
        }
    }
}

/// A special token that is found only where the caller allows it.
pub(crate) fn special(text: String, id: u32) -> Special {
    Special {
        text,
        id,
        always: false,
    }
}

/// Puts special tokens among the tokens, where they are not there already; returns their ids, ascending.
fn add_specials(
    tokens: &mut Tokens,
    specials: &[Special],
) -> std::result::Result<Vec<u32>, String> {
    let (mut ids, mut texts) = (HashSet::new(), HashSet::new());
    for special in specials {
        if !ids.insert(special.id) || !texts.insert(&special.text) {
            return Err(format!(
                "the special token {:?} (id {}) is given twice",
                special.text, special.id
            ));
        }
        if special.text.is_empty() {
            return Err(format!("the special token with id {} is empty", special.id));
        }
        if tokens.get(special.id) != special.text.as_bytes() {
            tokens
                .insert(special.id, special.text.as_bytes())
                .map_err(|what| format!("special token {:?}: {what}", special.text))?;
        }
    }
    let mut ids: Vec<u32> = ids.into_iter().collect();
    ids.sort_unstable();
    Ok(ids)
}

/// Left, right and made id of each merge.
///
/// # Errors
/// A sentence where a merge names or makes what is no token.
fn find_merges(
    tokens: &Tokens,
    index: &Index,
    special_ids: &[u32],
    merges: &SpelledMerges,
) -> std::result::Result<Vec<[u32; 3]>, String> {
    let missing = |token: &[u8]| {
        format!(
            "a merge names {:?}, which is no token",
            String::from_utf8_lossy(token)
        )
    };
    let hashes: Vec<[u64; 2]> = merges
        .iter()
        .map(|(left, right, _)| [left, right].map(hash_bytes))
        .collect();
    // Most lists make their tokens in the order of ids, which saves looking those up.
    let mut next = 0;
    merges
        .iter()
        .enumerate()
        .map(|(place, (left, right, whole))| {
            for &hash in hashes.get(place + 2 * AHEAD).into_iter().flatten() {
                index.approach(hash);
            }
            for &hash in hashes.get(place + AHEAD).into_iter().flatten() {
                index.approach_token(tokens, hash);
            }
            let find = |token: &[u8], hash: u64| {
                let found = index.get_hashed(tokens, token, hash);
                found.ok_or_else(|| missing(token))
            };
            let [before, after] = hashes[place];
            let (left, right) = (find(left, before)?, find(right, after)?);
            let made = if tokens.get(next) == whole && special_ids.binary_search(&next).is_err() {
                next
            } else {
                find(whole, hash_bytes(whole))?
            };
            next = made + 1;
            Ok([left, right, made])
        })
        .collect()
}

/// The ordinary tokens of at most [`INLINE`] bytes, as the word cache holds pieces.
#[derive(Debug)]
struct ShortTokens {
    sets: Sets,
    /// Sixteen bits a set, set where a token may be: most pieces that are asked for are no token, and
    /// memory for all tokens is far away.
    filter: Words,
    shift: u32,
}

impl ShortTokens {
    fn new(tokens: &Tokens, specials: &[u32]) -> Self {
        let short: Vec<(u128, u32)> = tokens
            .iter()
            .filter(|(id, token)| token.len() <= INLINE && specials.binary_search(id).is_err())
            .map(|(id, token)| (key(token, 0, token.len()), id))
            .collect();
        let sets = (short.len() / 2).next_power_of_two().max(4);
        let mut all = Self {
            sets: Sets::new(sets),
            filter: Words::new(sets * 16 / 64),
            shift: 64 - (sets * 16).trailing_zeros(),
        };
        for (place, &(key, id)) in short.iter().enumerate() {
            if let Some((later, _)) = short.get(place + AHEAD) {
                all.sets.approach(*later);
            }
            all.sets.place_one(key, id);
            let (word, bit) = all.filter_bit(hash_key(key));
            all.filter[word] |= bit;
        }
        all
    }

    fn filter_bit(&self, hash: u64) -> (usize, u64) {
        let bit = hash >> self.shift;
        ((bit / 64) as usize, 1 << (bit % 64))
    }

    fn find(&self, key: u128) -> Option<u32> {
        let hash = hash_key(key);
        let (word, bit) = self.filter_bit(hash);
        let may_be = self.filter[word] & bit != 0;
        let (ids, _) = may_be.then(|| self.sets.find(hash, key))??;
        Some(ids[0])
    }
}

/// Appends the symbols of a token.
fn formed(table: &MergeTable, token: &[u8], scratch: &mut Scratch, symbols: &mut Vec<u32>) {
    let uninterrupted = merge(table, token, scratch, symbols, &Control::new());
    debug_assert!(uninterrupted.is_ok());
}

/// The ordinary tokens whose bytes merge into something else, ascending.
fn unformed<'a>(
    tokens: &'a Tokens,
    specials: &'a [u32],
    table: &'a MergeTable,
    ids: &'a [u32],
) -> impl Iterator<Item = u32> + 'a {
    let (mut scratch, mut symbols) = (Scratch::default(), Vec::new());
    let mut forms = move |id: u32, token: &[u8]| {
        symbols.clear();
        formed(table, token, &mut scratch, &mut symbols);
        matches!(symbols[..], [symbol] if ids[symbol as usize] == id)
    };
    tokens
        .iter()
        .filter(move |&(id, token)| !specials.contains(&id) && !forms(id, token))
        .map(|(id, _)| id)
}

/// Refuses a special token that files would write as they write an ordinary one.
fn check_specials(
    specials: &[Special],
    tokens: &Tokens,
    index: &Index,
) -> std::result::Result<(), String> {
    let mut bytes = Vec::new();
    for special in specials {
        bytes.clear();
        if to_bytes(&special.text, &mut bytes).is_ok()
            && let Some(id) = index.get(tokens, &bytes)
        {
            return Err(format!(
                "the special token {:?} is spelled like the ordinary token with id {id}; choose a text that no merge can make, such as <|name|>",
                special.text
            ));
        }
    }
    Ok(())
}

/// The ids of the 256 bytes.
fn byte_ids(tokens: &Tokens, index: &Index) -> std::result::Result<Vec<u32>, String> {
    (0..=255_u8)
        .map(|byte| index.get(tokens, &[byte]).ok_or_else(|| format!("no token stands for the byte 0x{byte:02x}; a byte-level vocabulary needs all 256")))
        .collect()
}

/// The table in which any two tokens whose bytes make a third merge with that one's rank.
fn pair_all_cuts(
    tokens: &Tokens,
    index: &Index,
    ids: &[u32],
) -> std::result::Result<MergeTable, String> {
    let mut symbols = vec![u32::MAX; tokens.len()];
    for (&id, symbol) in ids.iter().zip(0..) {
        symbols[id as usize] = symbol;
    }
    let symbol = |token: &[u8]| {
        index
            .get(tokens, token)
            .map(|id| symbols[id as usize])
            .filter(|&symbol| symbol != u32::MAX)
    };
    let mut pairs = Vec::new();
    for (rank, &id) in ids[256..].iter().enumerate() {
        let token = tokens.get(id);
        if token.len() > MAX_UNFORMED_TOKEN {
            return Err(format!(
                "id {id} is {} bytes long, but in a list where merges do not form every token the limit is {MAX_UNFORMED_TOKEN}",
                token.len()
            ));
        }
        for cut in 1..token.len() {
            if let (Some(left), Some(right)) = (symbol(&token[..cut]), symbol(&token[cut..])) {
                pairs.push((left, right, rank as u32));
            }
        }
    }
    let mut table = MergeTable::with_capacity(pairs.len());
    for (left, right, rank) in pairs {
        table.pair(left, right, rank);
    }
    (256..ids.len() as u32).for_each(|symbol| table.make(symbol));
    Ok(table)
}
