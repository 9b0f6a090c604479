//! A short causal convolution of each channel, beside the identity: each position adds to itself what
//! the few before it hold, each times a tap.

use super::vector::{read, write};
use super::{LANES, Number, Sequences, add_up, for_each_processor, parts, run_all, take};
use std::ops::Range;

/// How positions are mixed.
#[derive(Clone, Copy, Debug)]
pub struct Mix<'a> {
    /// The sequences.
    pub sequences: Sequences<'a>,
    /// The factors of each channel, (taps, width): of the position itself, of the one before it, ...
    pub taps: &'a [f32],
    /// Channels.
    pub width: usize,
}

impl<'a> Mix<'a> {
    /// Returns the number of sequences.
    fn check(&self, numbers: usize) -> usize {
        assert!(!self.taps.is_empty() && self.taps.len().is_multiple_of(self.width));
        self.sequences.check(numbers, self.width)
    }

    /// The same for some of the sequences.
    fn only(&self, sequences: Range<usize>) -> Self {
        Self {
            sequences: self.sequences.only(sequences),
            ..*self
        }
    }

    /// How many of the taps row `n` uses: no more than positions that it sees.
    #[inline(always)]
    fn reach(&self, n: usize) -> usize {
        let Sequences { length, .. } = self.sequences;
        let sees = n % length + 1 - self.sequences.first_seen(n / length, n % length);
        sees.min(self.taps.len() / self.width)
    }

    /// The part of row `n` of an array that begins at channel `at`.
    #[inline(always)]
    fn lanes(&self, n: usize, at: usize) -> Range<usize> {
        let start = n * self.width;
        start + at..start + self.width.min(at + LANES)
    }
}

for_each_processor! {
    fn mix_rows<V, E>(zero, spec: &Mix, x: &[E], y: &mut [E]) {
        for n in 0..x.len() / spec.width {
            let reach = spec.reach(n);
            for at in (0..spec.width).step_by(LANES) {
                let mut sum = read(zero, &x[spec.lanes(n, at)]);
                for tap in 0..reach {
                    let factor = read(zero, &spec.taps[spec.lanes(tap, at)]);
                    sum = sum.add_product(factor, read(zero, &x[spec.lanes(n - tap, at)]));
                }
                write(sum, &mut y[spec.lanes(n, at)]);
            }
        }
    }
}

for_each_processor! {
    fn mix_rows_back<V, E>(zero, spec: &Mix, x: &[E], slope: &mut [E], taps_slope: &mut [f32]) {
        let (rows, taps) = (x.len() / spec.width, spec.taps.len() / spec.width);
        for n in 0..rows {
            let reach = spec.reach(n);
            for at in (0..spec.width).step_by(LANES) {
                let given = read(zero, &slope[spec.lanes(n, at)]);
                for tap in 0..reach {
                    let sum = &mut taps_slope[spec.lanes(tap, at)];
                    let x = read(zero, &x[spec.lanes(n - tap, at)]);
                    write(read(zero, sum).add_product(given, x), sum);
                }
                // Rows that are still to come were not overwritten yet.
                let mut sum = given;
                for tap in 0..taps.min(rows - n) {
                    if spec.reach(n + tap) > tap {
                        let factor = read(zero, &spec.taps[spec.lanes(tap, at)]);
                        sum = sum.add_product(factor, read(zero, &slope[spec.lanes(n + tap, at)]));
                    }
                }
                write(sum, &mut slope[spec.lanes(n, at)]);
            }
        }
    }
}

/// Writes `x` mixed to `y`, both (batch, length, width).
///
/// # Panics
/// Lengths disagree.
pub fn mix<E: Number>(spec: &Mix, x: &[E], mut y: &mut [E], threads: usize) {
    let batch = spec.check(x.len());
    assert!(y.len() == x.len());
    let sequence = spec.sequences.length * spec.width;
    let jobs = parts(batch, sequence, threads).into_iter().map(|range| {
        let y = take(&mut y, range.len() * sequence);
        let x = &x[range.start * sequence..range.end * sequence];
        let spec = spec.only(range);
        move || mix_rows(&spec, x, y)
    });
    run_all(jobs.collect());
}

/// The backward of [`mix`]: turns `slope`, the loss' derivative by what was mixed, into that by `x`, and
/// adds that by the taps to `taps_slope`.
///
/// # Panics
/// Lengths disagree.
pub fn mix_back<E: Number>(
    spec: &Mix,
    x: &[E],
    mut slope: &mut [E],
    taps_slope: &mut [f32],
    threads: usize,
) {
    let batch = spec.check(x.len());
    assert!(slope.len() == x.len() && taps_slope.len() == spec.taps.len());
    let sequence = spec.sequences.length * spec.width;
    let ranges = parts(batch, 2 * sequence, threads);
    let mut partial = vec![0.0; ranges.len() * taps_slope.len()];
    let mut partials = partial.as_mut_slice();
    let jobs = ranges.into_iter().map(|range| {
        let slope = take(&mut slope, range.len() * sequence);
        let taps_slope = take(&mut partials, spec.taps.len());
        let x = &x[range.start * sequence..range.end * sequence];
        let spec = spec.only(range);
        move || mix_rows_back(&spec, x, slope, taps_slope)
    });
    run_all(jobs.collect());
    add_up(&partial, taps_slope);
}
