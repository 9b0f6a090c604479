//! RMSNorm (Zhang and Sennrich 2019) behind the sum of the residual stream.

use super::vector::{read, write};
use super::{LANES, Number, add_up, for_each_processor, parts, run_all, take};

for_each_processor! {
    fn add_norm_rows<V, E>(
        zero,
        x: &[f32],
        branch: Option<&[E]>,
        gain: &[f32],
        eps: f32,
        sum: &mut [f32],
        y: &mut [E],
        scale: &mut [f32],
    ) {
        let width = gain.len();
        for (n, scale) in scale.iter_mut().enumerate() {
            let at = n * width..(n + 1) * width;
            let (mut x, y) = (&x[at.clone()], &mut y[at.clone()]);
            let mut squares = zero;
            if let Some(branch) = branch {
                let sum = &mut sum[at.clone()];
                let added = x.chunks(LANES).zip(branch[at].chunks(LANES));
                for (sum, (x, branch)) in sum.chunks_mut(LANES).zip(added) {
                    let total = read(zero, x).add(read(zero, branch));
                    squares = squares.add_product(total, total);
                    write(total, sum);
                }
                x = sum;
            } else {
                for x in x.chunks(LANES) {
                    let x = read(zero, x);
                    squares = squares.add_product(x, x);
                }
            }
            *scale = 1.0 / (squares.total() / width as f32 + eps).sqrt();
            let factor = zero.splat(*scale);
            let read_from = x.chunks(LANES).zip(gain.chunks(LANES));
            for (y, (x, gain)) in y.chunks_mut(LANES).zip(read_from) {
                write(read(zero, x).times(factor).times(read(zero, gain)), y);
            }
        }
    }
}

for_each_processor! {
    fn norm_rows_back<V, E>(
        zero,
        slope: &[E],
        x: &[f32],
        gain: &[f32],
        scale: &[f32],
        x_slope: &mut [f32],
        copy: &mut [E],
        gain_slope: &mut [f32],
    ) {
        let width = gain.len();
        for (n, scale) in scale.iter().enumerate() {
            let at = n * width..(n + 1) * width;
            let (slope, x, out) = (&slope[at.clone()], &x[at.clone()], &mut x_slope[at.clone()]);
            let given = || slope.chunks(LANES).zip(x.chunks(LANES)).zip(gain.chunks(LANES));
            let mut along = zero;
            for ((slope, x), gain) in given() {
                let slope = read(zero, slope).times(read(zero, gain));
                along = along.add_product(slope, read(zero, x));
            }
            let along = -along.total() * scale * scale * scale / width as f32;
            let (along, factor) = (zero.splat(along), zero.splat(*scale));
            let outs = out.chunks_mut(LANES).zip(gain_slope.chunks_mut(LANES));
            for (((slope, x), gain), (out, gain_slope)) in given().zip(outs) {
                let (slope, x) = (read(zero, slope).times(factor), read(zero, x));
                write(read(zero, gain_slope).add_product(slope, x), gain_slope);
                let total = read(zero, out).add_product(slope, read(zero, gain));
                write(total.add_product(x, along), out);
            }
            if !copy.is_empty() {
                for (copy, out) in copy[at].chunks_mut(LANES).zip(out.chunks(LANES)) {
                    write(read(zero, out), copy);
                }
            }
        }
    }
}

/// Writes `x` + `branch` to `sum`, each row of that over its root mean square and times `gain` to
/// `y`, and the divisor's inverse to `scale`. Without a branch, `sum` is left alone and `x` is
/// normalised. `x`, `branch`, `sum`, `y`: (rows, width); `gain`: (width).
///
/// # Panics
/// Lengths disagree.
#[allow(clippy::too_many_arguments)]
pub fn add_norm<E: Number>(
    x: &[f32],
    branch: Option<&[E]>,
    gain: &[f32],
    eps: f32,
    mut sum: &mut [f32],
    mut y: &mut [E],
    mut scale: &mut [f32],
    threads: usize,
) {
    let width = gain.len();
    assert!(x.len() == y.len() && x.len() == scale.len() * width);
    assert!(branch.is_none_or(|branch| branch.len() == x.len() && sum.len() == x.len()));
    let jobs = parts(scale.len(), width, threads).into_iter().map(|rows| {
        let numbers = rows.start * width..rows.end * width;
        let y = take(&mut y, numbers.len());
        let sum = take(&mut sum, if branch.is_some() { numbers.len() } else { 0 });
        let scale = take(&mut scale, rows.len());
        let x = &x[numbers.clone()];
        let branch = branch.map(|branch| &branch[numbers]);
        move || add_norm_rows(x, branch, gain, eps, sum, y, scale)
    });
    run_all(jobs.collect());
}

/// The backward of [`add_norm`]: `slope` is the loss' derivative by `y`; those by what was
/// normalised, `x`, and by `gain` are added to `x_slope` and `gain_slope`. The new `x_slope` is
/// written to `copy` too, unless that is empty.
///
/// # Panics
/// Lengths disagree.
#[allow(clippy::too_many_arguments)]
pub fn norm_back<E: Number>(
    slope: &[E],
    x: &[f32],
    gain: &[f32],
    scale: &[f32],
    mut x_slope: &mut [f32],
    mut copy: &mut [E],
    gain_slope: &mut [f32],
    threads: usize,
) {
    let width = gain.len();
    assert!(x.len() == slope.len() && x.len() == x_slope.len());
    assert!(copy.is_empty() || copy.len() == x.len());
    assert!(x.len() == scale.len() * width && gain_slope.len() == width);
    let has_copy = !copy.is_empty();
    let ranges = parts(scale.len(), width, threads);
    let mut partial = vec![0.0; ranges.len() * width];
    let mut partials = partial.as_mut_slice();
    let jobs = ranges.into_iter().map(|rows| {
        let numbers = rows.start * width..rows.end * width;
        let x_slope = take(&mut x_slope, numbers.len());
        let copy = take(&mut copy, if has_copy { numbers.len() } else { 0 });
        let gain_slope = take(&mut partials, width);
        let (slope, x, scale) = (&slope[numbers.clone()], &x[numbers], &scale[rows]);
        move || norm_rows_back(slope, x, gain, scale, x_slope, copy, gain_slope)
    });
    run_all(jobs.collect());
    add_up(&partial, gain_slope);
}
