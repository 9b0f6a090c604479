//! The element-wise parts of a transformer's training step on the CPU, each forward and backward in
//! one pass over its numbers: RMSNorm, QK-norm with rotation, SwiGLU, squared ReLU.
//!
//! An eager tensor library takes six to sixteen passes for each of these, and at the widths of a
//! small GPT they cost more than its matrix products. Tensors are flat, row-major `f32` slices; rows
//! are divided over scoped threads where there are enough of them. The formulas are those of
//! `python/microgpt/model`, whose plain versions are the oracle of the tests.

use std::ops::Range;

/// Numbers that a thread must have before it is worth its start.
const NUMBERS_PER_THREAD: usize = 1 << 17;
/// Partial sums kept side by side, so that the compiler may use vector registers.
const LANES: usize = 16;

/// Compiles a function twice, for AVX2 and for what every processor of the target has, and calls
/// the better one that this processor runs.
macro_rules! for_each_processor {
    ($(#[$doc:meta])* fn $name:ident($($arg:ident: $kind:ty),* $(,)?) $body:block) => {
        $(#[$doc])*
        #[allow(clippy::too_many_arguments)]
        fn $name($($arg: $kind),*) {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn plain($($arg: $kind),*) $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn avx2($($arg: $kind),*) {
                    plain($($arg),*);
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: the processor has just been found to have both features.
                    return unsafe { avx2($($arg),*) };
                }
            }
            plain($($arg),*);
        }
    };
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
fn take<'a>(rest: &mut &'a mut [f32], count: usize) -> &'a mut [f32] {
    let (head, tail) = std::mem::take(rest).split_at_mut(count);
    *rest = tail;
    head
}

/// Runs all jobs at once: the last on this thread, the others each on one of its own.
fn run_all<F: FnOnce() + Send>(mut jobs: Vec<F>) {
    let Some(last) = jobs.pop() else { return };
    std::thread::scope(|scope| {
        for job in jobs {
            scope.spawn(job);
        }
        last();
    });
}

#[inline(always)]
fn sum_of(width: usize, term: impl Fn(usize) -> f32) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let whole = width - width % LANES;
    for start in (0..whole).step_by(LANES) {
        for (lane, sum) in sums.iter_mut().enumerate() {
            *sum += term(start + lane);
        }
    }
    let rest: f32 = (whole..width).map(term).sum();
    sums.iter().sum::<f32>() + rest
}

/// e^x within two units in the last place, for x clamped to -87..88; written to be vectorised.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 x 2^23: adding it leaves the integer in the low bits
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let whole = shifted - ROUND;
    let rest = (x - whole * 0.693_359_4) + whole * 2.121_944_4e-4;
    let mut power = 1.987_569_1e-4_f32;
    for coefficient in [
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ] {
        power = power * rest + coefficient;
    }
    let power = power * rest * rest + rest + 1.0;
    let exponent = shifted
        .to_bits()
        .wrapping_sub(ROUND.to_bits())
        .wrapping_add(127)
        << 23;
    power * f32::from_bits(exponent)
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

// RMSNorm

for_each_processor! {
    fn norm_rows(x: &[f32], gain: &[f32], eps: f32, y: &mut [f32], scale: &mut [f32]) {
        let width = gain.len();
        let rows = x.chunks_exact(width).zip(y.chunks_exact_mut(width)).zip(scale);
        for ((x, y), scale) in rows {
            let squares = sum_of(width, |i| x[i] * x[i]);
            *scale = 1.0 / (squares / width as f32 + eps).sqrt();
            for ((y, x), gain) in y.iter_mut().zip(x).zip(gain) {
                *y = x * *scale * gain;
            }
        }
    }
}

for_each_processor! {
    fn norm_rows_back(
        slope: &[f32],
        x: &[f32],
        gain: &[f32],
        scale: &[f32],
        x_slope: &mut [f32],
        gain_slope: &mut [f32],
    ) {
        let width = gain.len();
        let rows = slope.chunks_exact(width).zip(x.chunks_exact(width)).zip(scale);
        for (((slope, x), scale), out) in rows.zip(x_slope.chunks_exact_mut(width)) {
            let (slope, x) = (&slope[..width], &x[..width]);
            let along = sum_of(width, |i| slope[i] * gain[i] * x[i]) * scale * scale * scale
                / width as f32;
            for i in 0..width {
                out[i] = slope[i] * gain[i] * scale - x[i] * along;
                gain_slope[i] += slope[i] * x[i] * scale;
            }
        }
    }
}

