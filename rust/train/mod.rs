//! Counted pieces -> merges: exact greedy byte-pair encoding.
//!
//! Each step joins the pair of adjacent tokens that occurs most often, counting every piece as often
//! as the corpus holds it; equal counts are decided by a [`Tie`] rule. A pair comes into being only
//! when its younger token does, and from then on its count only falls, so a heap with one entry a
//! pair is exact: an entry that no longer tells the truth goes back in with its present count.
//!
//! With n bytes of distinct pieces, a step costs what it changes, O(n log n) in all, however long
//! the pieces are; `docs/tokenizer.md` has the data structures.

mod changes;
mod corpus;
mod memory;
mod pairs;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod reference;
#[cfg(test)]
mod tests;
mod ties;

use crate::control::{Control, Stage};
use crate::count::Counts;
use crate::error::{Error, Result};
use changes::Changes;
use corpus::{Corpus, STRIDE};
use memory::Memory;
use pairs::{Pair, Pairs};
use std::collections::BinaryHeap;
pub use ties::Tie;
use ties::{ById, ByPrintable, First, Lexical, Rule};

/// What a byte tokenizer has before any merge.
const BYTES: usize = 256;

/// When training ends, and how it decides.
#[derive(Clone, Copy, Debug, Default)]
pub struct TrainOptions {
    /// Ids in all: bytes, merges and special tokens.
    pub vocab_size: Option<usize>,
    /// Runs of consecutive merges that only join tokens which existed when the run began.
    pub epochs: Option<usize>,
    /// Which of several pairs with equal counts is joined.
    pub tie: Tie,
    /// Special tokens that will follow the merges, and count towards `vocab_size`.
    pub special_count: usize,
    /// Bytes that merging may take.
    pub memory: Option<usize>,
}

/// What training found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merges {
    /// The joined ids, left and right, in order; the n-th makes id 256 + n.
    pub pairs: Vec<(u32, u32)>,
    /// How often the corpus held each pair when it was joined.
    pub counts: Vec<u64>,
    /// Epochs begun.
    pub epochs: usize,
    /// Whether the text ran out of pairs before `vocab_size` or `epochs` was reached.
    pub exhausted: bool,
}

impl TrainOptions {
    /// Whether training can begin.
    ///
    /// # Errors
    /// [`Error::Usage`] for limits that cannot be met.
    pub fn check(&self) -> Result<()> {
        self.most_merges().map(|_| ())
    }

    /// Merges allowed by `vocab_size`.
    fn most_merges(&self) -> Result<usize> {
        let taken = BYTES + self.special_count;
        match (self.vocab_size, self.epochs) {
            (None, None) => Err(Error::usage(
                "give vocab_size, epochs or both: nothing else ends training",
            )),
            (_, Some(0)) => Err(Error::usage("epochs is 0, but training takes at least 1")),
            (Some(size), _) if size < taken => Err(Error::usage(format!(
                "vocab_size is {size}, but 256 bytes and {} special tokens take {taken}: ask for at least that",
                self.special_count
            ))),
            (Some(size), _) if size > MOST_IDS => Err(Error::usage(format!(
                "vocab_size is {size}, but at most {MOST_IDS} ids are possible"
            ))),
            (Some(size), _) => Ok(size - taken),
            (None, _) => Ok(MOST_IDS - taken),
        }
    }
}

/// How far the floor falls when nothing is left above it.
const FLOOR_STEP: u64 = 8;

/// Ids stay clear of the top of u32, which marks the edges of pieces.
const MOST_IDS: usize = 1 << 31;

/// Learns merges from counted pieces until a limit of `options` is reached or no pair is left (the
/// last pairs to go are those that occur once). Reports [`Stage::Merge`].
///
/// # Errors
/// [`Error::Usage`] for limits that cannot be met or more distinct text than fits (4 GiB, or what
/// `memory` allows); [`Error::Io`] where counts lie on disk; [`Error::Interrupted`] when `control` says
/// so.
pub fn train(counts: Counts, options: &TrainOptions, control: &Control) -> Result<Merges> {
    let most = options.most_merges()?;
    control.begin(Stage::Merge, options.vocab_size.map_or(0, |_| most as u64));
    let in_order = options.tie == Tie::First;
    let memory = Memory::new(options.memory);
    let corpus = Corpus::new(&counts, in_order, &memory, control)?;
    drop(counts);
    let limits = Limits {
        merges: most,
        epochs: options.epochs.unwrap_or(usize::MAX),
        memory,
    };
    match options.tie {
        Tie::Ids => Trainer::<ById>::new(corpus, limits, control)?.run(),
        Tie::Hf => Trainer::<ByPrintable>::new(corpus, limits, control)?.run(),
        Tie::Lexical => Trainer::<Lexical>::new(corpus, limits, control)?.run(),
        Tie::First => Trainer::<First>::new(corpus, limits, control)?.run(),
    }
}

#[derive(Clone, Copy)]
struct Limits {
    merges: usize,
    epochs: usize,
    memory: Memory,
}

/// A pair in the heap. The greatest count comes first, then the greatest key.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate<K> {
    count: u64,
    key: K,
    pair: Pair,
}

