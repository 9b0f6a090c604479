//! Pieces as keys, many at a time: how the encoder's memory and the counter approach their tables.
//!
//! A table of short pieces is larger than the nearer caches, so pieces are handled in groups: first all
//! keys are made and the places asked for where the table has them, then each is looked at.

/// The longest piece that fits a key: fifteen bytes and the length.
pub(crate) const INLINE: usize = 15;
/// Keys from here on are of pieces that are too long for one; their low half is for a hash.
pub(crate) const LONG: u128 = 0xFF << 120;
/// A group has about so many pieces, and less than twice as many.
const TOGETHER: usize = 256;
/// A group has no more.
pub(crate) const MOST: usize = 2 * TOGETHER;

/// A table that knows from a key alone where the piece would be.
pub(crate) trait Places: Copy {
    /// Starts loading the place of a short piece; returns it. For a long one the place means nothing.
    fn approach(self, key: u128) -> u32;
}

/// A stretch of text and the ends of some of its pieces, the first of which begins at `start`.
#[derive(Clone, Copy)]
pub(crate) struct Pieces<'a> {
    pub(crate) text: &'a [u8],
    pub(crate) start: usize,
    pub(crate) ends: &'a [usize],
}

impl<'a> Pieces<'a> {
    /// Groups of them, in order, as even as can be: one of a few pieces would cost what a whole one
    /// does.
    pub(crate) fn groups(self) -> impl Iterator<Item = Self> {
        let Self {
            text,
            mut start,
            ends,
        } = self;
        let groups = (ends.len() / TOGETHER).max(1);
        ends.chunks(ends.len().div_ceil(groups).max(1))
            .map(move |ends| {
                let group = Self { text, start, ends };
                start = group.last();
                group
            })
    }

    /// The last end.
    pub(crate) fn last(self) -> usize {
        self.ends.last().copied().unwrap_or(self.start)
    }

    /// Where the piece in this place begins.
    pub(crate) fn start_of(self, place: usize) -> usize {
        place.checked_sub(1).map_or(self.start, |at| self.ends[at])
    }

    /// The piece in this place.
    pub(crate) fn get(self, place: usize) -> &'a [u8] {
        &self.text[self.start_of(place)..self.ends[place]]
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
}

/// The keys of the pieces that are looked up together.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) keys: [u128; MOST],
    /// Where the table would have each.
    pub(crate) places: [u32; MOST],
}

impl Group {
    /// Room for keys.
    pub(crate) fn new() -> Self {
        Self {
            keys: [0; MOST],
            places: [0; MOST],
        }
    }

    /// Makes the keys of a group, [`LONG`] for a piece that is too long, and approaches their places;
    /// whether some piece is too long.
    pub(crate) fn approach(&mut self, table: impl Places, pieces: Pieces<'_>) -> bool {
        let Self { keys, places } = self;
        // Far from the end of the text no piece needs to ask whether sixteen bytes can be read.
        #[cfg(target_arch = "x86_64")]
        if crate::encode::is_wide() {
            let (inside, at_end) = pieces.inside();
            let ((keys, end_keys), (places, end_places)) = (
                keys.split_at_mut(inside.ends.len()),
                places.split_at_mut(inside.ends.len()),
            );
            // SAFETY: the processor has the features, and sixteen bytes can be read from each piece on.
            let long = unsafe { approach_wide(table, inside, keys, places) };
            return approach_any(table, at_end, end_keys, end_places) | long;
        }
        approach_any(table, pieces, keys, places)
    }
}

/// [`Group::approach`] wherever the pieces are.
fn approach_any(
    table: impl Places,
    pieces: Pieces<'_>,
    keys: &mut [u128],
    places: &mut [u32],
) -> bool {
    let (mut from, mut long) = (pieces.start, false);
    for ((slot, place), &end) in keys.iter_mut().zip(places).zip(pieces.ends) {
        *slot = LONG;
        if end - from <= INLINE {
            *slot = key(pieces.text, from, end);
            *place = table.approach(*slot);
        }
        long |= *slot == LONG;
        from = end;
    }
    long
}

/// [`Group::approach`] for AVX2.
///
/// # Safety
/// Pieces begin sixteen bytes before the text ends, at least.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
#[inline(never)]
unsafe fn approach_wide(
    table: impl Places,
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
        *place = table.approach(*slot);
        from = end;
    }
    longest > INLINE
}

/// For each length, the bytes of a key that belong to the piece, and the length in its place; of a piece
/// that is too long, none and what no key has there.
static MASKS: [[u128; 2]; INLINE + 2] = {
    let mut masks = [[0, 0xFF << 120]; INLINE + 2];
    let mut length = 1;
    while length <= INLINE {
        masks[length] = [u128::MAX >> (128 - 8 * length), (length as u128) << 120];
        length += 1;
    }
    masks
};

/// The key of `text[start..end]`, of 1 to [`INLINE`] bytes.
#[inline(always)]
pub(crate) fn key(text: &[u8], start: usize, end: usize) -> u128 {
    match text.get(start..start + 16) {
        Some(window) => {
            let mut sixteen = [0; 16];
            sixteen.copy_from_slice(window);
            key_of(sixteen, end - start)
        }
        None => {
            let mut sixteen = [0; 16];
            sixteen[..end - start].copy_from_slice(&text[start..end]);
            key_of(sixteen, end - start)
        }
    }
}

/// The key of the first `length` bytes, 1 to [`INLINE`]; for one more, a key that no piece has.
#[inline(always)]
pub(crate) fn key_of(sixteen: [u8; 16], length: usize) -> u128 {
    let [mask, last] = MASKS[length];
    u128::from_le_bytes(sixteen) & mask | last
}
