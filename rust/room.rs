//! Memory for results.
//!
//! Pages that the system clears anew for each large result would take a tenth of the time of encoding,
//! and a vector that grows is moved. So a tokenizer remembers how many ids its texts have, and keeps the
//! memory of one result that its owner is done with for the next.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Results of fewer ids are any allocator's business.
pub(crate) const LARGE: usize = 256 << 10;
/// Ids that the first large result gets room for, at most.
const FIRST: usize = 64 << 20;
/// Ids of the largest result that is kept: 128 MiB.
const MOST: usize = 32 << 20;

/// Where results come from.
#[derive(Debug, Default)]
pub(crate) struct Room {
    spare: Mutex<Vec<u32>>,
    /// Ids in 1024 bytes of the last text that had many; 0 before there was one.
    density: AtomicUsize,
}

impl Room {
    /// How many ids so many bytes may have.
    fn expected(&self, bytes: usize) -> usize {
        match self.density.load(Relaxed) {
            0 => bytes / 4 + 16,
            // A sixteenth more, for texts differ.
            density => (bytes / 1024 + 1) * (density + density / 16 + 1),
        }
    }

    /// An empty vector for the ids of a text of so many bytes.
    pub(crate) fn for_bytes(&self, bytes: usize) -> Vec<u32> {
        let mut expected = self.expected(bytes);
        if expected >= LARGE && self.density.load(Relaxed) == 0 {
            // Memory that is never reached costs nothing.
            expected = bytes.min(FIRST).max(expected);
        }
        self.for_ids(expected)
    }

    /// An empty vector for so many ids.
    pub(crate) fn for_ids(&self, count: usize) -> Vec<u32> {
        if count >= LARGE
            && let Ok(mut spare) = self.spare.try_lock()
            && (count..=4 * count).contains(&spare.capacity())
        {
            return std::mem::take(&mut spare);
        }
        Vec::with_capacity(count)
    }

    /// Learns from the ids of so many bytes, and gives back what room they left.
    pub(crate) fn fit(&self, bytes: usize, ids: &mut Vec<u32>) {
        if ids.len() >= LARGE {
            self.density.store(ids.len() / (bytes / 1024 + 1), Relaxed);
        }
        if ids.capacity() / 2 > ids.len() {
            ids.shrink_to(ids.len() + ids.len() / 8);
        }
    }

    /// Takes what nobody needs any longer.
    pub(crate) fn keep(&self, mut ids: Vec<u32>) {
        if (LARGE..=MOST).contains(&ids.capacity())
            && let Ok(mut spare) = self.spare.try_lock()
        {
            ids.clear();
            *spare = ids;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_result_comes_back_once_and_only_where_it_fits() {
        let room = Room::default();
        let first = room.for_bytes(8 * LARGE);
        assert!(first.capacity() >= 8 * LARGE, "never to be moved");
        let place = first.as_ptr();
        room.keep(first);
        assert_eq!(room.for_ids(100).capacity(), 100);
        let second = room.for_ids(7 * LARGE);
        assert_eq!((second.as_ptr(), second.len()), (place, 0));
        let third = room.for_ids(7 * LARGE);
        assert_ne!(third.as_ptr(), place);
    }

    #[test]
    fn room_follows_what_texts_turn_out_to_have() {
        let room = Room::default();
        let mut ids = room.for_bytes(8 * LARGE);
        ids.resize(2 * LARGE, 0);
        room.fit(8 * LARGE, &mut ids);
        assert!((2 * LARGE..3 * LARGE).contains(&ids.capacity()));
        assert!((LARGE..LARGE * 5 / 4).contains(&room.for_bytes(4 * LARGE).capacity()));
    }
}
