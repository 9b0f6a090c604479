//! The loop over batches, and what its threads share.

use super::batch::{Batch, Joined};
use super::corpus::{Part, likely_last_count};
use super::crew::with_crew;
use super::pairs::{Pairs, Share};
use super::queue::{Candidate, Queue};
use super::ties::Rule;
use super::{BYTES, Limits, Merges};
use crate::control::Control;
use crate::error::Result;
use std::ops::Deref;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// How far the floor falls when nothing is left above it.
const FLOOR_STEP: u64 = 8;

/// What threads do at the same time.
#[derive(Clone, Copy, Debug)]
pub(super) enum Phase {
    /// Each finds the pairs of its part of the corpus.
    Find,
    /// Each gathers its share of the pairs that were found.
    Gather,
    /// Each puts the sites of its part of the corpus where the shares have places for them.
    Put,
    /// Each joins the batch in its part of the corpus.
    Join,
    /// Each brings its share of the pairs up to date.
    Apply,
}

/// Merges until a limit is reached, with a thread for each part of the corpus.
pub(super) fn train_by<R: Rule>(
    corpus: Vec<Part>,
    limits: Limits,
    control: &Control,
) -> Result<Merges> {
    let of = corpus.len();
    let floor = likely_last_count(&corpus, limits.merges);
    let shares = (0..of).map(|index| RwLock::new(Shared::new(Share { index, of })));
    let all = All::<R::Key> {
        shares: shares.collect(),
        corpus: corpus.into_iter().map(RwLock::new).collect(),
        plan: RwLock::new(Plan {
            floor,
            lengths: vec![1; BYTES],
            batch: Batch::default(),
        }),
        limits,
        control,
    };
    with_crew(
        of,
        |phase, task| all.work(phase, task),
        |run| {
            let mut trainer = Trainer {
                all: &all,
                rule: R::default(),
                born_before_epoch: 0,
                run,
            };
            trainer.lower_floor(floor)?;
            trainer.run()
        },
    )
}

/// A share of the pairs, and which of them comes next.
struct Shared<K> {
    pairs: Pairs,
    queue: Queue<K>,
}

impl<K: Ord> Shared<K> {
    fn new(share: Share) -> Self {
        Self {
            pairs: Pairs::new(share),
            queue: Queue::new(),
        }
    }

    fn bytes(&self) -> usize {
        self.pairs.bytes() + self.queue.bytes()
    }

    /// Brings the best pair to the top of the queue.
    fn settle(&mut self, rule: &impl Rule<Key = K>, floor: u64, corpus: &[&Part], lengths: &[u32]) {
        let Self { pairs, queue } = self;
        queue.settle(|pair| {
            let count = pairs.count(pair);
            (count >= floor).then(|| {
                let key = rule.key(pair, || pairs.first(pair, corpus, lengths));
                Candidate { count, key, pair }
            })
        });
    }
}

/// What is decided before threads begin.
struct Plan {
    /// Pairs that occur less often have no entries.
    floor: u64,
    /// Bytes in each token.
    lengths: Vec<u32>,
    batch: Batch,
}

/// What threads share. In each phase a thread writes to one part or to one share, and all read the
/// others: no lock is ever waited for.
struct All<'c, K> {
    shares: Vec<RwLock<Shared<K>>>,
    corpus: Vec<RwLock<Part>>,
    plan: RwLock<Plan>,
    limits: Limits,
    control: &'c Control,
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// All of them, to read.
fn read_all<T>(locks: &[RwLock<T>]) -> Vec<RwLockReadGuard<'_, T>> {
    locks.iter().map(read).collect()
}

fn refs<T>(guards: &[impl Deref<Target = T>]) -> Vec<&T> {
    guards.iter().map(|guard| &**guard).collect()
}

