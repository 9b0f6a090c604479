//! Adjacent pairs: how often each occurs, and where.
//!
//! An open-addressing table from pair to count and to a stretch of one flat array of sites. Stretches
//! are written once, when the pair comes into being, in the order of the corpus; sites at which the
//! pair was joined away since stay in them and are passed over.

use crate::cache::filled;
use super::changes::{Changes, Neighbours, Tally};
use super::corpus::{Corpus, Site};
use crate::control::Control;
use crate::error::Result;

/// Two tokens side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pair {
    pub left: u32,
    pub right: u32,
}

impl Pair {
    fn code(self) -> u64 {
        u64::from(self.left) << 32 | u64::from(self.right)
    }
}

/// What the table holds of a pair; without sites it holds nothing.
#[derive(Clone, Copy, Default)]
struct Entry {
    pair: u64,
    count: u64,
    /// The first site that may still be there.
    start: u64,
    sites: u32,
}

impl Entry {
    fn pair(&self) -> Pair {
        Pair {
            left: (self.pair >> 32) as u32,
            right: self.pair as u32,
        }
    }
}

/// The pairs whose count was `floor` or more when they came into being. Rarer ones are left out, and
/// are found by another [`Pairs::find_all`] with a lower floor when those above are used up.
pub(super) struct Pairs {
    /// First a grid of all pairs of bytes, then a hash table of the others.
    entries: Vec<Entry>,
    /// Entries of the hash table in use.
    used: usize,
    sites: Vec<Site>,
    floor: u64,
}

/// Pairs of bytes.
const GRID: usize = 1 << 16;
/// The least room for other pairs.
const SPARE: usize = 1 << 14;

impl Pairs {
    /// No pair, and room for those that are made of bytes and some thousands more.
    pub(super) fn new() -> Self {
        let entries = filled(GRID + SPARE);
        Self {
            entries,
            used: 0,
            sites: Vec::new(),
            floor: 1,
        }
    }

    /// Bytes taken.
    pub(super) fn bytes(&self) -> usize {
        self.entries.len() * size_of::<Entry>() + self.sites.len() * size_of::<Site>()
    }

    /// Replaces what is held by the corpus' present pairs with a count of `floor` or more; first asks
    /// whether there is `room` for so many bytes.
    pub(super) fn find_all(
        &mut self,
        floor: u64,
        corpus: &Corpus,
        lengths: &[u32],
        control: &Control,
        room: impl Fn(usize) -> Result<()>,
    ) -> Result<()> {
        self.floor = 1;
        self.used = 0;
        self.entries.fill(Entry::default());
        self.sites = Vec::new();
        corpus.for_each_pair(lengths, control, |pair, site| {
            let at = self.place(pair);
            self.entries[at].count += corpus.weight(site.piece);
            self.entries[at].sites += 1;
        })?;
        self.floor = floor;
        let kept = self
            .entries
            .iter()
            .filter(|entry| entry.count >= floor)
            .count();
        self.rebuild(GRID + (4 * kept).next_power_of_two().max(SPARE));
        let mut all = 0;
        for entry in self.entries.iter_mut().filter(|entry| entry.sites > 0) {
            entry.start = all;
            all += u64::from(entry.sites);
        }
        room(self.bytes() + all as usize * size_of::<Site>())?;
        self.sites = filled(all as usize);
        corpus.for_each_pair(lengths, control, |pair, site| {
            let at = self.slot(pair);
            let entry = &mut self.entries[at];
            if entry.sites > 0 {
                self.sites[entry.start as usize] = site;
                entry.start += 1;
            }
        })?;
        self.entries
            .iter_mut()
            .for_each(|entry| entry.start -= u64::from(entry.sites));
        Ok(())
    }

    /// All pairs, in no particular order.
    pub(super) fn all(&self) -> impl Iterator<Item = Pair> {
        self.entries
            .iter()
            .filter(|entry| entry.sites > 0)
            .map(Entry::pair)
    }

    pub(super) fn count(&self, pair: Pair) -> u64 {
        self.find(pair).count
    }

    /// Where the pair came to stand, ascending; it may be gone from some.
    pub(super) fn sites(&self, pair: Pair) -> &[Site] {
        let Entry { start, sites, .. } = *self.find(pair);
        &self.sites[start as usize..][..sites as usize]
    }

