//! Threads that stand by for work of a few microseconds, which is too little to start them for.
//!
//! Work comes in rounds of tasks. Whoever is free takes the next task, the leader too: so a helper
//! that the system is not running holds nobody up unless it has a task.

use super::Phase;
use crate::error::Result;
use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Mutex, PoisonError, RwLock};

/// Looks at a flag before the processor is offered to others.
const SPINS: u32 = 1000;

/// What leader and helpers share.
struct Round {
    /// The number of the round, and in the low half that of the next task.
    next: AtomicU64,
    tasks: usize,
    phase: RwLock<Phase>,
    done: AtomicUsize,
    over: AtomicBool,
    panicked: AtomicBool,
    result: Mutex<Result<()>>,
}

/// Runs `lead` with a function that does a round: `work` for each task of a phase, on up to `tasks`
/// threads, returning the first error.
pub(super) fn with_crew<R>(
    tasks: usize,
    work: impl Fn(Phase, usize) -> Result<()> + Sync,
    lead: impl FnOnce(&dyn Fn(Phase) -> Result<()>) -> R,
) -> R {
    let round = Round {
        next: AtomicU64::new(tasks as u64),
        tasks,
        phase: RwLock::new(Phase::Find),
        done: AtomicUsize::new(0),
        over: AtomicBool::new(false),
        panicked: AtomicBool::new(false),
        result: Mutex::new(Ok(())),
    };
    let (round, work) = (&round, &work);
    std::thread::scope(|scope| {
        // Whichever way this ends, the helpers have to hear of it.
        let _over = OnDrop(|| round.over.store(true, Release));
        for _ in 1..tasks {
            scope.spawn(|| round.help(work));
        }
        lead(&|phase| round.run(phase, work))
    })
}

impl Round {
    fn help(&self, work: &impl Fn(Phase, usize) -> Result<()>) {
        wait_until(|| {
            self.take_tasks(work);
            self.over.load(Acquire)
        });
    }

    fn run(&self, phase: Phase, work: &impl Fn(Phase, usize) -> Result<()>) -> Result<()> {
        *self.phase.write().unwrap_or_else(PoisonError::into_inner) = phase;
        self.done.store(0, Relaxed);
        let number = self.next.load(Relaxed) >> 32;
        self.next.store((number + 1) << 32, Release);
        self.take_tasks(work);
        wait_until(|| self.done.load(Acquire) == self.tasks);
        assert!(!self.panicked.load(Relaxed), "a helper panicked");
        let mut result = self.result.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut result, Ok(()))
    }

    fn take_tasks(&self, work: &impl Fn(Phase, usize) -> Result<()>) {
        while let Some(task) = self.claim() {
            let _done = OnDrop(|| {
                if std::thread::panicking() {
                    self.panicked.store(true, Relaxed);
                }
                self.done.fetch_add(1, Release);
            });
            // The phase is that of the task: there is no next one until all tasks are done.
            let phase = *self.phase.read().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = work(phase, task) {
                let mut result = self.result.lock().unwrap_or_else(PoisonError::into_inner);
                *result = Err(error);
            }
        }
    }

    /// The next task of this round, if any is left.
    fn claim(&self) -> Option<usize> {
        let mut next = self.next.load(Acquire);
        loop {
            let task = next as u32 as usize;
            if task >= self.tasks {
                return None;
            }
            match self
                .next
                .compare_exchange_weak(next, next + 1, AcqRel, Acquire)
            {
                Ok(_) => return Some(task),
                Err(present) => next = present,
            }
        }
    }
}

fn wait_until(mut is_so: impl FnMut() -> bool) {
    let mut spins = 0;
    while !is_so() {
        spins += 1;
        if spins < SPINS {
            spin_loop();
        } else {
            std::thread::yield_now();
        }
    }
}

struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
