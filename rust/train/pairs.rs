//! Adjacent pairs: how often each occurs, and where.
//!
//! An open-addressing table from pair to count and to a stretch of one flat array of sites. Stretches
//! are written once, when the pair comes into being, in the order of the corpus; sites at which the
//! pair was joined away since stay in them and are passed over.

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

/// All pairs that came into being.
pub(super) struct Pairs {
    entries: Vec<Entry>,
    used: usize,
    sites: Vec<Site>,
}

impl Pairs {
    /// The pairs of a corpus in which nothing was joined yet.
    pub(super) fn of_bytes(corpus: &Corpus, lengths: &[u32], control: &Control) -> Result<Self> {
        let grid = |pair: Pair| (pair.left << 8 | pair.right) as usize;
        let mut tallies = vec![Tally::default(); 1 << 16];
        corpus.for_each_pair(lengths, control, |pair, site| {
            let tally = &mut tallies[grid(pair)];
            tally.weight += corpus.weight(site.piece);
            tally.sites += 1;
        })?;
        let mut pairs = Self {
            entries: vec![Entry::default(); 1 << 12],
            used: 0,
            sites: Vec::new(),
        };
        let mut ends = vec![0; 1 << 16];
        let mut all = 0;
        for (code, &tally) in tallies
            .iter()
            .enumerate()
            .filter(|(_, tally)| tally.sites > 0)
        {
            let pair = Pair {
                left: code as u32 >> 8,
                right: code as u32 & 0xFF,
            };
            ends[code] = pairs.create(pair, tally, all);
            all += u64::from(tally.sites);
        }
        pairs.sites = vec![Site::default(); all as usize];
        corpus.for_each_pair(lengths, control, |pair, site| {
            let end = &mut ends[grid(pair)];
            pairs.sites[*end as usize] = site;
            *end += 1;
        })?;
        Ok(pairs)
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
        let base = self.sites.len() as u64;
        neighbours.lay_out();
        for (neighbour, tally) in neighbours.met() {
            let pair = pair(neighbour);
            self.create(pair, tally, base + u64::from(tally.place));
            born.push(pair);
        }
        neighbours.move_sites(&mut self.sites);
    }

    fn lose(&mut self, pair: Pair, weight: u64) {
        let at = self.slot(pair);
        self.entries[at].count -= weight;
    }

    fn find(&self, pair: Pair) -> &Entry {
        &self.entries[self.slot(pair)]
    }

    /// The pair's slot, or the empty one where it would go.
    fn slot(&self, pair: Pair) -> usize {
        let code = pair.code();
        let mask = self.entries.len() - 1;
        let hash = code.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut at = (hash >> (64 - self.entries.len().trailing_zeros())) as usize;
        loop {
            let entry = &self.entries[at & mask];
            if entry.pair == code && entry.sites > 0 || entry.sites == 0 {
                return at & mask;
            }
            at += 1;
        }
    }

    /// Enters a new pair whose sites begin at `start`, and returns `start`.
    fn create(&mut self, pair: Pair, tally: Tally, start: u64) -> u64 {
        if self.used * 2 >= self.entries.len() {
            self.grow();
        }
        let at = self.slot(pair);
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
        self.used += 1;
        start
    }

    fn grow(&mut self) {
        let wider = vec![Entry::default(); self.entries.len() * 2];
        for entry in std::mem::replace(&mut self.entries, wider) {
            if entry.count > 0 {
                let at = self.slot(entry.pair());
                self.entries[at] = entry;
            }
        }
        self.used = self.entries.iter().filter(|entry| entry.count > 0).count();
    }
}
