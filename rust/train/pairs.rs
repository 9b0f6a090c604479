//! Adjacent pairs: how often each occurs, and where.
//!
//! A table from pair to count and to a stretch of one flat array of sites. Stretches are written once,
//! when the pair comes into being, in the order of the corpus; sites at which the pair was joined away
//! since stay in them and are passed over. With several threads each has such a table, for its share
//! of all pairs.

use super::Joined;
use super::changes::{Side, Sum, Tallies};
use super::corpus::{Part, Site, first_site};
use super::table::Table;
use crate::cache::filled;
use crate::error::Result;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Two tokens side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pair {
    pub left: u32,
    pub right: u32,
}

impl Pair {
    pub(super) fn code(self) -> u64 {
        u64::from(self.left) << 32 | u64::from(self.right)
    }

    #[inline(always)]
    pub(super) fn hash(self) -> u64 {
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

/// A site in a stretch. Threads fill a stretch at the same time, each places of its own.
#[derive(Debug, Default)]
pub(super) struct Place(AtomicU64);

impl Place {
    #[inline(always)]
    pub(super) fn site(&self) -> Site {
        let both = self.0.load(Relaxed);
        Site {
            position: both as u32,
            piece: (both >> 32) as u32,
        }
    }

    #[inline(always)]
    pub(super) fn put(&self, Site { position, piece }: Site) {
        let both = u64::from(piece) << 32 | u64::from(position);
        self.0.store(both, Relaxed);
    }
}

/// The pairs of a share whose count was `floor` or more when they came into being. Rarer ones are left
/// out, and are found by another [`Pairs::gather`] with a lower floor when those above are used up.
pub(super) struct Pairs {
    share: Share,
    table: Table,
    places: Vec<Place>,
    /// For each part of the corpus and each pair that it found, in the order of its table: the sites in
    /// parts before it. Only until all have put theirs.
    before: Vec<Vec<u32>>,
    /// Sums over all parts of the corpus.
    tallies: Tallies,
}

/// Losses whose entries are asked for ahead of their turn.
const AHEAD: usize = 12;

impl Pairs {
    /// No pair yet.
    pub(super) fn new(share: Share) -> Self {
        Self {
            share,
            table: Table::none(),
            places: Vec::new(),
            before: Vec::new(),
            tallies: Tallies::default(),
        }
    }

    /// Bytes taken.
    pub(super) fn bytes(&self) -> usize {
        self.table.bytes() + self.places.len() * size_of::<Place>()
    }

    /// Replaces what is held by those pairs of this share that the parts of the corpus found `floor`
    /// times or more; first asks whether there is `room` for so many bytes. Their places are empty until
    /// each part has put its sites there.
    pub(super) fn gather(
        &mut self,
        floor: u64,
        corpus: &[&Part],
        room: impl Fn(usize) -> Result<()>,
    ) -> Result<()> {
        (self.table, self.places) = (Table::new(), Vec::new());
        let (table, Share { index, of }) = (&mut self.table, self.share);
        let before = corpus.iter().map(|part| {
            let own = part
                .found
                .entries()
                .filter(|entry| entry.pair().share(of) == index);
            own.map(|found| {
                let entry = table.place(found.pair());
                entry.count += found.count;
                let before = entry.sites;
                entry.sites += found.sites;
                before
            })
            .collect()
        });
        self.before = before.collect();
        self.table.raise_floor(floor);
        let places = self.table.lay_out();
        room(self.bytes() + places * size_of::<Place>())?;
        self.places = filled(places);
        Ok(())
    }

    /// For each pair of this share that a part of the corpus found, in the order of its table: the sites
    /// in parts before it.
    pub(super) fn before(&self, part: usize) -> impl Iterator<Item = u32> {
        self.before[part].iter().copied()
    }

    /// All pairs and their counts, in no particular order.
    pub(super) fn all(&self) -> impl Iterator<Item = (Pair, u64)> {
        let entries = self.table.entries();
        entries.map(|entry| (entry.pair(), entry.count))
    }

    pub(super) fn count(&self, pair: Pair) -> u64 {
        self.table.get(pair).count
    }

    /// Where among all places those of the pair begin, and how many they are.
    pub(super) fn stretch(&self, pair: Pair) -> (usize, usize) {
        let entry = self.table.get(pair);
        (entry.start as usize, entry.sites as usize)
    }

    /// A stretch of sites, which ascend; the pair may be gone from some.
    pub(super) fn places(&self, (start, count): (usize, usize)) -> &[Place] {
        &self.places[start..][..count]
    }

    /// Puts a site where it belongs in a stretch.
    #[inline(always)]
    pub(super) fn put(&self, at: u64, site: Site) {
        self.places[at as usize].put(site);
    }

    /// The first position at which the pair still stands, and forgets those before; the pair's count
    /// must not be 0.
    pub(super) fn first(&mut self, pair: Pair, corpus: &[&Part], lengths: &[u32]) -> u32 {
        let passed = first_site(corpus, pair, self.places(self.stretch(pair)), lengths);
        let entry = self.table.get_mut(pair);
        entry.start += passed as u64;
        entry.sites -= passed as u32;
        self.places[entry.start as usize].site().position
    }

    /// Brings the table up to date after a batch: its pairs are gone, their neighbours' old pairs are
    /// fewer, and their new ones are here, of which `born` hears.
    pub(super) fn apply(
        &mut self,
        batch: &[Joined],
        corpus: &[&Part],
        mut born: impl FnMut(Pair, u64),
    ) {
        self.before = Vec::new(); // all sites have been put
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
                    self.table.approach(later.pair);
                }
                let entry = self.table.get_mut(loss.pair);
                if entry.sites > 0 {
                    entry.count -= loss.weight;
                }
            }
        }
        for &Joined { pair, share, .. } in batch {
            if share == self.share.index {
                self.table.get_mut(pair).count = 0;
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
        let Self {
            table,
            places,
            tallies,
            ..
        } = self;
        for &Sum {
            neighbour,
            sites,
            weight,
        } in changes().flat_map(|(sums, _)| sums)
        {
            tallies.add(neighbour, weight, sites);
        }
        let base = places.len();
        let sites = tallies.lay_out(table.floor(), |neighbour, tally| {
            let pair = pair(neighbour);
            let entry = table.place(pair);
            (entry.count, entry.sites) = (tally.weight, tally.sites);
            entry.start = (base + tally.place as usize) as u64;
            born(pair, tally.weight);
        });
        if sites > 0 {
            places.resize_with(base + sites as usize, Place::default);
            for noted in changes().flat_map(|(_, noted)| noted) {
                tallies.put(noted, &mut places[base..]);
            }
        }
        tallies.drain(|_, _| ());
    }
}
