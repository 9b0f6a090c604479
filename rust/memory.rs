//! Pieces -> ids: what an encoder remembers, and the loop that looks pieces up.
//!
//! Pieces are handled in groups. First all keys are made, hashed and their cache lines asked for; then
//! each is compared with what came, and its ids are copied. Both loops are functions of their own, so
//! that all they need stays in registers; a piece that is not found where it should be leaves them.

use crate::cache::WordCache;
use crate::control::Control;
#[cfg(target_arch = "x86_64")]
use crate::encode::is_wide;
use crate::encode::{Scratch, merge};
use crate::error::{Error, Result};
use crate::pieces::{Group, LONG, Pieces};
use crate::sink::Sink;
use crate::vocab::Vocab;

/// What an encoder remembers between texts.
#[derive(Debug)]
pub(crate) struct Memory {
    cache: WordCache,
    scratch: Scratch,
    symbols: Vec<u32>,
    group: Group,
}

impl Memory {
    /// One that knows nothing yet.
    pub(crate) fn new() -> Box<Self> {
        Box::new(Self {
            cache: WordCache::new(),
            scratch: Scratch::default(),
            symbols: Vec::new(),
            group: Group::new(),
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
        start: usize,
        ends: &[usize],
        control: &Control,
        sink: &mut impl Sink,
    ) -> Result<usize> {
        let pieces = Pieces { text, start, ends };
        for group in pieces.groups() {
            control.check()?;
            self.look_up(vocab, group, control, sink)?;
        }
        Ok(pieces.last())
    }

    fn look_up<S: Sink>(
        &mut self,
        vocab: &Vocab,
        pieces: Pieces<'_>,
        control: &Control,
        sink: &mut S,
    ) -> Result<()> {
        if self.group.approach(self.cache.quick(), pieces) {
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
