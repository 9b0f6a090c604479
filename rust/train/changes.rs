//! What joining pairs does to the pairs around them, summed up before the pair tables hear of it.
//!
//! Where `x l r y` becomes `x id y`, the pair (x, l) turns into (x, id) and (r, y) into (id, y), as
//! often as the piece occurs. So one sum a neighbour says both what an old pair loses and what a new
//! one gains. Where `l r l r` becomes `id id`, (r, l) turns into (id, id): there `id` itself is the
//! neighbour behind.

use super::batch::Joined;
use super::corpus::Site;
use super::pairs::{Pair, Place};

/// How often one neighbour was met.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tally {
    pub weight: u64,
    pub sites: u32,
    /// Where its next site goes, once they are laid out and if they are kept.
    pub place: u32,
}

/// The place of sites that are not kept.
const NOWHERE: u32 = u32::MAX;

impl Default for Tally {
    fn default() -> Self {
        Self {
            weight: 0,
            sites: 0,
            place: NOWHERE,
        }
    }
}

/// A sum for each neighbour of one side, while they are being met.
#[derive(Default)]
pub(super) struct Tallies {
    /// For each id; the default but for those met.
    of: Vec<Tally>,
    met: Vec<u32>,
}

impl Tallies {
    /// Makes room for ids below `ids`.
    pub(super) fn make_room(&mut self, ids: usize) {
        if self.of.len() < ids {
            self.of.resize(ids, Tally::default());
        }
    }

    #[inline(always)]
    pub(super) fn add(&mut self, neighbour: u32, weight: u64, sites: u32) {
        let tally = &mut self.of[neighbour as usize];
        if tally.sites == 0 {
            self.met.push(neighbour);
        }
        tally.weight += weight;
        tally.sites += sites;
    }

    /// Decides where the sites of each neighbour met `floor` times or more go: side by side, in the
    /// order in which the neighbours were met. Calls `kept` with each of these; returns their sites.
    pub(super) fn lay_out(&mut self, floor: u64, mut kept: impl FnMut(u32, Tally)) -> u32 {
        let mut sites = 0;
        for &neighbour in &self.met {
            let tally = &mut self.of[neighbour as usize];
            if tally.weight >= floor {
                tally.place = sites;
                sites += tally.sites;
                kept(neighbour, *tally);
            }
        }
        sites
    }

    /// Puts a neighbour's next site where it was laid out.
    #[inline(always)]
    pub(super) fn put(&mut self, noted: &Noted, into: &mut [Place]) {
        let place = &mut self.of[noted.neighbour as usize].place;
        if *place != NOWHERE {
            into[*place as usize].put(noted.site);
            *place += 1;
        }
    }

    /// Forgets everything, and hands over each sum.
    pub(super) fn drain(&mut self, mut each: impl FnMut(u32, Tally)) {
        for neighbour in self.met.drain(..) {
            let tally = std::mem::take(&mut self.of[neighbour as usize]);
            each(neighbour, tally);
        }
    }
}

/// A neighbour, and a site of the pair that it makes with the new token.
#[derive(Clone, Copy)]
pub(super) struct Noted {
    pub neighbour: u32,
    pub site: Site,
}

/// How often a neighbour was met in one merge.
#[derive(Clone, Copy)]
pub(super) struct Sum {
    pub neighbour: u32,
    pub sites: u32,
    pub weight: u64,
}

/// How much an old pair lost.
#[derive(Clone, Copy)]
pub(super) struct Loss {
    pub pair: Pair,
    pub weight: u64,
}

/// What concerns one share of the new pairs.
#[derive(Default)]
struct Portion {
    sums: Vec<Sum>,
    noted: Vec<Noted>,
    /// For each merge, where its sums and its notes end.
    ends: Vec<(usize, usize)>,
}

/// What all merges of a batch changed on one side of the new tokens, in one part of the corpus.
#[derive(Default)]
pub(super) struct Side {
    /// While neighbours are met, the place of each is its share.
    tallies: Tallies,
    portions: Vec<Portion>,
}