    /// The first position at which the pair still stands, and forgets those before; the pair's count
    /// must not be 0.
    pub(super) fn first(&mut self, pair: Pair, corpus: &Corpus, lengths: &[u32]) -> u32 {
        let at = self.slot(pair);
        let gone = |site: &&Site| !corpus.holds(pair, **site, lengths);
        let passed = self.sites(pair).iter().take_while(gone).count();
        let entry = &mut self.entries[at];
        entry.start += passed as u64;
        entry.sites -= passed as u32;
        self.sites[entry.start as usize].position
    }

    /// Brings the table up to date after `pair` became `id`: it is gone, its neighbours' old pairs
    /// are fewer, and their new ones are here.
    pub(super) fn apply(&mut self, pair: Pair, id: u32, changes: &mut Changes) {
        self.lose(
            Pair {
                left: pair.right,
                right: pair.left,
            },
            changes.twins.weight,
        );
        for (neighbour, tally) in changes.before.met() {
            self.lose(
                Pair {
                    left: neighbour,
                    right: pair.left,
                },
                tally.weight,
            );
        }
        for (neighbour, tally) in changes.after.met() {
            self.lose(
                Pair {
                    left: pair.right,
                    right: neighbour,
                },
                tally.weight,
            );
        }
        let at = self.slot(pair);
        self.entries[at].count = 0;
        self.append(&mut changes.before, &mut changes.born, |left| Pair {
            left,
            right: id,
        });
        self.append(&mut changes.after, &mut changes.born, |right| Pair {
            left: id,
            right,
        });
        if changes.twins.sites > 0 {
            let twins = Pair {
                left: id,
                right: id,
            };
            self.create(twins, changes.twins, self.sites.len() as u64);
            self.sites.append(&mut changes.twin_sites);
            changes.twins = Tally::default();
            changes.born.push(twins);
        }
    }

    fn append(
        &mut self,
        neighbours: &mut Neighbours,
        born: &mut Vec<Pair>,
        pair: impl Fn(u32) -> Pair,
    ) {
        let (base, floor) = (self.sites.len() as u64, self.floor);
        neighbours.lay_out(floor);
        for (neighbour, tally) in neighbours.met().filter(|(_, tally)| tally.weight >= floor) {
            let pair = pair(neighbour);
            self.create(pair, tally, base + u64::from(tally.place));
            born.push(pair);
        }
        neighbours.move_sites(&mut self.sites);
    }

    fn lose(&mut self, pair: Pair, weight: u64) {
        let at = self.slot(pair);
        if self.entries[at].sites > 0 {
            self.entries[at].count -= weight;
        }
    }

    fn find(&self, pair: Pair) -> &Entry {
        &self.entries[self.slot(pair)]
    }

    /// Where the pair's entry is or, if it has none, belongs.
    fn slot(&self, pair: Pair) -> usize {
        if pair.left < 256 && pair.right < 256 {
            return (pair.left << 8 | pair.right) as usize;
        }
        let code = pair.code();
        let table = &self.entries[GRID..];
        let mask = table.len() - 1;
        let hash = code.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut at = (hash >> (64 - table.len().trailing_zeros())) as usize;
        loop {
            let entry = &table[at & mask];
            if entry.pair == code || entry.sites == 0 {
                return GRID + (at & mask);
            }
            at += 1;
        }
    }

    /// Where the pair's entry is, or an empty one that is made for it.
    fn place(&mut self, pair: Pair) -> usize {
        let at = self.slot(pair);
        if self.entries[at].sites > 0 {
            return at;
        }
        self.entries[at].pair = pair.code();
        if at < GRID {
            return at;
        }
        self.used += 1;
        if self.used * 2 <= self.entries.len() - GRID {
            return at;
        }
        self.rebuild(2 * self.entries.len() - GRID);
        let at = self.slot(pair);
        self.entries[at].pair = pair.code();
        self.used += 1;
        at
    }

    fn create(&mut self, pair: Pair, tally: Tally, start: u64) {
        let at = self.place(pair);
        let Tally {
            weight: count,
            sites,
            ..
        } = tally;
        self.entries[at] = Entry {
            pair: pair.code(),
            count,
            start,
            sites,
        };
    }

    /// Moves the entries that still count into a table of `len`.
    fn rebuild(&mut self, len: usize) {
        let old = std::mem::replace(&mut self.entries, filled(len));
        self.used = 0;
        for entry in old {
            if entry.sites > 0 && entry.count >= self.floor {
                let at = self.slot(entry.pair());
                self.used += usize::from(at >= GRID);
                self.entries[at] = entry;
            }
        }
    }
}