/// Writes each row of `x`, divided by its root mean square and multiplied by `gain`, to `y`, and the
/// divisor's inverse to `scale`. `x`, `y`: (rows, width); `gain`: (width).
///
/// # Panics
/// Lengths disagree.
pub fn rms_norm(
    x: &[f32],
    gain: &[f32],
    eps: f32,
    mut y: &mut [f32],
    mut scale: &mut [f32],
    threads: usize,
) {
    let width = gain.len();
    assert!(x.len() == y.len() && x.len() == scale.len() * width);
    let jobs = parts(scale.len(), width, threads).into_iter().map(|rows| {
        let y = take(&mut y, rows.len() * width);
        let scale = take(&mut scale, rows.len());
        let x = &x[rows.start * width..rows.end * width];
        move || norm_rows(x, gain, eps, y, scale)
    });
    run_all(jobs.collect());
}

/// The backward of [`rms_norm`]: `slope` is the loss' derivative by `y`; those by `x` and by `gain`
/// are written.
///
/// # Panics
/// Lengths disagree.
pub fn rms_norm_back(
    slope: &[f32],
    x: &[f32],
    gain: &[f32],
    scale: &[f32],
    mut x_slope: &mut [f32],
    gain_slope: &mut [f32],
    threads: usize,
) {
    let width = gain.len();
    assert!(x.len() == slope.len() && x.len() == x_slope.len());
    assert!(x.len() == scale.len() * width && gain_slope.len() == width);
    let ranges = parts(scale.len(), width, threads);
    let mut partial = vec![0.0; ranges.len() * width];
    let mut partials = partial.as_mut_slice();
    let jobs = ranges.into_iter().map(|rows| {
        let x_slope = take(&mut x_slope, rows.len() * width);
        let gain_slope = take(&mut partials, width);
        let numbers = rows.start * width..rows.end * width;
        let (slope, x, scale) = (&slope[numbers.clone()], &x[numbers], &scale[rows]);
        move || norm_rows_back(slope, x, gain, scale, x_slope, gain_slope)
    });
    run_all(jobs.collect());
    add_up(&partial, gain_slope);
}

/// Writes the sum of the rows of `partial` to `total`, always in the same order.
fn add_up(partial: &[f32], total: &mut [f32]) {
    total.fill(0.0);
    for row in partial.chunks_exact(total.len()) {
        for (total, part) in total.iter_mut().zip(row) {
            *total += part;
        }
    }
}

// Heads

/// How one row of queries, keys and values is divided, and what is done to it on the way.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a> {
    /// Positions of a sequence.
    pub length: usize,
    /// Query heads.
    pub queries: usize,
    /// Key heads, and value heads.
    pub keys: usize,
    /// Numbers of a head.
    pub width: usize,
    /// Gains of normalised queries and of normalised keys; none: they are not normalised.
    pub gains: Option<(&'a [f32], &'a [f32])>,
    /// Under the root of the mean square.
    pub eps: f32,
    /// Cosines and signed sines, (length, width) each; none: nothing is rotated. Number i turns with
    /// number i + width / 2, and the sines of the first half carry a minus.
    pub rotation: Option<(&'a [f32], &'a [f32])>,
}

impl Heads<'_> {
    fn row(&self) -> usize {
        (self.queries + 2 * self.keys) * self.width
    }

    fn check(&self, numbers: usize, q: usize, k: usize, v: usize, scale: usize) -> usize {
        let batch = numbers / (self.length * self.row()).max(1);
        let position = batch * self.length * self.width;
        assert!(numbers == batch * self.length * self.row());
        assert!(q == position * self.queries && k == position * self.keys && v == k);
        assert!(scale == batch * self.length * (self.queries + self.keys));
        if let Some((cos, sin)) = self.rotation {
            assert!(cos.len() == self.length * self.width && sin.len() == cos.len());
            assert!(self.width.is_multiple_of(2));
        }
        if let Some((q, k)) = self.gains {
            assert!(q.len() == self.width && k.len() == self.width);
        }
        batch
    }

    #[inline(always)]
    fn gain(&self, head: usize) -> Option<&[f32]> {
        self.gains
            .map(|(q, k)| if head < self.queries { q } else { k })
    }

    #[inline(always)]
    fn turn(&self, position: usize) -> Option<(&[f32], &[f32])> {
        let at = position * self.width..(position + 1) * self.width;
        self.rotation.map(|(cos, sin)| (&cos[at.clone()], &sin[at]))
    }
}

