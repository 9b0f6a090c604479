//! RMSNorm (Zhang and Sennrich 2019) behind the sum of the residual stream.

use super::{Number, add_up, for_each_processor, parts, run_all, sum_of, take};

for_each_processor! {
    fn add_norm_rows<V, E>(
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
            if let Some(branch) = branch {
                let sum = &mut sum[at.clone()];
                for ((sum, x), branch) in sum.iter_mut().zip(x).zip(&branch[at]) {
                    *sum = x + branch.get();
                }
                x = sum;
            }
            let squares = sum_of(width, |i| x[i] * x[i]);
            *scale = 1.0 / (squares / width as f32 + eps).sqrt();
            for ((y, x), gain) in y.iter_mut().zip(x).zip(gain) {
                *y = E::of(x * *scale * gain);
            }
        }
    }
}

for_each_processor! {
    fn norm_rows_back<V, E>(
        slope: &[E],
        x: &[f32],
        gain: &[f32],
        scale: &[f32],
        x_slope: &mut [f32],
        copy: &mut [E],
        gain_slope: &mut [f32],
    ) {
        let width = gain.len();
        let mut held = vec![0.0_f32; width];
        for (n, scale) in scale.iter().enumerate() {
            let at = n * width..(n + 1) * width;
            let (slope, x, out) = (&slope[at.clone()], &x[at.clone()], &mut x_slope[at.clone()]);
            let (held, gain, gain_slope) =
                (&mut held[..width], &gain[..width], &mut gain_slope[..width]);
            for i in 0..width {
                held[i] = slope[i].get();
            }
            let along = sum_of(width, |i| held[i] * gain[i] * x[i]) * scale * scale * scale
                / width as f32;
            for i in 0..width {
                out[i] += held[i] * gain[i] * scale - x[i] * along;
                gain_slope[i] += held[i] * x[i] * scale;
            }
            if !copy.is_empty() {
                for (copy, out) in copy[at].iter_mut().zip(out) {
                    *copy = E::of(*out);
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
