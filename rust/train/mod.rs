//! Counted pieces -> merges: exact greedy byte-pair encoding.
//!
//! Each step joins the pair of adjacent tokens that occurs most often, counting every piece as often
//! as the corpus holds it; equal counts are decided by a [`Tie`] rule. A pair comes into being only
//! when its younger token does, and from then on its count only falls, so a queue with one entry a
//! pair is exact: an entry that no longer tells the truth goes back in with its present count.
//!
//! Merges are found a [batch](batch) at a time, so that threads can share them: each joins what is in
//! its part of the corpus, then each brings its share of the pairs up to date.
//!
//! With n bytes of distinct pieces, a step costs what it changes, O(n log n) in all, however long
//! the pieces are; `docs/tokenizer.md` has the data structures.

mod batch;
mod changes;
mod corpus;
mod crew;
mod memory;
mod pairs;
mod queue;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod reference;
mod table;
#[cfg(test)]
mod tests;
mod ties;
mod trainer;

use crate::control::{Control, Stage};
use crate::count::Counts;
use crate::error::{Error, Result};
use batch::Joined;
use corpus::lay_out;
use memory::Memory;
pub use ties::Tie;
use ties::{ById, ByPrintable, First, Lexical, Rule};
use trainer::{Phase, train_by};

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
    /// Threads that merge; 0 counts as 1. What they find does not depend on it.
    pub threads: usize,
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

/// Ids stay clear of the top of u32, which marks the edges of pieces.
const MOST_IDS: usize = 1 << 31;

/// Slots of the corpus that make a thread worth its start.
const SLOTS_PER_THREAD: usize = 1 << 17;

/// Learns merges from counted pieces until a limit of `options` is reached or no pair is left (the
/// last pairs to go are those that occur once). Reports [`Stage::Merge`].
///
/// # Errors
/// [`Error::Usage`] for limits that cannot be met or more distinct text than fits (4 GiB, or what
/// `memory` allows); [`Error::Io`] where counts lie on disk; [`Error::Interrupted`] when `control` says
/// so.
pub fn train(counts: Counts, options: &TrainOptions, control: &Control) -> Result<Merges> {
    train_in_parts(counts, options, SLOTS_PER_THREAD, control)
}

/// [`train`] on parts of `least` slots or more.
fn train_in_parts(
    counts: Counts,
    options: &TrainOptions,
    least: usize,
    control: &Control,
) -> Result<Merges> {
    match options.tie {
        Tie::Ids => train_under::<ById>(counts, options, least, control),
        Tie::Hf => train_under::<ByPrintable>(counts, options, least, control),
        Tie::Lexical => train_under::<Lexical>(counts, options, least, control),
        Tie::First => train_under::<First>(counts, options, least, control),
    }
}

fn train_under<R: Rule>(
    counts: Counts,
    options: &TrainOptions,
    least: usize,
    control: &Control,
) -> Result<Merges> {
    let most = options.most_merges()?;
    control.begin(Stage::Merge, options.vocab_size.map_or(0, |_| most as u64));
    let limits = Limits {
        merges: most,
        epochs: options.epochs.unwrap_or(usize::MAX),
        memory: Memory::new(options.memory),
    };
    // Merges that come one by one are too little work to share.
    let threads = if R::IN_BATCHES {
        options.threads.max(1)
    } else {
        1
    };
    let in_order = options.tie == Tie::First;
    let corpus = lay_out(&counts, in_order, (threads, least), &limits.memory, control)?;
    drop(counts);
    train_by::<R>(corpus, limits, control)
}

#[derive(Clone, Copy)]
struct Limits {
    merges: usize,
    epochs: usize,
    memory: Memory,
}
