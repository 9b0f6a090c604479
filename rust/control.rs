//! What a caller holds of long work: a flag that stops it, and counters that say how far it is.
//!
//! Workers only store to atomics; whoever waits for them (a Python thread, a test) polls. So no
//! callback ever runs on a worker thread, and the Python border can check for Ctrl-C between polls.

use crate::error::{Error, Result};
use std::cmp::Ordering;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64};

/// The stage that long work is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// Not begun.
    Idle = 0,
    /// Cutting text into pieces and counting them; the unit is bytes of text.
    Count = 1,
    /// Merging pairs; the unit is merges.
    Merge = 2,
    /// Turning text into ids; the unit is bytes of text.
    Encode = 3,
    /// Reading input to fingerprint it or to find its documents; the unit is bytes as stored.
    Read = 4,
    /// Adding up counted pieces that lie on disk; the unit is bytes there.
    Join = 5,
}

impl Stage {
    const ALL: [Self; 6] = [
        Self::Idle,
        Self::Count,
        Self::Merge,
        Self::Encode,
        Self::Read,
        Self::Join,
    ];

    /// The stage's name, as progress displays show it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Count => "count",
            Self::Merge => "merge",
            Self::Encode => "encode",
            Self::Read => "read",
            Self::Join => "join",
        }
    }
}

/// Shared by the work and its waiter; all methods take `&self`.
#[derive(Debug, Default)]
pub struct Control {
    stopped: AtomicBool,
    stage: AtomicU8,
    done: AtomicU64,
    total: AtomicU64,
    pieces: AtomicU64,
}

impl Control {
    /// Nothing begun, not stopped.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the work to end soon with [`Error::Interrupted`].
    pub fn stop(&self) {
        self.stopped.store(true, Relaxed);
    }

    /// Begins a stage of `total` units (0 where nobody knows).
    pub fn begin(&self, stage: Stage, total: u64) {
        self.done.store(0, Relaxed);
        self.total.store(total, Relaxed);
        self.stage.store(stage as u8, Relaxed);
    }

    /// Adds to the units done.
    pub fn advance(&self, units: u64) {
        self.done.fetch_add(units, Relaxed);
    }

    /// Adds to the distinct pieces met; threads that met the same one both count it.
    pub fn advance_pieces(&self, pieces: u64) {
        self.pieces.fetch_add(pieces, Relaxed);
    }

    /// Replaces the distinct pieces met, once they are known for all threads.
    pub fn set_pieces(&self, pieces: u64) {
        self.pieces.store(pieces, Relaxed);
    }

    /// Distinct pieces met, about while they are counted; 0 in work that counts none.
    pub fn pieces(&self) -> u64 {
        self.pieces.load(Relaxed)
    }

    /// Call it at least every few milliseconds of work.
    ///
    /// # Errors
    /// [`Error::Interrupted`] once [`Control::stop`] was called.
    pub fn check(&self) -> Result<()> {
        if self.stopped.load(Relaxed) {
            Err(Error::Interrupted)
        } else {
            Ok(())
        }
    }

    /// The stage, the units done, and the units in all (0: unknown).
    pub fn progress(&self) -> (Stage, u64, u64) {
        let stage = Stage::ALL[self.stage.load(Relaxed) as usize];
        (stage, self.done.load(Relaxed), self.total.load(Relaxed))
    }
}

/// Items sorted between two looks at the stop flag.
const SORTED_AT_ONCE: usize = 1 << 17;

/// Sorts as `sort_unstable_by`, and heeds the stop flag.
///
/// # Errors
/// [`Error::Interrupted`].
pub(crate) fn sort_by<T>(
    items: &mut [T],
    control: &Control,
    compare: impl Fn(&T, &T) -> Ordering + Copy,
) -> Result<()> {
    control.check()?;
    if items.len() <= SORTED_AT_ONCE {
        items.sort_unstable_by(compare);
        return Ok(());
    }
    let middle = items.len() / 2;
    items.select_nth_unstable_by(middle, compare);
    let (low, high) = items.split_at_mut(middle);
    sort_by(low, control, compare)?;
    sort_by(high, control, compare)
}
