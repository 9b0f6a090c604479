//! What encoding hands its ids to.

use crate::cache::LISTED_IDS;

/// Ids that [`Streamed`] gathers in the nearest cache before it hands them on: 4 KiB.
const STAGE: usize = 1 << 10;
/// Ids in a cache line.
const LINE: usize = 16;

/// Receives ids, or only counts them.
pub(crate) trait Sink {
    /// Where the next ids go. The loop over pieces keeps it in a register.
    type Cursor: Copy;

    /// Makes room for `pieces` calls of [`Sink::few`].
    fn open(&mut self, pieces: usize) -> Self::Cursor;

    /// Takes the first `count <= N <= LISTED_IDS` ids.
    ///
    /// # Safety
    /// Since the last [`Sink::open`] there were fewer calls than it made room for.
    unsafe fn few<const N: usize>(cursor: &mut Self::Cursor, ids: &[u32; N], count: usize);

    /// Keeps what went in since [`Sink::open`], up to `cursor`.
    fn close(&mut self, cursor: Self::Cursor);

    /// Takes any number of ids.
    fn many(&mut self, ids: impl ExactSizeIterator<Item = u32>);

    /// How many ids there are.
    fn len(&self) -> usize;
}

/// Appends ids to a vector.
pub(crate) struct Ids<'a>(pub(crate) &'a mut Vec<u32>);

impl Sink for Ids<'_> {
    type Cursor = *mut u32;

    #[inline(always)]
    fn open(&mut self, pieces: usize) -> *mut u32 {
        self.0.reserve(pieces * LISTED_IDS);
        self.0.spare_capacity_mut().as_mut_ptr().cast()
    }

    #[inline(always)]
    unsafe fn few<const N: usize>(cursor: &mut *mut u32, ids: &[u32; N], count: usize) {
        // SAFETY: `open` reserved `LISTED_IDS` places a call, and no call goes on by more.
        unsafe {
            cursor.cast::<[u32; N]>().write_unaligned(*ids);
            *cursor = cursor.add(count);
        }
    }

    #[inline(always)]
    fn close(&mut self, cursor: *mut u32) {
        // SAFETY: `cursor` came from `open` and went on past ids that were written.
        unsafe {
            let filled = cursor.offset_from_unsigned(self.0.as_ptr());
            self.0.set_len(filled);
        }
    }

    fn many(&mut self, ids: impl ExactSizeIterator<Item = u32>) {
        self.0.extend(ids);
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

/// Appends many ids to a vector that no cache could hold: they are gathered in the nearest cache and
/// go past the others to memory, which then need not be read before it is written. Whoever needs the
/// vector calls [`Streamed::finish`] first.
pub(crate) struct Streamed<'a> {
    out: &'a mut Vec<u32>,
    stage: Vec<u32>,
}

impl<'a> Streamed<'a> {
    /// Appends to `out`.
    pub(crate) fn new(out: &'a mut Vec<u32>) -> Self {
        Self {
            out,
            stage: Vec::with_capacity(2 * STAGE),
        }
    }

    /// Hands on whole lines, all but fewer than [`LINE`] ids.
    #[inline(never)]
    fn flush(&mut self) {
        self.out.reserve(self.stage.len());
        let edge = self.out.spare_capacity_mut().as_ptr().align_offset(64);
        let head = edge.min(self.stage.len());
        self.out.extend_from_slice(&self.stage[..head]);
        let (lines, rest) = self.stage[head..].as_chunks::<LINE>();
        let length = self.out.len();
        for (to, line) in self
            .out
            .spare_capacity_mut()
            .as_chunks_mut::<LINE>()
            .0
            .iter_mut()
            .zip(lines)
        {
            // SAFETY: the room for a line is a line's.
            unsafe { store_line(to.as_mut_ptr().cast(), line) };
        }
        // SAFETY: so many ids were stored; `reserve` made room for all of them.
        unsafe { self.out.set_len(length + lines.len() * LINE) };
        let done = self.stage.len() - rest.len();
        self.stage.drain(..done);
    }

    /// Hands on what is left.
    pub(crate) fn finish(mut self) {
        self.flush();
        self.out.extend_from_slice(&self.stage);
        order_stores();
    }
}

/// Copies ids to memory that is not read soon.
///
/// # Safety
/// There is room for `ids` at `to`, which nobody else uses.
pub(crate) unsafe fn copy_past_caches(ids: &[u32], to: *mut u32) {
    let head = to.align_offset(64).min(ids.len());
    let (lines, tail) = ids[head..].as_chunks::<LINE>();
    let lines_end = head + lines.len() * LINE;
    // SAFETY: all of it is inside the room for `ids`, lines at the edges of lines.
    unsafe {
        to.copy_from_nonoverlapping(ids.as_ptr(), head);
        for (place, line) in lines.iter().enumerate() {
            store_line(to.add(head + place * LINE), line);
        }
        to.add(lines_end)
            .copy_from_nonoverlapping(tail.as_ptr(), tail.len());
    }
    order_stores();
}