impl<K: Ord> All<'_, K> {
    fn work(&self, phase: Phase, task: usize) -> Result<()> {
        let plan = read(&self.plan);
        match phase {
            Phase::Find => write(&self.corpus[task]).find_pairs(&plan.lengths, self.control),
            Phase::Gather => self.gather(plan.floor, &mut write(&self.shares[task])),
            Phase::Put => {
                let shares = read_all(&self.shares);
                let shares: Vec<_> = shares.iter().map(|share| &share.pairs).collect();
                let mut part = write(&self.corpus[task]);
                part.put_sites(task, &shares, &plan.lengths, self.control)
            }
            Phase::Join => {
                let shares = read_all(&self.shares);
                let places = |joined: &Joined| shares[joined.share].pairs.places(joined.stretch);
                let mut part = write(&self.corpus[task]);
                let (batch, of) = (&plan.batch.merges, shares.len());
                part.join(batch, places, &plan.lengths, of, self.control)
            }
            Phase::Apply => {
                let corpus = read_all(&self.corpus);
                let Shared { pairs, queue } = &mut *write(&self.shares[task]);
                pairs.apply(&plan.batch.merges, &refs(&corpus), |pair, count| {
                    queue.enter(pair, count);
                });
                Ok(())
            }
        }
    }

    /// Fills a share with the pairs that occur `floor` times or more.
    fn gather(&self, floor: u64, share: &mut Shared<K>) -> Result<()> {
        let corpus = read_all(&self.corpus);
        let corpus = refs(&corpus);
        let others: usize = corpus.iter().map(|part| part.bytes()).sum();
        // Shares are alike.
        let room = |bytes| {
            let shares = bytes * self.shares.len();
            self.limits.memory.check(others + shares)
        };
        let Shared { pairs, queue } = share;
        queue.clear();
        pairs.gather(floor, &corpus, room)?;
        for (pair, count) in pairs.all() {
            queue.enter(pair, count);
        }
        self.control.check()
    }

    /// Bytes taken.
    fn bytes(&self) -> usize {
        let shares: usize = self.shares.iter().map(|share| read(share).bytes()).sum();
        let corpus: usize = self.corpus.iter().map(|part| read(part).bytes()).sum();
        shares + corpus
    }
}

struct Trainer<'a, 'c, R: Rule> {
    all: &'a All<'c, R::Key>,
    rule: R,
    /// Tokens below existed when the epoch began.
    born_before_epoch: u32,
    /// Runs a phase on all threads.
    run: &'a dyn Fn(Phase) -> Result<()>,
}

impl<R: Rule> Trainer<'_, '_, R> {
    fn lower_floor(&mut self, floor: u64) -> Result<()> {
        write(&self.all.plan).floor = floor;
        self.index()
    }

    /// Forgets all pairs and sites, and finds those above the floor in the corpus as it stands.
    fn index(&self) -> Result<()> {
        [Phase::Find, Phase::Gather, Phase::Put]
            .into_iter()
            .try_for_each(self.run)
    }

    /// Forgets sites that are gone and pairs that fell below the floor, where memory runs out.
    fn make_room(&mut self) -> Result<()> {
        let memory = self.all.limits.memory;
        if memory.fits(self.all.bytes()) {
            return Ok(());
        }
        self.index()?;
        // An eighth has to be free, so that the next merges do not call for it again.
        memory.check(self.all.bytes() / 7 * 8)
    }

    fn run(mut self) -> Result<Merges> {
        let mut merges = Merges::default();
        while merges.pairs.len() < self.all.limits.merges {
            self.all.control.check()?;
            let before = merges.pairs.len();
            if !self.next_batch(&mut merges) {
                break;
            }
            let floor = read(&self.all.plan).floor;
            if merges.pairs.len() > before {
                (self.run)(Phase::Join)?;
                (self.run)(Phase::Apply)?;
                self.all
                    .control
                    .advance((merges.pairs.len() - before) as u64);
                self.make_room()?;
            } else if floor > 1 {
                self.lower_floor(floor.div_ceil(FLOOR_STEP))?;
            } else {
                merges.exhausted = true;
                break;
            }
        }
        Ok(merges)
    }

    /// Plans the next merges and adds them to `merges`; none where no pair is left above the floor.
    /// Whether the limit of epochs allows for any.
    fn next_batch(&mut self, merges: &mut Merges) -> bool {
        let corpus = read_all(&self.all.corpus);
        let corpus = refs(&corpus);
        let mut shares: Vec<_> = self.all.shares.iter().map(write).collect();
        let Plan {
            floor,
            lengths,
            batch,
        } = &mut *write(&self.all.plan);
        batch.begin(lengths.len());
        for share in &mut shares {
            share.settle(&self.rule, *floor, &corpus, lengths);
        }
        while merges.pairs.len() < self.all.limits.merges {
            let best = (0..shares.len()).max_by_key(|&share| shares[share].queue.best());
            let share = best.unwrap_or_default();
            let Some(&Candidate { count, pair, .. }) = shares[share].queue.best() else {
                break;
            };
            let stretch = shares[share].pairs.stretch(pair);
            if !batch.takes(pair, stretch.1) {
                break;
            }
            let id = lengths.len() as u32;
            if pair.left.max(pair.right) >= self.born_before_epoch {
                if merges.epochs == self.all.limits.epochs {
                    return !batch.merges.is_empty();
                }
                merges.epochs += 1;
                self.born_before_epoch = id;
            }
            batch.push(Joined {
                pair,
                id,
                share,
                stretch,
            });
            merges.pairs.push((pair.left, pair.right));
            merges.counts.push(count);
            lengths.push(lengths[pair.left as usize] + lengths[pair.right as usize]);
            self.rule.born(pair);
            if !R::IN_BATCHES {
                batch.end();
            }
            shares[share].queue.pop();
            shares[share].settle(&self.rule, *floor, &corpus, lengths);
        }
        true
    }
}
