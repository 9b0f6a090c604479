//! Dropout (Srivastava et al. 2014) whose choices follow from a key and from where a number stands.
//!
//! So the backward drops what the forward did without a mask in memory, and neither threads, nor the
//! order of work, nor the processor change what falls out. A row's key and a number's column are
//! hashed by two multiplications of 32 bits (constants by Chris Wellons' search for good ones), eight
//! operations on a vector for sixteen numbers.

use super::vector::{Vector, read, write};
use super::{LANES, Number, for_each_processor, parts, run_all, take};

/// What falls out of rows of numbers.
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    /// Other keys drop other numbers.
    pub key: u64,
    /// The number of the first row.
    pub first_row: usize,
    /// The share of numbers that become zero; the others are divided by what is left of one.
    pub share: f32,
}

/// What falls out of one row.
#[derive(Clone, Copy)]
pub(super) struct Row {
    seed: u32,
    /// Numbers whose hash lies below fall out.
    below: u32,
    factor: f32,
}

impl Dropout {
    /// The same for the rows from `row` on.
    pub(super) fn from(self, row: usize) -> Self {
        Self {
            first_row: self.first_row + row,
            ..self
        }
    }

    /// What falls out of row `row`.
    #[inline(always)]
    pub(super) fn row(&self, row: usize) -> Row {
        // A step of splitmix64 (Steele, Lea and Flood 2014).
        let place = (self.first_row + row + 1) as u64;
        let mut seed = self
            .key
            .wrapping_add(place.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        seed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        seed = (seed ^ (seed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Row {
            seed: (seed >> 32) as u32,
            below: (f64::from(self.share) * 2_f64.powi(32)) as u32,
            factor: 1.0 / (1.0 - self.share),
        }
    }
}

impl Row {
    /// What the numbers of LANES columns are multiplied with, from column `first` on.
    #[inline(always)]
    fn factors(&self, first: usize) -> [f32; LANES] {
        let mut factors = [0.0; LANES];
        for (column, factor) in (first as u32..).zip(&mut factors) {
            let mut hash = self.seed.wrapping_add(column.wrapping_mul(0x9e37_79b9));
            hash = (hash ^ (hash >> 16)).wrapping_mul(0x7feb_352d);
            hash = (hash ^ (hash >> 15)).wrapping_mul(0x846c_a68b);
            hash ^= hash >> 16;
            *factor = if hash < self.below { 0.0 } else { self.factor };
        }
        factors
    }

    /// Drops of a row's numbers, whose first stands in column `first`.
    #[inline(always)]
    pub(super) fn apply<V: Vector, E: Number>(&self, zero: V, first: usize, numbers: &mut [E]) {
        for (at, numbers) in (first..).step_by(LANES).zip(numbers.chunks_mut(LANES)) {
            let kept = read(zero, numbers).times(zero.load(&self.factors(at)));
            write(kept, numbers);
        }
    }
}

for_each_processor! {
    fn drop_rows<V, E>(zero, spec: Dropout, x: &mut [E], width: usize) {
        for (row, x) in x.chunks_mut(width).enumerate() {
            spec.row(row).apply(zero, 0, x);
        }
    }
}

/// Drops of `x` (rows, width).
///
/// # Panics
/// They are no whole rows.
pub fn drop_out<E: Number>(spec: Dropout, mut x: &mut [E], width: usize, threads: usize) {
    assert!(width > 0 && x.len().is_multiple_of(width));
    let jobs = parts(x.len() / width, width, threads)
        .into_iter()
        .map(|rows| {
            let x = take(&mut x, rows.len() * width);
            move || drop_rows(spec.from(rows.start), x, width)
        });
    run_all(jobs.collect());
}
