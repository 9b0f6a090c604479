//! One piece -> symbols: the merges of lowest rank first, leftmost first among equals.
//!
//! Pieces of up to [`SHORT`] bytes merge in arrays on the stack: each live position holds the packed
//! (rank, position) of the pair that begins there, one minimum over the array finds the next merge,
//! and a bit mask of live positions stands for the list of parts. That is quadratic, but in vector
//! registers. Longer pieces take a heap over a linked list, O(n log n) whatever the bytes.

use crate::control::Control;
use crate::error::Result;
use crate::vocab::{MergeTable, NO_RANK};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

/// The longest piece that merges on the stack: one bit of a `u64` each.
pub(crate) const SHORT: usize = 64;

/// Symbols on either side of an edge that are merged anew before the heap is asked.
const REACH: usize = 32;
/// Bytes that may be merged anew for each byte of the piece.
const MENDING: usize = 8;

/// Memory that merging long pieces uses again and again.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// What stands around an edge.
    middle: Vec<u32>,
    /// The part at each position, [`GONE`] where the position lies inside a part.
    symbols: Vec<u32>,
    /// First position of the next part, and of the one before.
    next: Vec<u32>,
    previous: Vec<u32>,
    /// (rank, position), lowest first. Entries that no longer hold are skipped when met.
    queue: BinaryHeap<Reverse<u64>>,
}

/// Past the ends of a linked list.
const NOWHERE: u32 = u32::MAX;
/// The symbol of a position that was merged into the part on its left.
const GONE: u32 = u32::MAX;

/// Appends the symbols of one piece.
///
/// # Errors
/// [`crate::Error::Interrupted`], where the piece is long.
pub(crate) fn merge(
    table: &MergeTable,
    piece: &[u8],
    scratch: &mut Scratch,
    symbols: &mut Vec<u32>,
    control: &Control,
) -> Result<()> {
    match piece.len() {
        0 => {}
        1 => symbols.push(piece[0].into()),
        2..=SHORT => merge_stacked(table, piece, symbols),
        _ => merge_long(table, piece, scratch, symbols, control)?,
    }
    Ok(())
}

/// Pieces of more than [`SHORT`] bytes.
fn merge_long(
    table: &MergeTable,
    piece: &[u8],
    scratch: &mut Scratch,
    out: &mut Vec<u32>,
    control: &Control,
) -> Result<()> {
    let base = out.len();
    if !(table.is_orderly() && merge_parts(table, piece, scratch, out, control)?) {
        out.truncate(base);
        merge_by_heap(table, piece, scratch, out, control)?;
    }
    Ok(())
}

/// Merges part by part; false, with anything behind the old end of `out`, where an edge resists.
fn merge_parts(
    table: &MergeTable,
    piece: &[u8],
    scratch: &mut Scratch,
    out: &mut Vec<u32>,
    control: &Control,
) -> Result<bool> {
    let base = out.len();
    let mut middle = std::mem::take(&mut scratch.middle);
    let (mut edge, mut mended) = (0, 0);
    // Pieces that long are often one character over and over: then a part is the one before it, and
    // what meets at its edge has met before.
    let (mut last_part, mut last_symbols, mut settled) = (&piece[..0], [0; SHORT], None);
    let mut last_count = 0;
    let mut fits = true;
    for part in piece.chunks(SHORT) {
        control.check()?;
        let before = out.len();
        if part == last_part {
            out.extend_from_slice(&last_symbols[..last_count]);
        } else {
            merge(table, part, scratch, out, control)?;
            last_count = out.len() - before;
            last_symbols[..last_count].copy_from_slice(&out[before..]);
            last_part = part;
        }
        let at = edge;
        edge += part.len();
        if before == base {
            continue;
        }
        let pair = [out[before - 1], out[before]];
        if settled == Some(pair) {
            continue;
        }
        let found = mend(
            table,
            piece,
            at,
            base..before,
            scratch,
            &mut middle,
            &mut mended,
            out,
            control,
        )?;
        if found == Edge::Stays {
            settled = Some(pair);
        }
        fits = found != Edge::Resists && mended <= MENDING * (edge + SHORT);
        if !fits {
            break;
        }
    }
    scratch.middle = middle;
    Ok(fits)
}

