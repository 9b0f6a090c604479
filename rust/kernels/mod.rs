//! The parts of a transformer's training step on the CPU that are no matrix products, forward and
//! backward: norms with the residual sum, short convolutions, causal attention with QK-norm and
//! rotation, activations, dropout, cross-entropy, the optimizers' passes over the weights.
//!
//! An eager tensor library takes six to sixteen passes over memory for each of these, and at the
//! widths of a small GPT they cost more than its matrix products. Tensors are flat, row-major
//! slices; rows are divided over scoped threads where there are enough of them. What matrix products
//! read and write is of a [`Number`] type, float32 or bfloat16; all else, and all arithmetic, is
//! float32. The formulas are those of `python/microgpt/model`, whose plain versions are the oracle
//! of the tests.

mod activation;
mod attention;
mod dropout;
mod loss;
mod mix;
mod norm;
#[cfg(all(target_arch = "x86_64", test))]
mod tests;
mod tile;
mod update;
mod vector;

pub use activation::{Activation, activate, activate_back};
pub use attention::{Attention, MAX_WIDTH, attention, attention_back};
pub use dropout::{Dropout, drop_out};
pub use loss::cross_entropy;
pub use mix::{Mix, mix, mix_back};
pub use norm::{add_norm, norm_back};
pub use update::{muon_apply, muon_direction};

use std::ops::Range;

use vector::Vector;

/// Numbers that a thread must have before it is worth its start.
const NUMBERS_PER_THREAD: usize = 1 << 17;
/// Numbers worked on side by side, so that the compiler may use vector registers.
const LANES: usize = 16;

/// What a matrix product takes and gives: `f32`, or `u16` as the bits of a bfloat16.
pub trait Number: Copy + Default + Send + Sync {
    /// Its value.
    fn get(self) -> f32;
    /// The nearest number to `x`, ties to even.
    fn of(x: f32) -> Self;
    /// The values of so many.
    fn load<V: Vector>(proof: V, from: &[Self; LANES]) -> V;
    /// The nearest numbers.
    fn store<V: Vector>(vector: V, to: &mut [Self; LANES]);
}

impl Number for f32 {
    #[inline(always)]
    fn get(self) -> f32 {
        self
    }

    #[inline(always)]
    fn of(x: f32) -> Self {
        x
    }

    #[inline(always)]
    fn load<V: Vector>(proof: V, from: &[Self; LANES]) -> V {
        proof.load(from)
    }

    #[inline(always)]
    fn store<V: Vector>(vector: V, to: &mut [Self; LANES]) {
        vector.store(to);
    }
}

impl Number for u16 {
    #[inline(always)]
    fn get(self) -> f32 {
        f32::from_bits(u32::from(self) << 16)
    }

    #[inline(always)]
    fn of(x: f32) -> Self {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        // Rounding would carry some NaNs over into finite numbers.
        (if x.is_nan() { 0x7fc0 } else { rounded }) as u16
    }

    #[inline(always)]
    fn load<V: Vector>(proof: V, from: &[Self; LANES]) -> V {
        proof.load_low(from)
    }

    #[inline(always)]
    fn store<V: Vector>(vector: V, to: &mut [Self; LANES]) {
        vector.store_low(to);
    }
}

/// Compiles a function for AVX-512, for AVX2, and for what every processor of the target has, and
/// calls the best one that this processor runs. `V` is that processor's vector, and the first
/// parameter one of zeros.
macro_rules! for_each_processor {
    ($(#[$doc:meta])*
     fn $name:ident<$vector:ident, $number:ident>(
         $zero:ident, $($arg:ident: $kind:ty),* $(,)?
     ) $body:block) => {
        $(#[$doc])*
        #[allow(clippy::too_many_arguments)]
        fn $name<$number: $crate::kernels::Number>($($arg: $kind),*) {
            use $crate::kernels::vector::{self, Vector};
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn plain<$vector: Vector, $number: $crate::kernels::Number>(
                $zero: $vector, $($arg: $kind),*
            ) $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn avx512<$number: $crate::kernels::Number>($($arg: $kind),*) {
                    // SAFETY: this is compiled for these features.
                    plain::<_, $number>(unsafe { vector::Avx512::zero() }, $($arg),*);
                }
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn avx2<$number: $crate::kernels::Number>($($arg: $kind),*) {
                    // SAFETY: this is compiled for these features.
                    plain::<_, $number>(unsafe { vector::Avx2::zero() }, $($arg),*);
                }
                use $crate::kernels::Registers;
                match $crate::kernels::registers() {
                    // SAFETY: the processor has been found to have these features.
                    Registers::Avx512 => return unsafe { avx512::<$number>($($arg),*) },
                    // SAFETY: the processor has been found to have both features.
                    Registers::Avx2 => return unsafe { avx2::<$number>($($arg),*) },
                    Registers::Plain => {}
                }
            }
            // SAFETY: every processor has what this is compiled for.
            plain::<_, $number>(unsafe { vector::Plain::zero() }, $($arg),*);
        }
    };
}
use for_each_processor;

/// What functions are compiled for, the least first.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Registers {
    Plain,
    Avx2,
    Avx512,
}

