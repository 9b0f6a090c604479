//! The distinct pieces as rows of tokens that can be joined in place, each in constant time.
//!
//! All pieces lie end to end in one array with a slot a byte and a wall between neighbours. A token
//! of k bytes covers k slots and writes its id into its first and its last: so from where it starts,
//! its length leads to the token after it, and the slot before it names the token before. Every slot
//! only ever takes younger ids, and both ends of what was joined are overwritten: a site noted
//! earlier still holds its pair exactly when both ids are still there.

use super::BYTES;
use super::changes::Changes;
use super::memory::Memory;
use super::pairs::Pair;
use crate::cache::{prefer_huge_pages, prefetch};
use crate::control::{Control, sort_by};
use crate::count::Counts;
use crate::error::{Error, Result};

/// What stands before the first piece, between pieces, and after the last.
pub(super) const WALL: u32 = u32::MAX;
/// Pieces or sites handled between two looks at the stop flag.
pub(super) const STRIDE: usize = 1 << 16;

/// Sites whose memory is asked for ahead of their turn.
const AHEAD: usize = 12;

/// Where a pair occurs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Site {
    /// The slot in which its left token starts.
    pub position: u32,
    /// The piece that it lies in.
    pub piece: u32,
}

/// The pieces of two bytes and more; others hold no pair.
pub(super) struct Corpus {
    slots: Vec<u32>,
    /// How often each piece occurs.
    weights: Vec<u64>,
    /// Adjacent bytes in the whole text, about.
    pairs: f64,
}

impl Corpus {
    /// Lays the pieces out, where `in_order` by first occurrence.
    ///
    /// # Errors
    /// [`Error::Usage`] where they take more than `memory` or 4 GiB; [`Error::Io`] where counts lie on
    /// disk; [`Error::Interrupted`].
    pub(super) fn new(
        counts: &Counts,
        in_order: bool,
        memory: &Memory,
        control: &Control,
    ) -> Result<Self> {
        let (mut len, mut pieces) = (1, 0);
        counts.for_each(control, |piece, _, _| {
            if piece.len() > 1 {
                len += piece.len() + 1;
                pieces += 1;
            }
            Ok(())
        })?;
        if len >= WALL as usize {
            return Err(Error::usage(format!(
                "the distinct pieces take {len} bytes, but at most 4 GiB can be trained on: use a \
                 pattern that splits the text, or less text"
            )));
        }
        let layout = len * size_of::<u32>() + pieces * size_of::<u64>();
        let order = pieces * size_of::<(u64, u32, u32)>();
        memory.check(if in_order { 2 * layout + order } else { layout })?;
        let mut corpus = Self::with_capacity(len, pieces);
        let mut order = Vec::with_capacity(if in_order { pieces } else { 0 });
        counts.for_each(control, |piece, count, first| {
            if piece.len() > 1 {
                if in_order {
                    order.push((
                        first,
                        corpus.slots.len() as u32,
                        corpus.weights.len() as u32,
                    ));
                }
                corpus.add(piece.iter().map(|&byte| u32::from(byte)), count);
            }
            Ok(())
        })?;
        if in_order {
            sort_by(&mut order, control, Ord::cmp)?;
            let shuffled = std::mem::replace(&mut corpus, Self::with_capacity(len, pieces));
            for (_, start, piece) in order {
                let slots = &shuffled.slots[start as usize..];
                let bytes = slots.iter().copied().take_while(|&slot| slot != WALL);
                corpus.add(bytes, shuffled.weights[piece as usize]);
            }
        }
        control.check()?;
        Ok(corpus)
    }

    fn with_capacity(len: usize, pieces: usize) -> Self {
        let mut slots = Vec::with_capacity(len);
        prefer_huge_pages(&slots);
        slots.push(WALL);
        let weights = Vec::with_capacity(pieces);
        prefer_huge_pages(&weights);
        Self {
            slots,
            weights,
            pairs: 0.0,
        }
    }

    fn add(&mut self, bytes: impl Iterator<Item = u32>, count: u64) {
        let before = self.slots.len();
        self.slots.extend(bytes);
        self.pairs += (self.slots.len() - before - 1) as f64 * count as f64;
        self.slots.push(WALL);
        self.weights.push(count);
    }

