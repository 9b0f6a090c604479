//! Pieces -> ids: what an encoder remembers, and the loop that looks pieces up.
//!
//! Pieces are handled in groups. First all keys are made, hashed and their cache lines asked for; then
//! each is compared with what came, and its ids are copied. Both loops are functions of their own, so
//! that all they need stays in registers; a piece that is not found where it should be leaves them.

use crate::cache::{INLINE, Quick, WordCache, key, key_of};
use crate::control::Control;
#[cfg(target_arch = "x86_64")]
use crate::encode::is_wide;
use crate::encode::{Scratch, merge};
use crate::error::{Error, Result};
use crate::sink::Sink;
use crate::vocab::Vocab;

/// A group has about so many pieces, and less than twice as many.
const TOGETHER: usize = 256;
/// Keys from here on are of pieces that are too long for one: no set holds them, and their low half
/// is the hash that finds their record.
const LONG: u128 = 0xFF << 120;

/// What an encoder remembers between texts.
#[derive(Debug)]
pub(crate) struct Memory {
    cache: WordCache,
    scratch: Scratch,
    symbols: Vec<u32>,
    group: Group,
}

/// The pieces that are looked up together.
#[derive(Debug)]
struct Group {
    keys: [u128; 2 * TOGETHER],
    /// Where the set of each begins.
    places: [u32; 2 * TOGETHER],
}

/// A stretch of text and the ends of some of its pieces, the first of which begins at `start`.
#[derive(Clone, Copy)]
struct Pieces<'a> {
    text: &'a [u8],
    start: usize,
    ends: &'a [usize],
}

impl<'a> Pieces<'a> {
    fn last(self) -> usize {
        self.ends.last().copied().unwrap_or(self.start)
    }

    /// Those that begin sixteen bytes before the text ends, at least, and the others.
    #[cfg(target_arch = "x86_64")]
    fn inside(self) -> (Self, Self) {
        let Some(limit) = self
            .text
            .len()
            .checked_sub(16)
            .filter(|&at| self.start <= at)
        else {
            return (Self { ends: &[], ..self }, self);
        };
        let count = self.ends.partition_point(|&end| end <= limit) + 1;
        let (inside, others) = self.ends.split_at(count.min(self.ends.len()));
        let inside = Self {
            ends: inside,
            ..self
        };
        let start = inside.last();
        (
            inside,
            Self {
                start,
                ends: others,
                ..self
            },
        )
    }

    fn get(self, place: usize) -> &'a [u8] {
        let from = place.checked_sub(1).map_or(self.start, |at| self.ends[at]);
        &self.text[from..self.ends[place]]
    }
}

impl Memory {
    /// One that knows nothing yet.
    pub(crate) fn new() -> Box<Self> {
        Box::new(Self {
            cache: WordCache::new(),
            scratch: Scratch::default(),
            symbols: Vec::new(),
            group: Group {
                keys: [0; 2 * TOGETHER],
                places: [0; 2 * TOGETHER],
            },
        })
    }

    /// Encodes the pieces of `text` that end at `ends`, the first of which begins at `start`; returns
    /// the last end.
    ///
    /// # Errors
    /// [`Error::Usage`] where a piece is too long; [`Error::Interrupted`].
    pub(crate) fn encode(
        &mut self,
        vocab: &Vocab,
        text: &[u8],
        mut start: usize,
        ends: &[usize],
        control: &Control,
        sink: &mut impl Sink,
    ) -> Result<usize> {
        // As even as can be: a group of a few pieces would cost what a whole one does.
        let groups = (ends.len() / TOGETHER).max(1);
        for ends in ends.chunks(ends.len().div_ceil(groups).max(1)) {
            let pieces = Pieces { text, start, ends };
            control.check()?;
            self.look_up(vocab, pieces, control, sink)?;
            start = pieces.last();
        }
        Ok(start)
    }

    fn look_up<S: Sink>(
        &mut self,
        vocab: &Vocab,
        pieces: Pieces<'_>,
        control: &Control,
        sink: &mut S,
    ) -> Result<()> {
        let quick = self.cache.quick();
        if approach(quick, pieces, &mut self.group) {
            self.approach_long(pieces);
        }
        let mut cursor = sink.open(pieces.ends.len());
        let mut place = 0;
        loop {
            (place, cursor) =
                copy_known::<S>(&self.cache, &self.group, place..pieces.ends.len(), cursor);
            if place == pieces.ends.len() {
                break;
            }
            sink.close(cursor);
            self.other(
                vocab,
                pieces.get(place),
                self.group.keys[place],
                control,
                sink,
            )?;
            place += 1;
            cursor = sink.open(pieces.ends.len() - place);
        }
        sink.close(cursor);
        Ok(())
    }

    /// Gives long pieces their hashes, and asks for what is known of them.
    #[inline(never)]
    fn approach_long(&mut self, pieces: Pieces<'_>) {
        let keys = &mut self.group.keys[..pieces.ends.len()];
        for (place, key) in keys.iter_mut().enumerate() {
            if *key >= LONG {
                *key = LONG | u128::from(self.cache.approach_long(pieces.get(place)));
            }
        }
        for key in keys.iter().filter(|key| **key >= LONG) {
            self.cache.approach_record(*key as u64);
        }
    }