/// Turns `from` into `to` by cosines and signed sines.
#[inline(always)]
fn rotate(from: &[f32], cos: &[f32], sin: &[f32], to: &mut [f32]) {
    let half = to.len() / 2;
    let (first, second) = from.split_at(half);
    let (low, high) = to.split_at_mut(half);
    for i in 0..half {
        low[i] = first[i] * cos[i] + second[i] * sin[i];
        high[i] = second[i] * cos[half + i] + first[i] * sin[half + i];
    }
}

/// Turns `from` into `to` by the transpose of [`rotate`].
#[inline(always)]
fn rotate_back(from: &[f32], cos: &[f32], sin: &[f32], to: &mut [f32]) {
    let half = to.len() / 2;
    let (first, second) = from.split_at(half);
    let (low, high) = to.split_at_mut(half);
    for i in 0..half {
        low[i] = first[i] * cos[i] + second[i] * sin[half + i];
        high[i] = second[i] * cos[half + i] + first[i] * sin[i];
    }
}

for_each_processor! {
    fn part_sequences(
        heads: &Heads,
        x: &[f32],
        q: &mut [f32],
        k: &mut [f32],
        v: &mut [f32],
        scale: &mut [f32],
    ) {
        let (length, width) = (heads.length, heads.width);
        let normed = heads.queries + heads.keys;
        let mut held = vec![0.0; width];
        for (n, row) in x.chunks_exact(heads.row()).enumerate() {
            let (sequence, position) = (n / length, n % length);
            for (head, x) in row.chunks_exact(width).enumerate() {
                let (out, of, head_there): (&mut [f32], usize, usize) = if head < heads.queries {
                    (&mut *q, heads.queries, head)
                } else if head < normed {
                    (&mut *k, heads.keys, head - heads.queries)
                } else {
                    (&mut *v, heads.keys, head - normed)
                };
                let at = ((sequence * of + head_there) * length + position) * width;
                let out = &mut out[at..at + width];
                if head >= normed {
                    out.copy_from_slice(x);
                    continue;
                }
                let held: &mut [f32] = &mut held;
                if let Some(gain) = heads.gain(head) {
                    let squares = sum_of(width, |i| x[i] * x[i]);
                    let inverse = 1.0 / (squares / width as f32 + heads.eps).sqrt();
                    scale[n * normed + head] = inverse;
                    for i in 0..width {
                        held[i] = x[i] * inverse * gain[i];
                    }
                } else {
                    held.copy_from_slice(x);
                }
                match heads.turn(position) {
                    Some((cos, sin)) => rotate(held, cos, sin, out),
                    None => out.copy_from_slice(held),
                }
            }
        }
    }
}