/// The best that this processor has.
#[cfg(target_arch = "x86_64")]
#[inline]
fn detected() -> Registers {
    if !is_x86_feature_detected!("avx2") || !is_x86_feature_detected!("fma") {
        return Registers::Plain;
    }
    let has_avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    if has_avx512 {
        Registers::Avx512
    } else {
        Registers::Avx2
    }
}

#[cfg(all(target_arch = "x86_64", not(test)))]
use detected as registers;
#[cfg(all(target_arch = "x86_64", test))]
use tests::registers;

/// Sequences of one length that lie one after the other, and what their positions see.
#[derive(Clone, Copy, Debug)]
pub struct Sequences<'a> {
    /// Positions of each.
    pub length: usize,
    /// The first position that each position sees, (sequences, length), never less than the one
    /// before it does; none: they see all before them.
    pub first_seen: Option<&'a [u32]>,
}

impl<'a> Sequences<'a> {
    /// Returns how many sequences so many numbers are, `row` of them a position.
    ///
    /// # Panics
    /// They are no whole sequences, or see what they cannot.
    fn check(&self, numbers: usize, row: usize) -> usize {
        let count = numbers / (self.length * row).max(1);
        assert!(numbers == count * self.length * row);
        if let Some(first_seen) = self.first_seen {
            assert!(first_seen.len() == count * self.length);
            assert!(first_seen.chunks(self.length.max(1)).all(|first_seen| {
                let mut own = (0..).zip(first_seen);
                own.all(|(position, &first)| first <= position) && first_seen.is_sorted()
            }));
        }
        count
    }

    /// Some of them.
    fn only(self, range: Range<usize>) -> Self {
        let seen = |seen: &'a [u32]| &seen[range.start * self.length..range.end * self.length];
        Self {
            first_seen: self.first_seen.map(seen),
            ..self
        }
    }

    /// The first position that the one at `position` of a sequence sees; padding sees what the last
    /// position does.
    #[inline(always)]
    fn first_seen(&self, sequence: usize, position: usize) -> usize {
        match self.first_seen {
            Some(seen) => seen[sequence * self.length + position.min(self.length - 1)] as usize,
            None => 0,
        }
    }
}

/// Rows divided into at most `threads` ranges of near-equal length, each worth a thread.
fn parts(rows: usize, width: usize, threads: usize) -> Vec<Range<usize>> {
    let worth = (rows * width / NUMBERS_PER_THREAD).clamp(1, threads.max(1));
    let each = rows.div_ceil(worth).max(1);
    (0..rows)
        .step_by(each)
        .map(|start| start..rows.min(start + each))
        .collect()
}

/// The first `count` numbers of `rest`, which keeps the others.
fn take<'a, E>(rest: &mut &'a mut [E], count: usize) -> &'a mut [E] {
    let (head, tail) = std::mem::take(rest).split_at_mut(count);
    *rest = tail;
    head
}

/// Runs all jobs at once: the last on this thread, the others each on one of its own.
fn run_all<F: FnOnce() + Send>(mut jobs: Vec<F>) {
    let Some(last) = jobs.pop() else { return };
    if jobs.is_empty() {
        return last();
    }
    std::thread::scope(|scope| {
        for job in jobs {
            scope.spawn(job);
        }
        last();
    });
}

/// Adds the rows of `partial` to `total`, always in the same order.
fn add_up(partial: &[f32], total: &mut [f32]) {
    for row in partial.chunks_exact(total.len()) {
        for (total, part) in total.iter_mut().zip(row) {
            *total += part;
        }
    }
}
