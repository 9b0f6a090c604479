//! Which pair is joined next: a heap of the pairs with high counts, and buckets of all others.
//!
//! From when it is entered on, a pair's count only falls, so what was entered is an upper bound, and
//! a pair is looked at again only when its bound is the greatest. Most pairs are never: they stay in
//! the bucket of their count, which costs nothing but their eight bytes, and the heap stays small.

use super::pairs::Pair;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

/// A pair as the heap orders it: the greatest count comes first, then the greatest key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate<K> {
    pub count: u64,
    pub key: K,
    pub pair: Pair,
}

/// Buckets for each doubling of the count.
const PER_DOUBLING: u32 = 4;

/// The bucket of a count, which is not 0; greater counts are in greater buckets.
fn level(count: u64) -> usize {
    let doublings = count.ilog2();
    let fraction = if doublings >= 2 {
        count >> (doublings - 2)
    } else {
        count << (2 - doublings)
    };
    (doublings * PER_DOUBLING) as usize + (fraction & u64::from(PER_DOUBLING - 1)) as usize
}

/// Pairs by their counts.
pub(super) struct Queue<K> {
    heap: BinaryHeap<Candidate<K>>,
    /// The least bucket whose pairs are in the heap.
    level: usize,
    buckets: Vec<Vec<Pair>>,
    /// Pairs that belong in the heap, and wait for [`Queue::settle`].
    fresh: Vec<Pair>,
}

impl<K: Ord> Queue<K> {
    pub(super) fn new() -> Self {
        Self {
            heap: BinaryHeap::new(),
            level: usize::MAX,
            buckets: Vec::new(),
            fresh: Vec::new(),
        }
    }

    /// Bytes taken.
    pub(super) fn bytes(&self) -> usize {
        let waiting: usize = self.buckets.iter().map(Vec::capacity).sum();
        (waiting + self.fresh.capacity()) * size_of::<Pair>()
            + self.heap.len() * size_of::<Candidate<K>>()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::new();
    }

    /// Enters a pair that occurs `count` times, which is not 0.
    pub(super) fn enter(&mut self, pair: Pair, count: u64) {
        let level = level(count);
        if level >= self.level {
            self.fresh.push(pair);
            return;
        }
        if level >= self.buckets.len() {
            self.buckets.resize_with(level + 1, Vec::new);
        }
        self.buckets[level].push(pair);
    }

    /// Brings the best pair to the top; `present` tells how a pair stands now, `None` where it is out.
    pub(super) fn settle(&mut self, mut present: impl FnMut(Pair) -> Option<Candidate<K>>) {
        loop {
            while let Some(pair) = self.fresh.pop() {
                match present(pair) {
                    Some(candidate) if level(candidate.count) >= self.level => {
                        self.heap.push(candidate);
                    }
                    Some(candidate) => self.enter(pair, candidate.count),
                    None => {}
                }
            }
            let Some(mut promised) = self.heap.peek_mut() else {
                match self.buckets.iter().rposition(|bucket| !bucket.is_empty()) {
                    Some(level) => self.level = level,
                    None => return,
                }
                self.fresh = std::mem::take(&mut self.buckets[self.level]);
                continue;
            };
            match present(promised.pair) {
                Some(candidate) if candidate == *promised => return,
                Some(candidate) if level(candidate.count) >= self.level => *promised = candidate,
                fallen => {
                    let pair = PeekMut::pop(promised).pair;
                    if let Some(candidate) = fallen {
                        self.enter(pair, candidate.count);
                    }
                }
            }
        }
    }

    /// The best pair, once all is settled.
    pub(super) fn best(&self) -> Option<&Candidate<K>> {
        self.heap.peek()
    }

    /// Takes the best pair out.
    pub(super) fn pop(&mut self) -> Option<Candidate<K>> {
        self.heap.pop()
    }
}

#[cfg(test)]
mod tests {
    use super::level;

    #[test]
    fn greater_counts_are_in_greater_buckets() {
        let counts = (1..5000)
            .chain((0..64).map(|bit| 1 << bit))
            .chain([u64::MAX]);
        let mut counts: Vec<u64> = counts.collect();
        counts.sort_unstable();
        assert!(counts.is_sorted_by_key(|&count| level(count)));
        assert!(
            level(4) < level(5) && level(7) < level(8),
            "small counts have a bucket each"
        );
    }
}
