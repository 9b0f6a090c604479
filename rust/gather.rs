//! A result that threads fill part by part.
//!
//! The ids of a part have their place as soon as there are those of all parts before it. Whoever finishes
//! the part that is waited for copies it there, and those behind it that are ready, while they are in a
//! near cache; so a result is written once, as one thread alone would write it.

use crate::sink::copy_past_caches;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Parts of ids, numbered from 0, on their way into one vector.
pub(crate) struct Gathered(Mutex<State>);

struct State {
    /// Empty, with room for what is expected; behind it ids are written that it does not know of yet.
    ids: Vec<u32>,
    /// Ids that have a place there.
    placed: usize,
    /// The part that comes next.
    next: usize,
    /// Parts that came early, or found no room.
    waiting: BTreeMap<usize, Vec<u32>>,
}

impl Gathered {
    /// Into `ids`, which is empty.
    pub(crate) fn new(ids: Vec<u32>) -> Self {
        Self(Mutex::new(State {
            ids,
            placed: 0,
            next: 0,
            waiting: BTreeMap::new(),
        }))
    }

    /// Takes the ids of a part; the memory of those that were copied goes to `free`.
    pub(crate) fn put(&self, number: usize, part: Vec<u32>, free: &mut Vec<Vec<u32>>) {
        let mut ready = Vec::new();
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.waiting.insert(number, part);
        while let Some(placed) = state.place_next() {
            ready.push(placed);
        }
        drop(state);
        for (place, mut part) in ready {
            // SAFETY: `place_next` gave each part a room of its own, and the vector is neither moved nor
            // read before all threads are done.
            unsafe { copy_past_caches(&part, place) };
            part.clear();
            free.push(part);
        }
    }

    /// All ids, once every part was put.
    pub(crate) fn finish(self) -> Vec<u32> {
        let State {
            mut ids,
            placed,
            waiting,
            ..
        } = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: so many have been copied; who copies holds a reference, and there is none left.
        unsafe { ids.set_len(placed) };
        ids.reserve(waiting.values().map(Vec::len).sum());
        for part in waiting.into_values() {
            ids.extend_from_slice(&part);
        }
        ids
    }
}

impl State {
    /// The part that comes next, and its place, if it is there and there is room. Where a part finds no
    /// room, those behind it wait as well: the vector can grow when all are done.
    fn place_next(&mut self) -> Option<(*mut u32, Vec<u32>)> {
        let part = self.waiting.first_entry()?;
        let room = self.ids.capacity() - self.placed;
        if *part.key() != self.next || part.get().len() > room {
            return None;
        }
        let part = part.remove();
        // SAFETY: not beyond the capacity.
        let place = unsafe { self.ids.as_mut_ptr().add(self.placed) };
        self.placed += part.len();
        self.next += 1;
        Some((place, part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_together_in_order_whoever_is_first_and_however_little_room_there_is() {
        let lengths = [3, 0, 40, 17, 1, 1000, 16, 5];
        let mut start = 0;
        let mut parts = Vec::new();
        for length in lengths {
            parts.push((start..start + length).collect::<Vec<u32>>());
            start += length;
        }
        let whole: Vec<u32> = (0..start).collect();
        for room in [0, 50, 1060, 2000] {
            for turn in 0..lengths.len() {
                let gathered = Gathered::new(Vec::with_capacity(room));
                let mut free = Vec::new();
                for number in 0..lengths.len() {
                    let number = (number * 3 + turn) % lengths.len();
                    gathered.put(number, parts[number].clone(), &mut free);
                }
                assert!(free.iter().all(Vec::is_empty));
                assert_eq!(free.len() == lengths.len(), room == 2000);
                assert_eq!(gathered.finish(), whole, "{room} {turn}");
            }
        }
    }
}