/// Says that stores past the caches, which are in no order with others, come before those that follow.
fn order_stores() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of the architecture.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

/// Stores a line past the caches.
///
/// # Safety
/// `to` is at the edge of a cache line, with room for it.
#[inline(always)]
unsafe fn store_line(to: *mut u32, line: &[u32; LINE]) {
    #[cfg(target_arch = "x86_64")]
    for (quarter, ids) in line.as_chunks::<4>().0.iter().enumerate() {
        use std::arch::x86_64::{_mm_loadu_si128, _mm_stream_si128};
        // SAFETY: inside both lines, which the caller has aligned.
        unsafe {
            let ids = _mm_loadu_si128(ids.as_ptr().cast());
            _mm_stream_si128(to.add(4 * quarter).cast(), ids);
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: there is room for the line.
    unsafe {
        to.cast::<[u32; LINE]>().write_unaligned(*line);
    }
}

impl Sink for Streamed<'_> {
    type Cursor = *mut u32;

    #[inline(always)]
    fn open(&mut self, pieces: usize) -> *mut u32 {
        if self.stage.len() >= STAGE {
            self.flush();
        }
        Ids(&mut self.stage).open(pieces)
    }

    #[inline(always)]
    unsafe fn few<const N: usize>(cursor: &mut *mut u32, ids: &[u32; N], count: usize) {
        // SAFETY: the same condition.
        unsafe { Ids::few(cursor, ids, count) };
    }

    #[inline(always)]
    fn close(&mut self, cursor: *mut u32) {
        Ids(&mut self.stage).close(cursor);
    }

    fn many(&mut self, ids: impl ExactSizeIterator<Item = u32>) {
        if ids.len() <= STAGE {
            self.stage.extend(ids);
        } else {
            self.out.append(&mut self.stage);
            self.out.extend(ids);
        }
    }

    fn len(&self) -> usize {
        self.out.len() + self.stage.len()
    }
}

/// Counts ids.
pub(crate) struct Count(pub(crate) usize);

impl Sink for Count {
    type Cursor = usize;

    #[inline(always)]
    fn open(&mut self, _: usize) -> usize {
        self.0
    }

    #[inline(always)]
    unsafe fn few<const N: usize>(cursor: &mut usize, _: &[u32; N], count: usize) {
        *cursor += count;
    }

    #[inline(always)]
    fn close(&mut self, cursor: usize) {
        self.0 = cursor;
    }

    fn many(&mut self, ids: impl ExactSizeIterator<Item = u32>) {
        self.0 += ids.len();
    }

    fn len(&self) -> usize {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes out of a sink for pieces of these numbers of ids, 0 standing for many.
    fn through<S: Sink>(mut sink: S, pieces: &[usize], close: impl FnOnce(S)) {
        let mut next = 0;
        for group in pieces.chunks(100) {
            let mut cursor = sink.open(group.len());
            for &count in group {
                let ids: [u32; LISTED_IDS] = std::array::from_fn(|i| next + i as u32);
                if count == 0 {
                    sink.close(cursor);
                    sink.many(next..next + 1500);
                    next += 1500;
                    cursor = sink.open(group.len());
                } else {
                    // SAFETY: one call a piece of the group.
                    unsafe { S::few(&mut cursor, &ids, count) };
                    next += count as u32;
                }
            }
            sink.close(cursor);
            assert_eq!(sink.len(), next as usize);
        }
        close(sink);
    }

    #[test]
    fn ids_that_go_past_the_caches_arrive_in_order_wherever_the_vector_begins() {
        for begin in 0..20 {
            for length in [0, 1, 15, 16, 17, 900, 5000] {
                let mut pieces: Vec<usize> = (0..length).map(|i| 1 + i * i % 15).collect();
                if length == 900 {
                    (pieces[0], pieces[450]) = (0, 0);
                }
                let mut plain = Vec::new();
                through(Ids(&mut plain), &pieces, drop);
                let mut streamed: Vec<u32> = vec![7; begin];
                let mut counted = 0;
                let mut behind = Vec::new();
                through(Streamed::new(&mut behind), &pieces, Streamed::finish);
                assert_eq!(behind, plain);
                let mut sink = Streamed::new(&mut streamed);
                sink.many(plain.iter().copied());
                sink.finish();
                assert_eq!(streamed[begin..], plain);
                through(Count(0), &pieces, |sink| counted = sink.0);
                assert_eq!(counted, plain.len());
            }
        }
    }
}