    /// Bytes taken.
    pub(super) fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<u32>() + self.weights.capacity() * size_of::<u64>()
    }

    /// A guess at the count of the `merges`-th merge, rather too low than too high.
    ///
    /// Counts of merges fall as a power of their rank, between the first and the second.
    pub(super) fn likely_last_count(&self, merges: usize) -> u64 {
        ((1.5 * self.pairs / (merges.max(1) as f64).powf(1.5)) as u64).max(1)
    }

    pub(super) fn weight(&self, piece: u32) -> u64 {
        self.weights[piece as usize]
    }

    /// Calls `each` with every adjacent pair, from the first piece to the last, left to right.
    pub(super) fn for_each_pair(
        &self,
        lengths: &[u32],
        control: &Control,
        mut each: impl FnMut(Pair, Site),
    ) -> Result<()> {
        if lengths.len() == BYTES {
            return self.for_each_pair_of_bytes(control, each);
        }
        let mut at = 1;
        for piece in 0..self.weights.len() {
            if piece % STRIDE == 0 {
                control.check()?;
            }
            let mut left = self.slots[at];
            loop {
                let next = at + lengths[left as usize] as usize;
                let right = self.slots[next];
                if right == WALL {
                    at = next + 1;
                    break;
                }
                each(
                    Pair { left, right },
                    Site {
                        position: at as u32,
                        piece: piece as u32,
                    },
                );
                (at, left) = (next, right);
            }
        }
        Ok(())
    }

    /// The same before any merge, where no length has to be waited for.
    fn for_each_pair_of_bytes(
        &self,
        control: &Control,
        mut each: impl FnMut(Pair, Site),
    ) -> Result<()> {
        let mut piece = 0;
        let last = self.slots.len() - 1;
        for start in (1..last).step_by(STRIDE) {
            control.check()?;
            let end = last.min(start + STRIDE);
            for (position, pair) in (start..end).zip(self.slots[start..=end].windows(2)) {
                let (left, right) = (pair[0], pair[1]);
                if left == WALL {
                    piece += 1;
                } else if right != WALL {
                    let position = position as u32;
                    each(Pair { left, right }, Site { position, piece });
                }
            }
        }
        Ok(())
    }

    /// Whether the pair that was noted at `site` is still there.
    pub(super) fn holds(&self, pair: Pair, site: Site, lengths: &[u32]) -> bool {
        let at = site.position as usize;
        self.slots[at] == pair.left
            && self.slots[at + lengths[pair.left as usize] as usize] == pair.right
    }

    /// Joins the pair into the token `id` at each of its `sites`, which ascend, and notes in
    /// `changes` which pairs that made.
    pub(super) fn join(
        &mut self,
        pair: Pair,
        id: u32,
        sites: &[Site],
        lengths: &[u32],
        changes: &mut Changes,
    ) {
        let left_len = lengths[pair.left as usize] as usize;
        let len = left_len + lengths[pair.right as usize] as usize;
        let slots = &mut self.slots;
        for (index, &site) in sites.iter().enumerate() {
            if let Some(later) = sites.get(index + AHEAD) {
                prefetch(&slots[later.position as usize]);
                prefetch(&self.weights[later.piece as usize]);
            }
            let start = site.position as usize;
            if slots[start] != pair.left || slots[start + left_len] != pair.right {
                continue;
            }
            let weight = self.weights[site.piece as usize];
            let end = start + len;
            slots[start] = id;
            slots[start + left_len] = id;
            slots[end - 1] = id;
            let (before, after) = (slots[start - 1], slots[end]);
            // A neighbour that is `id` itself was joined just now, and noted the two as twins.
            if before != WALL && before != id {
                let position = (start - lengths[before as usize] as usize) as u32;
                changes
                    .before
                    .note(before, weight, Site { position, ..site });
            }
            if after == pair.left && slots[end + left_len] == pair.right {
                changes.note_twins(weight, site);
            } else if after != WALL {
                changes.after.note(after, weight, site);
            }
        }
    }
}