impl Side {
    fn bytes(&self) -> usize {
        let portion = |portion: &Portion| {
            portion.sums.capacity() * size_of::<Sum>()
                + portion.noted.capacity() * size_of::<Noted>()
        };
        self.tallies.of.capacity() * size_of::<Tally>()
            + self.portions.iter().map(portion).sum::<usize>()
    }

    fn begin(&mut self, ids: usize, shares: usize) {
        self.tallies.make_room(ids);
        self.portions.resize_with(shares, Portion::default);
        for portion in &mut self.portions {
            portion.sums.clear();
            portion.noted.clear();
            portion.ends.clear();
        }
    }

    /// Notes a neighbour; `share` tells whose the new pair is.
    #[inline(always)]
    pub(super) fn note(
        &mut self,
        neighbour: u32,
        weight: u64,
        site: Site,
        share: impl FnOnce() -> usize,
    ) {
        let tally = &mut self.tallies.of[neighbour as usize];
        if tally.sites == 0 {
            self.tallies.met.push(neighbour);
            tally.place = share() as u32;
        }
        tally.weight += weight;
        tally.sites += 1;
        let noted = &mut self.portions[tally.place as usize].noted;
        noted.push(Noted { neighbour, site });
    }

    /// Ends the notes of one merge; `lost` hears by how much each neighbour's old pair is less.
    fn end_merge(&mut self, mut lost: impl FnMut(u32, u64)) {
        let Self { tallies, portions } = self;
        tallies.drain(|neighbour, tally| {
            let Tally {
                weight,
                sites,
                place,
            } = tally;
            portions[place as usize].sums.push(Sum {
                neighbour,
                sites,
                weight,
            });
            lost(neighbour, weight);
        });
        for Portion { sums, noted, ends } in portions {
            ends.push((sums.len(), noted.len()));
        }
    }

    /// The sums of a merge that concern a share, and the notes, in the order of the corpus.
    pub(super) fn of(&self, share: usize, merge: usize) -> (&[Sum], &[Noted]) {
        let Portion { sums, noted, ends } = &self.portions[share];
        let (first_sum, first_noted) = match merge {
            0 => (0, 0),
            _ => ends[merge - 1],
        };
        let (sums_end, noted_end) = ends[merge];
        (&sums[first_sum..sums_end], &noted[first_noted..noted_end])
    }
}

/// All that a batch changed in one part of the corpus.
#[derive(Default)]
pub(super) struct Changes {
    pub before: Side,
    pub after: Side,
    /// For each share, what its older pairs lost.
    pub losses: Vec<Vec<Loss>>,
}

impl Changes {
    /// Bytes taken.
    pub(super) fn bytes(&self) -> usize {
        let losses: usize = self.losses.iter().map(Vec::capacity).sum();
        self.before.bytes() + self.after.bytes() + losses * size_of::<Loss>()
    }

    /// Forgets the last batch, and makes room for ids below `ids`.
    pub(super) fn begin(&mut self, ids: usize, shares: usize) {
        self.before.begin(ids, shares);
        self.after.begin(ids, shares);
        self.losses.resize_with(shares, Vec::new);
        self.losses.iter_mut().for_each(Vec::clear);
    }

    /// Ends the notes of one merge.
    pub(super) fn end_merge(&mut self, &Joined { pair, id, .. }: &Joined) {
        let Self {
            before,
            after,
            losses,
        } = self;
        let shares = losses.len();
        let mut lost = |left, right, weight| {
            let pair = Pair { left, right };
            losses[pair.share(shares)].push(Loss { pair, weight });
        };
        before.end_merge(|neighbour, weight| lost(neighbour, pair.left, weight));
        after.end_merge(|neighbour, weight| {
            // Where the new token stands beside itself the pair did.
            let right = if neighbour == id {
                pair.left
            } else {
                neighbour
            };
            lost(pair.right, right, weight);
        });
    }
}