/// What becomes of an edge between parts that were merged by themselves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Edge {
    /// The symbols on both sides are what merging all gives.
    Stays,
    /// They were merged anew.
    Mended,
    /// Ever more would have to be merged anew.
    Resists,
}

/// Makes the symbols around the byte `at`, where those of `left` end and the others of `out` begin,
/// what merging both sides together gives; adds the bytes that it merged to `mended`.
#[allow(clippy::too_many_arguments)] // Buffers of the caller, mostly.
fn mend(
    table: &MergeTable,
    piece: &[u8],
    at: usize,
    left: Range<usize>,
    scratch: &mut Scratch,
    middle: &mut Vec<u32>,
    mended: &mut usize,
    out: &mut Vec<u32>,
    control: &Control,
) -> Result<Edge> {
    let bytes =
        |symbols: &[u32]| -> usize { symbols.iter().map(|&symbol| table.length(symbol)).sum() };
    // Whether the neighbours whose edge is at `edge` stay as they are.
    let mut stay =
        |edge: usize, pair: [u32; 2], middle: &mut Vec<u32>, mended: &mut usize| -> Result<bool> {
            let [before, after] = pair.map(|symbol| table.length(symbol));
            *mended += before + after;
            let (start, kept) = (edge - before, middle.len());
            merge_any(table, &piece[start..edge + after], scratch, middle, control)?;
            let stays = middle[kept..] == pair;
            middle.truncate(kept);
            Ok(stays)
        };
    middle.clear();
    if stay(at, [out[left.end - 1], out[left.end]], middle, mended)? {
        return Ok(Edge::Stays);
    }
    let mut reach = 2;
    while reach <= REACH {
        let first = left.end.saturating_sub(reach).max(left.start);
        let last = (left.end + reach).min(out.len());
        let start = at - bytes(&out[first..left.end]);
        let end = at + bytes(&out[left.end..last]);
        *mended += end - start;
        middle.clear();
        let mut scratch = Scratch::default();
        merge_any(table, &piece[start..end], &mut scratch, middle, control)?;
        let (begin, finish) = (middle[0], middle[middle.len() - 1]);
        if (first == left.start || stay(start, [out[first - 1], begin], middle, mended)?)
            && (last == out.len() || stay(end, [finish, out[last]], middle, mended)?)
        {
            out.splice(first..last, middle.drain(..));
            return Ok(Edge::Mended);
        }
        reach *= 2;
    }
    Ok(Edge::Resists)
}

/// Any piece, without parts.
fn merge_any(
    table: &MergeTable,
    piece: &[u8],
    scratch: &mut Scratch,
    out: &mut Vec<u32>,
    control: &Control,
) -> Result<()> {
    if piece.len() <= SHORT {
        merge(table, piece, scratch, out, control)
    } else {
        merge_by_heap(table, piece, scratch, out, control)
    }
}

/// Whether this processor has what the wide variants of inner loops are compiled for.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn is_wide() -> bool {
    #[cfg(test)]
    if NARROW.get() {
        return false;
    }
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("popcnt")
}

#[cfg(test)]
thread_local! {
    /// Whether this thread, in a test, does as if its processor had no wide registers.
    pub(crate) static NARROW: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Pieces of 2 to [`SHORT`] bytes, by the widest registers that there are.
fn merge_stacked(table: &MergeTable, piece: &[u8], out: &mut Vec<u32>) {
    #[cfg(target_arch = "x86_64")]
    if is_wide() {
        // SAFETY: the processor has the features that the function is compiled for.
        return unsafe { merge_wide(table, piece, out) };
    }
    merge_sized(table, piece, out);
}

/// [`merge_sized`] for AVX2: the minimum takes a fraction of the instructions.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn merge_wide(table: &MergeTable, piece: &[u8], out: &mut Vec<u32>) {
    merge_sized(table, piece, out);
}

