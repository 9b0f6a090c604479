//! Adjacent pairs: how often each occurs, and where.
//!
//! An open-addressing table from pair to count and to a stretch of one flat array of sites. Stretches
//! are written once, when the pair comes into being, in the order of the corpus; sites at which the
//! pair was joined away since stay in them and are passed over. With several threads each has such a
//! table, for its share of all pairs.

use super::Joined;
use super::changes::{Side, Sum, Tallies, Tally};
use super::corpus::{Part, Site, first_site};
use crate::cache::{filled, prefetch};
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

    #[inline(always)]
    fn hash(self) -> u64 {
        self.code().wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }

    /// Which of so many shares of all pairs has it.
    #[inline(always)]
    pub(super) fn share(self, of: usize) -> usize {
        // Not by the highest bits, which say where in its table a pair is.
        let bits = (self.hash() >> 16) as u32;
        (bits as usize * of) >> 32
    }
}

/// Which of so many shares of all pairs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    pub index: usize,
    pub of: usize,
}

impl Share {
    #[inline(always)]
    fn has(self, pair: Pair) -> bool {
        self.of == 1 || pair.share(self.of) == self.index
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

/// The pairs of a share whose count was `floor` or more when they came into being. Rarer ones are left
/// out, and are found by another [`Pairs::find_all`] with a lower floor when those above are used up.
pub(super) struct Pairs {
    share: Share,
    /// First a grid of all pairs of bytes, then a hash table of the others.
    entries: Vec<Entry>,
    /// Entries of the hash table in use.
    used: usize,
    sites: Vec<Site>,
    floor: u64,
    /// Sums over all parts of the corpus.
    tallies: Tallies,
}

/// Pairs of bytes.
const GRID: usize = 1 << 16;
/// Entries whose memory is asked for ahead of their turn.
const AHEAD: usize = 12;
/// The least room for other pairs.
const SPARE: usize = 1 << 14;

impl Pairs {
    /// No pair, and room for those that are made of bytes and some thousands more.
    pub(super) fn new(share: Share) -> Self {
        Self {
            share,
            entries: filled(GRID + SPARE),
            used: 0,
            sites: Vec::new(),
            floor: 1,
            tallies: Tallies::default(),
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
        corpus: &[&Part],
        lengths: &[u32],
        control: &Control,
        room: impl Fn(usize) -> Result<()>,
    ) -> Result<()> {
        self.floor = 1;
        self.used = 0;
        self.entries.fill(Entry::default());
        self.sites = Vec::new();
        let share = self.share;
        for part in corpus {
            part.for_each_pair(lengths, control, |pair, site| {
                if share.has(pair) {
                    let at = self.place(pair);
                    self.entries[at].count += part.weight(site);
                    self.entries[at].sites += 1;
                }
            })?;
        }
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
        for part in corpus {
            part.for_each_pair(lengths, control, |pair, site| {
                if share.has(pair) {
                    let at = self.slot(pair);
                    let entry = &mut self.entries[at];
                    if entry.sites > 0 {
                        self.sites[entry.start as usize] = site;
                        entry.start += 1;
                    }
                }
            })?;
        }
        self.entries
            .iter_mut()
            .for_each(|entry| entry.start -= u64::from(entry.sites));
        Ok(())
    }

    /// All pairs and their counts, in no particular order.
    pub(super) fn all(&self) -> impl Iterator<Item = (Pair, u64)> {
        self.entries
            .iter()
            .filter(|entry| entry.sites > 0)
            .map(|entry| (entry.pair(), entry.count))
    }

    pub(super) fn count(&self, pair: Pair) -> u64 {
        self.find(pair).count
    }

    /// Where among all sites those of the pair begin, and how many they are.
    pub(super) fn stretch(&self, pair: Pair) -> (usize, usize) {
        let Entry { start, sites, .. } = *self.find(pair);
        (start as usize, sites as usize)
    }

    /// A stretch of sites, which ascend; the pair may be gone from some.
    pub(super) fn sites(&self, (start, count): (usize, usize)) -> &[Site] {
        &self.sites[start..][..count]
    }

    /// The first position at which the pair still stands, and forgets those before; the pair's count
    /// must not be 0.
    pub(super) fn first(&mut self, pair: Pair, corpus: &[&Part], lengths: &[u32]) -> u32 {
        let at = self.slot(pair);
        let passed = first_site(corpus, pair, self.sites(self.stretch(pair)), lengths);
        let entry = &mut self.entries[at];
        entry.start += passed as u64;
        entry.sites -= passed as u32;
        self.sites[entry.start as usize].position
    }

    /// Brings the table up to date after a batch: its pairs are gone, their neighbours' old pairs are
    /// fewer, and their new ones are here, of which `born` hears.
    pub(super) fn apply(
        &mut self,
        batch: &[Joined],
        corpus: &[&Part],
        mut born: impl FnMut(Pair, u64),
    ) {
        for (index, &Joined { id, .. }) in batch.iter().enumerate() {
            self.tallies.make_room(id as usize + 1);
            let before = |neighbour| Pair {
                left: neighbour,
                right: id,
            };
            let after = |neighbour| Pair {
                left: id,
                right: neighbour,
            };
            self.append(
                index,
                corpus,
                |part| &part.changes.before,
                before,
                &mut born,
            );
            self.append(index, corpus, |part| &part.changes.after, after, &mut born);
        }
        // Only now, as one merge can take from a pair that another has made.
        for part in corpus {
            let losses = &part.changes.losses[self.share.index];
            for (index, loss) in losses.iter().enumerate() {
                if let Some(later) = losses.get(index + AHEAD) {
                    prefetch(&self.entries[self.home(later.pair)]);
                }
                let at = self.slot(loss.pair);
                if self.entries[at].sites > 0 {
                    self.entries[at].count -= loss.weight;
                }
            }
        }
        for &Joined { pair, share, .. } in batch {
            if share == self.share.index {
                let at = self.slot(pair);
                self.entries[at].count = 0;
            }
        }
    }

    /// Takes in the pairs that merge `index` made on one side, where `pair` names a neighbour's.
    fn append(
        &mut self,
        index: usize,
        corpus: &[&Part],
        side: impl Fn(&Part) -> &Side,
        pair: impl Fn(u32) -> Pair,
        born: &mut impl FnMut(Pair, u64),
    ) {
        let share = self.share.index;
        let changes = || corpus.iter().map(|part| side(part).of(share, index));
        let mut tallies = std::mem::take(&mut self.tallies);
        for &Sum {
            neighbour,
            sites,
            weight,
        } in changes().flat_map(|(sums, _)| sums)
        {
            tallies.add(neighbour, weight, sites);
        }
        let base = self.sites.len();
        let sites = tallies.lay_out(self.floor, |neighbour, tally| {
            let pair = pair(neighbour);
            self.create(pair, tally, (base + tally.place as usize) as u64);
            born(pair, tally.weight);
        });
        if sites > 0 {
            self.sites.resize(base + sites as usize, Site::default());
            for noted in changes().flat_map(|(_, noted)| noted) {
                tallies.put(noted, &mut self.sites[base..]);
            }
        }
        tallies.drain(|_, _| ());
        self.tallies = tallies;
    }

    fn find(&self, pair: Pair) -> &Entry {
        &self.entries[self.slot(pair)]
    }

    /// Where the pair is unless something else was there before.
    #[inline(always)]
    fn home(&self, pair: Pair) -> usize {
        if pair.left < 256 && pair.right < 256 {
            return (pair.left << 8 | pair.right) as usize;
        }
        let len = self.entries.len() - GRID;
        GRID + (pair.hash() >> (64 - len.trailing_zeros())) as usize
    }

    /// Where the pair's entry is or, if it has none, belongs.
    #[inline(always)]
    fn slot(&self, pair: Pair) -> usize {
        let (mut at, code) = (self.home(pair), pair.code());
        if at < GRID {
            return at;
        }
        loop {
            let entry = &self.entries[at];
            if entry.pair == code || entry.sites == 0 {
                return at;
            }
            at += 1;
            if at == self.entries.len() {
                at = GRID;
            }
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
