//! What stands between the matrices of a feed-forward.

use super::vector::{read, write};
use super::{LANES, Number, for_each_processor, parts, run_all, take};

/// The activation of a feed-forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// silu(gate) x up, for rows of gate, then up (Shazeer 2020).
    SwiGlu,
    /// max(x, 0)^2 (So et al. 2021).
    SquaredRelu,
}

impl Activation {
    /// Inputs to an output.
    fn inputs(self) -> usize {
        match self {
            Self::SwiGlu => 2,
            Self::SquaredRelu => 1,
        }
    }
}

for_each_processor! {
    fn swiglu_rows<V, E>(zero, x: &[E], width: usize, y: &mut [E]) {
        for (row, y) in x.chunks_exact(2 * width).zip(y.chunks_exact_mut(width)) {
            let (gate, up) = row.split_at(width);
            let given = gate.chunks(LANES).zip(up.chunks(LANES));
            for (y, (gate, up)) in y.chunks_mut(LANES).zip(given) {
                let gate = read(zero, gate);
                write(gate.times(gate.sigmoid()).times(read(zero, up)), y);
            }
        }
    }
}

for_each_processor! {
    fn swiglu_rows_back<V, E>(zero, slope: &[E], x: &mut [E], width: usize) {
        let one = zero.splat(1.0);
        for (slope, row) in slope.chunks_exact(width).zip(x.chunks_exact_mut(2 * width)) {
            let (gate, up) = row.split_at_mut(width);
            let rows = gate.chunks_mut(LANES).zip(up.chunks_mut(LANES));
            for (slope, (gate, up)) in slope.chunks(LANES).zip(rows) {
                let (g, u, s) = (read(zero, gate), read(zero, up), read(zero, slope));
                let open = g.sigmoid();
                let s = s.times(open);
                write(s.times(g), up);
                write(s.times(u).times(one.add_product(g, one.minus(open))), gate);
            }
        }
    }
}

for_each_processor! {
    fn squared_relu_all<V, E>(zero, x: &[E], y: &mut [E]) {
        for (y, x) in y.chunks_mut(LANES).zip(x.chunks(LANES)) {
            let positive = read(zero, x).at_least(zero);
            write(positive.times(positive), y);
        }
    }
}

for_each_processor! {
    fn squared_relu_all_back<V, E>(zero, slope: &[E], x: &mut [E]) {
        for (x, slope) in x.chunks_mut(LANES).zip(slope.chunks(LANES)) {
            let slope = read(zero, slope);
            write(slope.add(slope).times(read(zero, x).at_least(zero)), x);
        }
    }
}

/// Writes `kind` of `x` to `y` (rows, width).
///
/// # Panics
/// Lengths disagree.
pub fn activate<E: Number>(
    kind: Activation,
    x: &[E],
    width: usize,
    mut y: &mut [E],
    threads: usize,
) {
    let each = kind.inputs() * width;
    assert!(width > 0 && y.len().is_multiple_of(width) && x.len() == kind.inputs() * y.len());
    let jobs = parts(y.len() / width, 4 * width, threads)
        .into_iter()
        .map(|rows| {
            let y = take(&mut y, rows.len() * width);
            let x = &x[rows.start * each..rows.end * each];
            move || match kind {
                Activation::SwiGlu => swiglu_rows(x, width, y),
                Activation::SquaredRelu => squared_relu_all(x, y),
            }
        });
    run_all(jobs.collect());
}

/// The backward of [`activate`]: `slope` is the loss' derivative by `y`; that by `x` takes its place.
///
/// # Panics
/// Lengths disagree.
pub fn activate_back<E: Number>(
    kind: Activation,
    slope: &[E],
    width: usize,
    mut x: &mut [E],
    threads: usize,
) {
    let each = kind.inputs() * width;
    assert!(width > 0 && slope.len().is_multiple_of(width));
    assert!(x.len() == kind.inputs() * slope.len());
    let jobs = parts(slope.len() / width, 4 * width, threads)
        .into_iter()
        .map(|rows| {
            let x = take(&mut x, rows.len() * each);
            let slope = &slope[rows.start * width..rows.end * width];
            move || match kind {
                Activation::SwiGlu => swiglu_rows_back(slope, x, width),
                Activation::SquaredRelu => squared_relu_all_back(slope, x),
            }
        });
    run_all(jobs.collect());
}