#[inline(always)]
fn merge_sized(table: &MergeTable, piece: &[u8], out: &mut Vec<u32>) {
    if piece.len() <= 16 {
        merge_short::<16>(table, piece, out);
    } else {
        merge_short::<SHORT>(table, piece, out);
    }
}

/// Pieces of 2 to `N <= 64` bytes.
#[inline(always)]
fn merge_short<const N: usize>(table: &MergeTable, piece: &[u8], out: &mut Vec<u32>) {
    let length = piece.len();
    let mut symbols = [0_u32; N];
    let mut order = [u32::MAX; N];
    for (symbol, &byte) in symbols.iter_mut().zip(piece) {
        *symbol = byte.into();
    }
    for (place, pair) in piece.windows(2).enumerate() {
        order[place] = table.byte_rank(pair[0], pair[1]) << 6 | place as u32;
    }
    let used = length.next_multiple_of(16);
    let mut live = u64::MAX >> (64 - length);
    loop {
        let best = minimum(&order[..used]);
        if best >= NO_RANK << 6 {
            break;
        }
        let (place, symbol) = ((best & 63) as usize, table.product(best >> 6));
        // `2 << 63` overflows to 0, which rightly leaves nothing after the last position.
        let after = live & !((2_u64 << place).wrapping_sub(1));
        let joined = after.trailing_zeros() as usize;
        live &= !(1 << joined);
        order[joined] = u32::MAX;
        symbols[place] = symbol;
        order[place] = u32::MAX;
        let (after, before) = (after & (after - 1), live & ((1 << place) - 1));
        // Shifted, so that nothing is out of range where there is no neighbour.
        let right = symbols[after.trailing_zeros() as usize % N];
        let left = before.leading_zeros() as usize ^ 63;
        // Both are on their way before the answer to one is waited for.
        table.approach(symbol, right);
        table.approach(symbols[left % N], symbol);
        if after != 0 {
            order[place] = table.rank(symbol, right) << 6 | place as u32;
        }
        if before != 0 {
            order[left] = table.rank(symbols[left], symbol) << 6 | left as u32;
        }
    }
    while live != 0 {
        out.push(symbols[live.trailing_zeros() as usize]);
        live &= live - 1;
    }
}

/// The least of a multiple of sixteen values; the fixed length is what makes vectors of the loop.
#[inline(always)]
fn minimum(values: &[u32]) -> u32 {
    let least = |sixteen: &[u32; 16]| sixteen.iter().copied().fold(u32::MAX, u32::min);
    values
        .as_chunks::<16>()
        .0
        .iter()
        .map(least)
        .fold(u32::MAX, u32::min)
}

/// Pieces of any length below 4 GiB.
fn merge_by_heap(
    table: &MergeTable,
    piece: &[u8],
    scratch: &mut Scratch,
    out: &mut Vec<u32>,
    control: &Control,
) -> Result<()> {
    let length = piece.len() as u32;
    let Scratch {
        symbols,
        next,
        previous,
        queue,
        ..
    } = scratch;
    symbols.clear();
    symbols.extend(piece.iter().map(|&byte| u32::from(byte)));
    next.clear();
    next.extend((1..length).chain([NOWHERE]));
    previous.clear();
    previous.extend([NOWHERE].into_iter().chain(0..length - 1));
    let mut pairs = std::mem::take(queue).into_vec();
    pairs.clear();
    pairs.extend(piece.windows(2).zip(0_u64..).filter_map(|(pair, place)| {
        let rank = table.byte_rank(pair[0], pair[1]);
        (rank != NO_RANK).then_some(Reverse(u64::from(rank) << 32 | place))
    }));
    *queue = BinaryHeap::from(pairs);

    while let Some(Reverse(entry)) = queue.pop() {
        control.check()?;
        let (rank, place) = ((entry >> 32) as u32, entry as u32);
        let left = symbols[place as usize];
        let joined = next[place as usize];
        if left == GONE || joined == NOWHERE || table.rank(left, symbols[joined as usize]) != rank {
            continue;
        }
        let symbol = table.product(rank);
        symbols[place as usize] = symbol;
        symbols[joined as usize] = GONE;
        let right = next[joined as usize];
        next[place as usize] = right;
        if right != NOWHERE {
            previous[right as usize] = place;
            let rank = table.rank(symbol, symbols[right as usize]);
            if rank != NO_RANK {
                queue.push(Reverse(u64::from(rank) << 32 | u64::from(place)));
            }
        }
        let before = previous[place as usize];
        if before != NOWHERE {
            let rank = table.rank(symbols[before as usize], symbol);
            if rank != NO_RANK {
                queue.push(Reverse(u64::from(rank) << 32 | u64::from(before)));
            }
        }
    }
    out.extend(symbols.iter().filter(|&&symbol| symbol != GONE));
    scratch.shrink();
    Ok(())
}

