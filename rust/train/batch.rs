//! Consecutive merges that do not touch each other.
//!
//! Where (l, r) is joined, pairs with l behind or r before them lose sites, and no others do. So of
//! the best pairs, in their order, as many are the next merges as form no chain: none begins with a
//! token with which another ends. Neither can a pair that these merges make come before the last of
//! them. It takes its sites from an older pair that shares its other token and was in a chain with the
//! merge, so was not taken, so comes after all that were: its count is no greater than that of the
//! older pair, and where it equals it, its younger token loses the tie. That last step needs a rule
//! that prefers older tokens ([`Rule::IN_BATCHES`](super::ties::Rule::IN_BATCHES)); and a pair of twins
//! makes pairs out of itself, so it ends its batch.

use super::pairs::Pair;

/// Sites that a batch has at most, so that the notes it makes stay small; the first merge has as many
/// as it has.
const MOST_SITES: usize = 1 << 16;

/// A merge of the batch.
#[derive(Clone, Copy)]
pub(super) struct Joined {
    pub pair: Pair,
    pub id: u32,
    /// The share of pairs that has it, and the stretch of its sites there.
    pub share: usize,
    pub stretch: (usize, usize),
}

/// The merges of a batch, and which tokens they join.
#[derive(Default)]
pub(super) struct Batch {
    pub merges: Vec<Joined>,
    number: u32,
    /// The number of the last batch in which each token was on the left, on the right.
    joined: Vec<[u32; 2]>,
    sites: usize,
    is_over: bool,
}

impl Batch {
    /// Begins another one, of tokens below `ids`.
    pub(super) fn begin(&mut self, ids: usize) {
        self.merges.clear();
        self.number += 1;
        self.joined.resize(ids, [0; 2]);
        (self.sites, self.is_over) = (0, false);
    }

    /// Whether the pair with so many sites, the best that is left, is the next merge whatever those
    /// before it in the batch change.
    pub(super) fn takes(&self, Pair { left, right }: Pair, sites: usize) -> bool {
        let ends_here = self.joined[left as usize][1] == self.number;
        let begins_here = self.joined[right as usize][0] == self.number;
        let fits = self.merges.is_empty() || self.sites + sites <= MOST_SITES;
        fits && !self.is_over && !ends_here && !begins_here
    }

    pub(super) fn push(&mut self, joined: Joined) {
        let Pair { left, right } = joined.pair;
        self.joined[left as usize][0] = self.number;
        self.joined[right as usize][1] = self.number;
        self.sites += joined.stretch.1;
        self.is_over = left == right;
        self.merges.push(joined);
    }

    /// Ends the batch here.
    pub(super) fn end(&mut self) {
        self.is_over = true;
    }
}
