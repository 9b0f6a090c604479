//! What joining one pair does to the pairs around it, summed up before the pair table hears of it.
//!
//! Where `x l r y` becomes `x id y`, the pair (x, l) turns into (x, id) and (r, y) into (id, y), as
//! often as the piece occurs; where `l r l r` becomes `id id`, (r, l) turns into (id, id). So one sum
//! a neighbour says both what an old pair loses and what a new one gains.

use super::corpus::Site;
use super::pairs::Pair;

/// The neighbours on one side.
#[derive(Default)]
pub(super) struct Neighbours {
    /// For each id, its sum; cleared after each merge.
    tallies: Vec<Tally>,
    met: Vec<u32>,
    noted: Vec<(u32, Site)>,
    /// Sites that were found a place.
    kept: u32,
}

/// The place of sites that are not kept.
const NOWHERE: u32 = u32::MAX;

/// How often one neighbour was met.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub weight: u64,
    pub sites: u32,
    /// Where its sites begin among those of all neighbours, once they are laid out.
    pub place: u32,
}

impl Neighbours {
    pub(super) fn note(&mut self, neighbour: u32, weight: u64, site: Site) {
        let tally = &mut self.tallies[neighbour as usize];
        if tally.sites == 0 {
            self.met.push(neighbour);
        }
        tally.weight += weight;
        tally.sites += 1;
        self.noted.push((neighbour, site));
    }

    /// The neighbours met, in the order in which they were.
    pub(super) fn met(&self) -> impl Iterator<Item = (u32, Tally)> {
        self.met
            .iter()
            .map(|&neighbour| (neighbour, self.tallies[neighbour as usize]))
    }

    /// Decides where the sites of each neighbour met `floor` times or more go: side by side, in the
    /// order of [`Self::met`].
    pub(super) fn lay_out(&mut self, floor: u64) {
        self.kept = 0;
        for &neighbour in &self.met {
            let tally = &mut self.tallies[neighbour as usize];
            tally.place = NOWHERE;
            if tally.weight >= floor {
                tally.place = self.kept;
                self.kept += tally.sites;
            }
        }
    }

    /// Appends all sites as laid out, and forgets everything.
    pub(super) fn move_sites(&mut self, into: &mut Vec<Site>) {
        let base = into.len();
        into.resize(base + self.kept as usize, Site::default());
        for (neighbour, site) in self.noted.drain(..) {
            let place = &mut self.tallies[neighbour as usize].place;
            if *place != NOWHERE {
                into[base + *place as usize] = site;
                *place += 1;
            }
        }
        for neighbour in self.met.drain(..) {
            self.tallies[neighbour as usize] = Tally::default();
        }
    }
}

/// All that one merge changed.
#[derive(Default)]
pub(super) struct Changes {
    pub before: Neighbours,
    pub after: Neighbours,
    /// How often the new token came to stand beside itself.
    pub twins: Tally,
    pub twin_sites: Vec<Site>,
    /// The pairs that came into being.
    pub born: Vec<Pair>,
}

impl Changes {
    /// Bytes taken.
    pub(super) fn bytes(&self) -> usize {
        let side = |side: &Neighbours| {
            side.tallies.capacity() * size_of::<Tally>()
                + side.noted.capacity() * size_of::<(u32, Site)>()
        };
        side(&self.before) + side(&self.after)
    }

    /// Makes room for neighbours with ids below `ids`.
    pub(super) fn make_room(&mut self, ids: usize) {
        self.before.tallies.resize(ids, Tally::default());
        self.after.tallies.resize(ids, Tally::default());
    }

    pub(super) fn note_twins(&mut self, weight: u64, site: Site) {
        self.twins.weight += weight;
        self.twins.sites += 1;
        self.twin_sites.push(site);
    }
}