impl Scratch {
    /// Gives back what a giant piece took.
    fn shrink(&mut self) {
        const KEPT: usize = 1 << 20;
        if self.symbols.capacity() > KEPT {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::count::{CountOptions, Counter};
    use crate::pretokenize::Pattern;
    use crate::tokenizer::Tokenizer;
    use crate::train::{TrainOptions, train};

    /// Letters of an alphabet in no order.
    fn noise(length: usize, letters: u64, mut state: u64) -> Vec<u8> {
        (0..length)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                b'a' + ((state >> 33) % letters) as u8
            })
            .collect()
    }

    fn trained(text: &[u8], vocab_size: usize) -> Tokenizer {
        let pattern = Pattern::named("none").unwrap();
        let control = Control::new();
        let counting = CountOptions {
            threads: 1,
            memory: None,
        };
        let mut counter = Counter::new(&pattern, &[], counting).unwrap();
        counter.add_texts(&[text], &control).unwrap();
        let counts = counter.finish(&control).unwrap();
        let options = TrainOptions {
            vocab_size: Some(vocab_size),
            ..TrainOptions::default()
        };
        let merges = train(counts, &options, &control).unwrap();
        Tokenizer::from_merges(&merges.pairs, pattern.clone(), &[]).unwrap()
    }

    #[test]
    fn a_long_piece_heeds_the_stop_flag_by_parts_and_by_heap() {
        let tokenizer = trained(&noise(20_000, 5, 5), 256 + 300);
        let (table, piece) = (&tokenizer.vocab().table, noise(1000, 5, 6));
        let (mut scratch, mut out, control) = (Scratch::default(), Vec::new(), Control::new());
        control.stop();
        let stopped = [
            merge_parts(table, &piece, &mut scratch, &mut out, &control).map(|_| ()),
            merge_by_heap(table, &piece, &mut scratch, &mut out, &control),
        ];
        assert!(matches!(
            stopped,
            [Err(Error::Interrupted), Err(Error::Interrupted)]
        ));
    }

    #[test]
    fn parts_mended_are_what_the_heap_gives() {
        let (mut scratch, mut pieces, control) = (Scratch::default(), 0, Control::new());
        for letters in [1, 2, 3, 5, 20] {
            let tokenizer = trained(&noise(20_000, letters, letters), 256 + 300);
            let table = &tokenizer.vocab().table;
            assert!(table.is_orderly());
            for length in (65..400).chain([1000, 4097, 20_000]) {
                for seed in 0..4 {
                    // Sometimes over fewer letters, so that long tokens meet.
                    let mut piece = noise(length, 1 + (letters - 1) * (seed % 2), seed + 77);
                    if seed == 3 {
                        // One part over and over.
                        (SHORT..length).for_each(|place| piece[place] = piece[place - SHORT]);
                    }
                    let (mut by_parts, mut by_heap) = (vec![7], Vec::new());
                    merge_by_heap(table, &piece, &mut scratch, &mut by_heap, &control).unwrap();
                    merge_long(table, &piece, &mut scratch, &mut by_parts, &control).unwrap();
                    assert_eq!(by_parts[1..], by_heap, "{letters} letters, {length}");
                    by_parts.truncate(1);
                    let fits = merge_parts(table, &piece, &mut scratch, &mut by_parts, &control);
                    pieces += usize::from(fits.unwrap());
                }
            }
        }
        assert!(pieces > 6000, "only {pieces} pieces needed no heap");
    }
}