struct Trainer<'c, R: Rule> {
    corpus: Corpus,
    pairs: Pairs,
    heap: BinaryHeap<Candidate<R::Key>>,
    /// Pairs that occur less often are neither in `pairs` nor in `heap`.
    floor: u64,
    rule: R,
    /// Bytes in each token.
    lengths: Vec<u32>,
    changes: Changes,
    limits: Limits,
    control: &'c Control,
}

impl<'c, R: Rule> Trainer<'c, R> {
    fn new(corpus: Corpus, limits: Limits, control: &'c Control) -> Result<Self> {
        let floor = corpus.likely_last_count(limits.merges);
        let mut trainer = Self {
            corpus,
            pairs: Pairs::new(),
            floor: u64::MAX,
            heap: BinaryHeap::new(),
            rule: R::default(),
            lengths: vec![1; BYTES],
            changes: Changes::default(),
            limits,
            control,
        };
        trainer.lower_floor(floor)?;
        Ok(trainer)
    }

    /// Fills the heap with the pairs that occur `floor` times or more.
    fn lower_floor(&mut self, floor: u64) -> Result<()> {
        self.floor = floor;
        let room = |bytes| self.limits.memory.check(self.corpus.bytes() + bytes);
        self.pairs
            .find_all(floor, &self.corpus, &self.lengths, self.control, room)?;
        let all: Vec<Pair> = self.pairs.all().collect();
        for pairs in all.chunks(STRIDE) {
            self.control.check()?;
            pairs.iter().for_each(|&pair| self.push(pair));
        }
        Ok(())
    }

    /// Bytes taken.
    fn bytes(&self) -> usize {
        self.corpus.bytes()
            + self.pairs.bytes()
            + self.changes.bytes()
            + self.heap.len() * size_of::<Candidate<R::Key>>()
    }

    /// Forgets sites that are gone and pairs that fell below the floor, where memory runs out.
    fn make_room(&mut self) -> Result<()> {
        let Limits { memory, .. } = self.limits;
        if memory.fits(self.bytes()) {
            return Ok(());
        }
        self.heap.clear();
        self.lower_floor(self.floor)?;
        // An eighth has to be free, so that the next merges do not call for it again.
        memory.check(self.bytes() / 7 * 8)
    }

    fn run(mut self) -> Result<Merges> {
        let limits = self.limits;
        let mut merges = Merges::default();
        let mut born_before_epoch = 0;
        while merges.pairs.len() < limits.merges {
            self.control.check()?;
            let Some(Candidate { count, pair, .. }) = self.best()? else {
                merges.exhausted = true;
                break;
            };
            if pair.left.max(pair.right) >= born_before_epoch {
                if merges.epochs == limits.epochs {
                    break;
                }
                merges.epochs += 1;
                born_before_epoch = self.next_id();
            }
            self.join(pair)?;
            merges.pairs.push((pair.left, pair.right));
            merges.counts.push(count);
            self.control.advance(1);
            self.make_room()?;
        }
        Ok(merges)
    }

    fn next_id(&self) -> u32 {
        self.lengths.len() as u32
    }

    /// Enters a pair as it stands now, unless it fell below the floor.
    fn push(&mut self, pair: Pair) {
        if let Some(candidate) = self.candidate(pair) {
            self.heap.push(candidate);
        }
    }

    fn candidate(&mut self, pair: Pair) -> Option<Candidate<R::Key>> {
        let count = self.pairs.count(pair);
        if count < self.floor {
            return None;
        }
        let first = || self.pairs.first(pair, &self.corpus, &self.lengths);
        let key = self.rule.key(pair, first);
        Some(Candidate { count, key, pair })
    }

    /// The best pair, if any is left.
    fn best(&mut self) -> Result<Option<Candidate<R::Key>>> {
        loop {
            let best = self.pop();
            if best.is_some() || self.floor == 1 {
                return Ok(best);
            }
            self.lower_floor(self.floor.div_ceil(FLOOR_STEP))?;
        }
    }

    /// The best pair above the floor. An entry that promises more than its pair still holds is
    /// entered anew.
    fn pop(&mut self) -> Option<Candidate<R::Key>> {
        while let Some(promised) = self.heap.pop() {
            match self.candidate(promised.pair) {
                Some(present) if present == promised => return Some(present),
                Some(present) => self.heap.push(present),
                None => {}
            }
        }
        None
    }

    /// Replaces the pair by a new token wherever it occurs, from left to right.
    fn join(&mut self, pair: Pair) -> Result<()> {
        let id = self.next_id();
        let Self {
            corpus,
            pairs,
            lengths,
            changes,
            ..
        } = self;
        changes.make_room(lengths.len());
        for sites in pairs.sites(pair).chunks(STRIDE) {
            self.control.check()?;
            corpus.join(pair, id, sites, lengths, changes);
        }
        lengths.push(lengths[pair.left as usize] + lengths[pair.right as usize]);
        pairs.apply(pair, id, changes);
        self.rule.born(pair);
        while let Some(pair) = self.changes.born.pop() {
            self.push(pair);
        }
        Ok(())
    }
}