    /// A piece whose ids are not in its set: from elsewhere in the cache, or made and remembered.
    #[inline(never)]
    fn other(
        &mut self,
        vocab: &Vocab,
        piece: &[u8],
        key: u128,
        control: &Control,
        sink: &mut impl Sink,
    ) -> Result<()> {
        if key >= LONG {
            if let Some(ids) = self.cache.many(key as u64, piece) {
                sink.many(ids.iter().map(|id| u32::from_le_bytes(*id)));
                return Ok(());
            }
        } else if let Some((ids, count)) = self.cache.few_anywhere(key) {
            if count <= 4 {
                sink.many(ids[..count].iter().copied());
                return Ok(());
            }
            if let Some((ids, count)) = self.cache.listed(ids) {
                sink.many(ids[..count].iter().copied());
                return Ok(());
            }
        }
        self.make(vocab, piece, key, control)?;
        if key >= LONG {
            self.cache.insert_long(key as u64, piece, &self.symbols);
        } else {
            let seeds = vocab.short_tokens();
            self.cache.insert(key, &self.symbols, seeds);
        }
        sink.many(self.symbols.iter().copied());
        Ok(())
    }

    /// Leaves the ids of a piece in `symbols`.
    fn make(&mut self, vocab: &Vocab, piece: &[u8], key: u128, control: &Control) -> Result<()> {
        if piece.len() >= u32::MAX as usize {
            return Err(Error::usage(format!(
                "a piece of {} bytes without a split point is too long: the limit is 4 GiB",
                piece.len()
            )));
        }
        self.symbols.clear();
        if let Some(id) = vocab.whole(piece, (key < LONG).then_some(key)) {
            self.symbols.push(id);
            return Ok(());
        }
        merge(
            &vocab.table,
            piece,
            &mut self.scratch,
            &mut self.symbols,
            control,
        )?;
        for symbol in &mut self.symbols {
            *symbol = vocab.ids()[*symbol as usize];
        }
        Ok(())
    }
}

/// Leaves for each piece its key, [`LONG`] for one that is long, and the place of its set, which is then
/// on its way; whether some piece is long.
fn approach(quick: Quick<'_>, pieces: Pieces<'_>, group: &mut Group) -> bool {
    let Group { keys, places } = group;
    // Far from the end of the text no piece needs to ask whether sixteen bytes can be read.
    #[cfg(target_arch = "x86_64")]
    if is_wide() {
        let (inside, at_end) = pieces.inside();
        let ((keys, end_keys), (places, end_places)) = (
            keys.split_at_mut(inside.ends.len()),
            places.split_at_mut(inside.ends.len()),
        );
        // SAFETY: the processor has the features, and sixteen bytes can be read from each piece on.
        let long = unsafe { approach_wide(quick, inside, keys, places) };
        return approach_any(quick, at_end, end_keys, end_places) | long;
    }
    approach_any(quick, pieces, keys, places)
}

/// [`approach`] wherever the pieces are.
fn approach_any(
    quick: Quick<'_>,
    pieces: Pieces<'_>,
    keys: &mut [u128],
    places: &mut [u32],
) -> bool {
    let (mut from, mut long) = (pieces.start, false);
    for ((slot, place), &end) in keys.iter_mut().zip(places).zip(pieces.ends) {
        *slot = LONG;
        if end - from <= INLINE {
            *slot = key(pieces.text, from, end);
            *place = quick.approach(*slot);
        }
        long |= *slot == LONG;
        from = end;
    }
    long
}

/// [`approach`] for AVX2.
///
/// # Safety
/// Pieces begin sixteen bytes before the text ends, at least.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
#[inline(never)]
unsafe fn approach_wide(
    quick: Quick<'_>,
    pieces: Pieces<'_>,
    keys: &mut [u128],
    places: &mut [u32],
) -> bool {
    let (mut from, mut longest) = (pieces.start, 0);
    for ((slot, place), &end) in keys.iter_mut().zip(places).zip(pieces.ends) {
        let length = end - from;
        longest |= length;
        // SAFETY: the caller's condition.
        let sixteen = unsafe { *pieces.text.as_ptr().add(from).cast() };
        *slot = key_of(sixteen, length.min(INLINE + 1));
        *place = quick.approach(*slot);
        from = end;
    }
    longest > INLINE
}

/// Copies the ids of the pieces in `places` up to the first that its set does not have; returns the place
/// of that one, or the end.
fn copy_known<S: Sink>(
    cache: &WordCache,
    group: &Group,
    places: std::ops::Range<usize>,
    cursor: S::Cursor,
) -> (usize, S::Cursor) {
    #[cfg(target_arch = "x86_64")]
    if is_wide() {
        // SAFETY: the processor has the features that the function is compiled for.
        return unsafe { copy_known_wide::<S>(cache, group, places, cursor) };
    }
    copy_known_by::<false, S>(cache, group, places, cursor)
}

/// [`copy_known`] for AVX2, which compares two keys at once.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
#[inline(never)]
fn copy_known_wide<S: Sink>(
    cache: &WordCache,
    group: &Group,
    places: std::ops::Range<usize>,
    cursor: S::Cursor,
) -> (usize, S::Cursor) {
    copy_known_by::<true, S>(cache, group, places, cursor)
}

#[inline(always)]
fn copy_known_by<const WIDE: bool, S: Sink>(
    cache: &WordCache,
    group: &Group,
    places: std::ops::Range<usize>,
    mut cursor: S::Cursor,
) -> (usize, S::Cursor) {
    let quick = cache.quick();
    let end = places.end.min(group.keys.len());
    for place in places.start..end {
        let known = quick.few::<WIDE>(group.places[place], group.keys[place]);
        let Some((ids, count)) = known else {
            return (place, cursor);
        };
        if count <= 4 {
            // SAFETY: one call a piece.
            unsafe { S::few(&mut cursor, &ids, count) };
        } else if let Some((ids, count)) = cache.listed(ids) {
            // SAFETY: one call a piece.
            unsafe { S::few(&mut cursor, ids, count) };
        } else {
            return (place, cursor);
        }
    }
    (end, cursor)
}