for_each_processor! {
    fn join_sequences(
        heads: &Heads,
        slopes: (&[f32], &[f32], &[f32]),
        x: &[f32],
        scale: &[f32],
        x_slope: &mut [f32],
        gain_slopes: &mut [f32],
    ) {
        let (length, width, row) = (heads.length, heads.width, heads.row());
        let normed = heads.queries + heads.keys;
        let mut held = vec![0.0; width];
        let rows = x.chunks_exact(row).zip(x_slope.chunks_exact_mut(row));
        for (n, (row, out)) in rows.enumerate() {
            let (sequence, position) = (n / length, n % length);
            let each = row.chunks_exact(width).zip(out.chunks_exact_mut(width)).enumerate();
            for (head, (x, out)) in each {
                let (slope, of, head_there) = if head < heads.queries {
                    (slopes.0, heads.queries, head)
                } else if head < normed {
                    (slopes.1, heads.keys, head - heads.queries)
                } else {
                    (slopes.2, heads.keys, head - normed)
                };
                let at = ((sequence * of + head_there) * length + position) * width;
                let slope = &slope[at..at + width];
                if head >= normed {
                    out.copy_from_slice(slope);
                    continue;
                }
                let held: &mut [f32] = &mut held;
                match heads.turn(position) {
                    Some((cos, sin)) => rotate_back(slope, cos, sin, held),
                    None => held.copy_from_slice(slope),
                }
                let Some(gain) = heads.gain(head) else {
                    out.copy_from_slice(held);
                    continue;
                };
                let inverse = scale[n * normed + head];
                let first = if head < heads.queries { 0 } else { width };
                let gain_slope = &mut gain_slopes[first..first + width];
                let along = sum_of(width, |i| held[i] * gain[i] * x[i])
                    * inverse * inverse * inverse / width as f32;
                for i in 0..width {
                    out[i] = held[i] * gain[i] * inverse - x[i] * along;
                    gain_slope[i] += held[i] * x[i] * inverse;
                }
            }
        }
    }
}

/// Parts rows of stacked queries, keys and values into `q` (batch, queries, length, width), `k` and
/// `v` (batch, keys, length, width); queries and keys are normalised and rotated on the way. `x`:
/// (batch, length, all heads, width); `scale` (batch, length, queries + keys) is for the backward.
///
/// # Panics
/// Lengths disagree.
pub fn part_heads(
    heads: &Heads,
    x: &[f32],
    mut q: &mut [f32],
    mut k: &mut [f32],
    mut v: &mut [f32],
    mut scale: &mut [f32],
    threads: usize,
) {
    let batch = heads.check(x.len(), q.len(), k.len(), v.len(), scale.len());
    let position = heads.length * heads.width;
    let sequence = heads.length * heads.row();
    let jobs = parts(batch, sequence, threads).into_iter().map(|range| {
        let q = take(&mut q, range.len() * position * heads.queries);
        let k = take(&mut k, range.len() * position * heads.keys);
        let v = take(&mut v, range.len() * position * heads.keys);
        let scale = take(
            &mut scale,
            range.len() * heads.length * (heads.queries + heads.keys),
        );
        let x = &x[range.start * sequence..range.end * sequence];
        move || part_sequences(heads, x, q, k, v, scale)
    });
    run_all(jobs.collect());
}

/// The backward of [`part_heads`]: `slopes` are the loss' derivatives by `q`, `k` and `v`; those by
/// `x`, and by the gains of queries and keys one after the other (2 x width), are written.
///
/// # Panics
/// Lengths disagree.
pub fn part_heads_back(
    heads: &Heads,
    slopes: (&[f32], &[f32], &[f32]),
    x: &[f32],
    scale: &[f32],
    mut x_slope: &mut [f32],
    gain_slopes: &mut [f32],
    threads: usize,
) {
    let (q, k, v) = slopes;
    let batch = heads.check(x.len(), q.len(), k.len(), v.len(), scale.len());
    assert!(x_slope.len() == x.len() && gain_slopes.len() == 2 * heads.width);
    let position = heads.length * heads.width;
    let sequence = heads.length * heads.row();
    let ranges = parts(batch, sequence, threads);
    let mut partial = vec![0.0; ranges.len() * gain_slopes.len()];
    let mut partials = partial.as_mut_slice();
    let jobs = ranges.into_iter().map(|range| {
        let x_slope = take(&mut x_slope, range.len() * sequence);
        let gain_slopes = take(&mut partials, 2 * heads.width);
        let of = |heads: usize| range.start * position * heads..range.end * position * heads;
        let slopes = (
            &q[of(heads.queries)],
            &k[of(heads.keys)],
            &v[of(heads.keys)],
        );
        let normed = heads.length * (heads.queries + heads.keys);
        let scale = &scale[range.start * normed..range.end * normed];
        let x = &x[range.start * sequence..range.end * sequence];
        move || join_sequences(heads, slopes, x, scale, x_slope, gain_slopes)
    });
    run_all(jobs.collect());
    add_up(&partial, gain_slopes);
}

// Activations

for_each_processor! {
    fn swiglu_rows(x: &[f32], width: usize, y: &mut [f32]) {
        for (row, y) in x.chunks_exact(2 * width).zip(y.chunks_exact_mut(width)) {
            let (gate, up) = row.split_at(width);
            for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
                *y = gate * sigmoid(*gate) * up;
            }
        }
    }
}

for_each_processor! {
    fn swiglu_rows_back(slope: &[f32], x: &[f32], width: usize, x_slope: &mut [f32]) {
        let rows = slope.chunks_exact(width).zip(x.chunks_exact(2 * width));
        for ((slope, row), out) in rows.zip(x_slope.chunks_exact_mut(2 * width)) {
            let (gate, up) = row.split_at(width);
            let (gate_slope, up_slope) = out.split_at_mut(width);
            let (slope, up) = (&slope[..width], &up[..width]);
            for i in 0..width {
                let open = sigmoid(gate[i]);
                up_slope[i] = slope[i] * gate[i] * open;
                gate_slope[i] = slope[i] * up[i] * open * (1.0 + gate[i] * (1.0 - open));
            }
        }
    }
}

for_each_processor! {
    fn squared_relu_all(x: &[f32], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            let positive = x.max(0.0);
            *y = positive * positive;
        }
    }
}

for_each_processor! {
    fn squared_relu_all_back(slope: &[f32], x: &[f32], x_slope: &mut [f32]) {
        for ((out, slope), x) in x_slope.iter_mut().zip(slope).zip(x) {
            *out = 2.0 * slope * x.max(0.0);
        }
    }
}

/// Writes silu(gate) x up to `y` (rows, width) for rows of `x` that are gate, then up.
///
/// # Panics
/// Lengths disagree.
pub fn swiglu(x: &[f32], width: usize, mut y: &mut [f32], threads: usize) {
    assert!(width > 0 && x.len() == 2 * y.len() && y.len().is_multiple_of(width));
    let jobs = parts(y.len() / width, 4 * width, threads)
        .into_iter()
        .map(|rows| {
            let y = take(&mut y, rows.len() * width);
            let x = &x[2 * rows.start * width..2 * rows.end * width];
            move || swiglu_rows(x, width, y)
        });
    run_all(jobs.collect());
}

/// The backward of [`swiglu`].
///
/// # Panics
/// Lengths disagree.
pub fn swiglu_back(
    slope: &[f32],
    x: &[f32],
    width: usize,
    mut x_slope: &mut [f32],
    threads: usize,
) {
    assert!(width > 0 && x.len() == 2 * slope.len() && slope.len().is_multiple_of(width));
    assert!(x_slope.len() == x.len());
    let jobs = parts(slope.len() / width, 4 * width, threads)
        .into_iter()
        .map(|rows| {
            let x_slope = take(&mut x_slope, 2 * rows.len() * width);
            let slope = &slope[rows.start * width..rows.end * width];
            let x = &x[2 * rows.start * width..2 * rows.end * width];
            move || swiglu_rows_back(slope, x, width, x_slope)
        });
    run_all(jobs.collect());
}

/// Writes max(x, 0)^2 to `y`.
///
/// # Panics
/// Lengths disagree.
pub fn squared_relu(x: &[f32], mut y: &mut [f32], threads: usize) {
    assert!(x.len() == y.len());
    let jobs = parts(x.len(), 1, threads).into_iter().map(|range| {
        let y = take(&mut y, range.len());
        let x = &x[range];
        move || squared_relu_all(x, y)
    });
    run_all(jobs.collect());
}

/// The backward of [`squared_relu`].
///
/// # Panics
/// Lengths disagree.
pub fn squared_relu_back(slope: &[f32], x: &[f32], mut x_slope: &mut [f32], threads: usize) {
    assert!(x.len() == slope.len() && x.len() == x_slope.len());
    let jobs = parts(x.len(), 1, threads).into_iter().map(|range| {
        let x_slope = take(&mut x_slope, range.len());
        let (slope, x) = (&slope[range.clone()], &x[range]);
        move || squared_relu_all_back(slope, x, x_slope)
    });
    run_all(jobs.collect());
}
