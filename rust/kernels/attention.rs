//! Causal attention with QK-norm and rotation, from rows of stacked queries, keys and values to what
//! each position gathers, and back.
//!
//! One head of one sequence at a time, so that all it needs lies in the nearest caches: queries and
//! keys are normalised and rotated as they are read, and a block of queries meets the keys up to its
//! own end. The backward works the weights out again from each row's log-sum (the idea of Dao et al.
//! 2022, FlashAttention). T positions, D numbers of a head; both are padded with zeros to whole
//! vectors, and what the padding computes is thrown away.

use super::tile::{ROWS, View, add_product};
use super::{
    LANES, Number, add_up, exp, for_each_processor, largest, parts, run_all, sum_of, take,
};

/// Queries whose weights are held at once in the backward, a multiple of `ROWS`.
const BLOCK: usize = 32;

/// How one row of queries, keys and values is divided, and what is done to it on the way.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// Positions of a sequence.
    pub length: usize,
    /// Query heads.
    pub queries: usize,
    /// Key heads, and value heads; divides `queries`.
    pub keys: usize,
    /// Numbers of a head.
    pub width: usize,
    /// Gains of normalised queries and of normalised keys; none: they are not normalised.
    pub gains: Option<(&'a [f32], &'a [f32])>,
    /// Under the root of the mean square.
    pub eps: f32,
    /// Cosines and signed sines, at least (length, width) each; none: nothing is rotated. Number i
    /// turns with number i + width / 2, and the sines of the first half carry a minus.
    pub rotation: Option<(&'a [f32], &'a [f32])>,
    /// Factor on the products of queries and keys.
    pub scale: f32,
}

impl Attention<'_> {
    fn row(&self) -> usize {
        (self.queries + 2 * self.keys) * self.width
    }

    /// Returns the number of sequences.
    fn check(&self, qkv: usize, y: usize, log_sums: usize) -> usize {
        let batch = qkv / (self.length * self.row()).max(1);
        assert!(qkv == batch * self.length * self.row());
        assert!(y == batch * self.length * self.queries * self.width);
        assert!(log_sums == batch * self.length * self.queries);
        assert!(self.keys > 0 && self.queries.is_multiple_of(self.keys));
        if let Some((cos, sin)) = self.rotation {
            assert!(cos.len() >= self.length * self.width && sin.len() == cos.len());
            assert!(self.width.is_multiple_of(2));
        }
        if let Some((q, k)) = self.gains {
            assert!(q.len() == self.width && k.len() == self.width);
        }
        batch
    }

    /// Numbers of a head, and positions, with their padding.
    fn padded(&self) -> (usize, usize) {
        (
            self.width.next_multiple_of(LANES),
            self.length.next_multiple_of(BLOCK),
        )
    }
}

/// Normed and rotated heads of one sequence, (positions, numbers) with padding.
struct Head {
    rows: Vec<f32>,
    /// Inverse root mean squares, where there are gains.
    inverse: Vec<f32>,
}

impl Head {
    fn new(width: usize, length: usize) -> Self {
        Self {
            rows: vec![0.0; width * length],
            inverse: vec![0.0; length],
        }
    }
}

/// What is done to one head on its way in, and undone on the way back.
#[derive(Clone, Copy)]
struct Way<'a> {
    /// Where the head begins in a row, and the length of a row.
    start: usize,
    stride: usize,
    width: usize,
    padded: usize,
    gain: Option<&'a [f32]>,
    eps: f32,
    rotation: Option<(&'a [f32], &'a [f32])>,
    factor: f32,
}

/// Calls `$function` with the head's width as a constant where it is a usual one, else 0.
macro_rules! by_width {
    ($width:expr, $function:ident::<$($number:ident),+>($($arg:expr),* $(,)?)) => {
        match $width {
            16 => $function::<16, $($number),+>($($arg),*),
            32 => $function::<32, $($number),+>($($arg),*),
            64 => $function::<64, $($number),+>($($arg),*),
            _ => $function::<0, $($number),+>($($arg),*),
        }
    };
}

#[inline(always)]
fn load<const W: usize, E: Number>(way: &Way, x: &[E], head: &mut Head) {
    let width = if W == 0 { way.width } else { W };
    let half = width / 2;
    let mut held = vec![0.0_f32; width];
    let held = &mut held[..width];
    let rows = x
        .chunks_exact(way.stride)
        .zip(head.rows.chunks_exact_mut(way.padded));
    for (position, (x, out)) in rows.enumerate() {
        let (x, out) = (&x[way.start..way.start + width], &mut out[..width]);
        for i in 0..width {
            held[i] = x[i].get();
        }
        if let Some(gain) = way.gain {
            let gain = &gain[..width];
            let squares = sum_of(width, |i| held[i] * held[i]);
            let inverse = 1.0 / (squares / width as f32 + way.eps).sqrt();
            head.inverse[position] = inverse;
            for i in 0..width {
                held[i] *= inverse * gain[i];
            }
        }
        if let Some((cos, sin)) = way.rotation {
            let (cos, sin) = (
                &cos[position * width..][..width],
                &sin[position * width..][..width],
            );
            for i in 0..half {
                out[i] = (held[i] * cos[i] + held[half + i] * sin[i]) * way.factor;
                out[half + i] =
                    (held[half + i] * cos[half + i] + held[i] * sin[half + i]) * way.factor;
            }
        } else {
            for i in 0..width {
                out[i] = held[i] * way.factor;
            }
        }
    }
}

/// The backward of [`load`], from the derivative by the head's rows to that by `x`.
#[inline(always)]
fn unload<const W: usize, E: Number>(
    way: &Way,
    slope: &[f32],
    inverse: &[f32],
    x: &[E],
    x_slope: &mut [E],
    gain_slope: &mut [f32],
) {
    let width = if W == 0 { way.width } else { W };
    let half = width / 2;
    let mut held = vec![0.0_f32; 2 * width];
    let (held, before) = held.split_at_mut(width);
    let rows = x
        .chunks_exact(way.stride)
        .zip(x_slope.chunks_exact_mut(way.stride));
    let rows = rows.zip(slope.chunks_exact(way.padded));
    for (position, ((x, out), slope)) in rows.enumerate() {
        let (x, out) = (&x[way.start..][..width], &mut out[way.start..][..width]);
        let slope = &slope[..width];
        if let Some((cos, sin)) = way.rotation {
            let (cos, sin) = (
                &cos[position * width..][..width],
                &sin[position * width..][..width],
            );
            for i in 0..half {
                held[i] = (slope[i] * cos[i] + slope[half + i] * sin[half + i]) * way.factor;
                held[half + i] = (slope[half + i] * cos[half + i] + slope[i] * sin[i]) * way.factor;
            }
        } else {
            for i in 0..width {
                held[i] = slope[i] * way.factor;
            }
        }
        if let Some(gain) = way.gain {
            let (gain, gain_slope) = (&gain[..width], &mut gain_slope[..width]);
            let inverse = inverse[position];
            for i in 0..width {
                before[i] = x[i].get();
            }
            let along =
                sum_of(width, |i| held[i] * gain[i] * before[i]) * inverse * inverse * inverse
                    / width as f32;
            for i in 0..width {
                gain_slope[i] += held[i] * before[i] * inverse;
                held[i] = held[i] * gain[i] * inverse - before[i] * along;
            }
        }
        for i in 0..width {
            out[i] = E::of(held[i]);
        }
    }
}

/// Writes the transpose of `rows` (length, width) to `columns` (width, length).
#[inline(always)]
fn transpose(rows: &[f32], width: usize, length: usize, columns: &mut [f32]) {
    for (first, block) in rows.chunks_exact(width * LANES).enumerate() {
        for (i, column) in columns.chunks_exact_mut(length).enumerate() {
            let column = &mut column[first * LANES..(first + 1) * LANES];
            for (lane, out) in column.iter_mut().enumerate() {
                *out = block[lane * width + i];
            }
        }
    }
}

/// Turns a row of scores, whole vectors, into weights for the first `seen` positions and zeros after;
/// returns the weights' sum and the log of the sum of the scores' exponentials.
#[inline(always)]
fn soften(scores: &mut [f32], seen: usize) -> (f32, f32) {
    scores[seen..].fill(f32::MIN);
    let most = largest(scores, f32::MIN);
    raise(scores, most);
    scores[seen..].fill(0.0);
    let total = sum_of(scores.len(), |i| scores[i]);
    (total, most + total.ln())
}

/// Replaces numbers, whole vectors, by e^(number - shift).
#[inline(always)]
fn raise(numbers: &mut [f32], shift: f32) {
    for vector in numbers.as_chunks_mut::<LANES>().0 {
        for number in vector {
            *number = exp(*number - shift);
        }
    }
}

for_each_processor! {
    fn sequences<V, E>(spec: &Attention, qkv: &[E], y: &mut [E], log_sums: &mut [f32]) {
        let (length, width) = (spec.length, spec.width);
        let (padded, positions) = spec.padded();
        let (row, gathered) = (spec.row(), spec.queries * width);
        let mut q = Head::new(padded, positions);
        let mut k = Head::new(padded, positions);
        let mut v = Head::new(padded, positions);
        let mut k_columns = vec![0.0; padded * positions];
        let mut scores = vec![0.0; ROWS * positions];
        let mut gathered_here = vec![0.0; ROWS * padded];
        let sequences = qkv.chunks_exact(length * row).zip(y.chunks_exact_mut(length * gathered));
        for ((qkv, y), log_sums) in sequences.zip(log_sums.chunks_exact_mut(length * spec.queries)) {
            for head in 0..spec.queries {
                let group = spec.queries / spec.keys;
                if head % group == 0 {
                    let way = spec.key(head / group);
                    by_width!(width, load::<E>(&way, qkv, &mut k));
                    transpose(&k.rows, padded, positions, &mut k_columns);
                    by_width!(width, load::<E>(&spec.value(head / group), qkv, &mut v));
                }
                by_width!(width, load::<E>(&spec.query(head), qkv, &mut q));
                for first in (0..length).step_by(ROWS) {
                    let reach = (first + ROWS).next_multiple_of(LANES);
                    for scores in scores.chunks_exact_mut(positions) {
                        scores[..reach].fill(0.0);
                    }
                    let queries = View { numbers: &q.rows[first * padded..], row: padded, column: 1 };
                    let keys = (k_columns.as_slice(), positions);
                    let out = (scores.as_mut_slice(), positions);
                    // SAFETY: this is compiled for, and called on, a processor that has `V`.
                    unsafe { add_product::<V>(queries, keys, padded, out, reach) };
                    let mut sums = [0.0; ROWS];
                    for (r, scores) in scores.chunks_exact_mut(positions).enumerate() {
                        let (total, log_sum) = soften(&mut scores[..reach], first + r + 1);
                        sums[r] = total;
                        if first + r < length {
                            log_sums[head * length + first + r] = log_sum;
                        }
                    }
                    let weights = View { numbers: &scores, row: positions, column: 1 };
                    let values = (v.rows.as_slice(), padded);
                    gathered_here.fill(0.0);
                    let out = (gathered_here.as_mut_slice(), padded);
                    // SAFETY: as above.
                    unsafe { add_product::<V>(weights, values, first + ROWS, out, padded) };
                    let rows = y.chunks_exact_mut(gathered).skip(first);
                    for ((y, out), sum) in rows.zip(gathered_here.chunks_exact(padded)).zip(sums) {
                        let share = 1.0 / sum;
                        let y = &mut y[head * width..(head + 1) * width];
                        for (y, out) in y.iter_mut().zip(out) {
                            *y = E::of(out * share);
                        }
                    }
                }
            }
        }
    }
}

for_each_processor! {
    fn sequences_back<V, E>(
        spec: &Attention,
        slope: &[E],
        qkv: &[E],
        log_sums: &[f32],
        qkv_slope: &mut [E],
        gain_slopes: &mut [f32],
    ) {
        let (length, width) = (spec.length, spec.width);
        let (padded, positions) = spec.padded();
        let (row, gathered) = (spec.row(), spec.queries * width);
        let (q_gain_slope, k_gain_slope) = gain_slopes.split_at_mut(width);
        let new_head = || Head::new(padded, positions);
        let (mut q, mut k, mut v, mut y) = (new_head(), new_head(), new_head(), new_head());
        let new = || vec![0.0_f32; padded * positions];
        let (mut k_columns, mut v_columns) = (new(), new());
        let (mut q_slope, mut k_slope, mut v_slope) = (new(), new(), new());
        let mut weights = vec![0.0; BLOCK * positions];
        let mut slopes = vec![0.0; BLOCK * positions];
        let sequences = qkv.chunks_exact(length * row).zip(qkv_slope.chunks_exact_mut(length * row));
        let given = slope.chunks_exact(length * gathered);
        let sequences = sequences.zip(given.zip(log_sums.chunks_exact(length * spec.queries)));
        for ((qkv, qkv_slope), (slope, log_sums)) in sequences {
            for head in 0..spec.queries {
                let group = spec.queries / spec.keys;
                let (key, value) = (spec.key(head / group), spec.value(head / group));
                if head % group == 0 {
                    by_width!(width, load::<E>(&key, qkv, &mut k));
                    by_width!(width, load::<E>(&value, qkv, &mut v));
                    transpose(&k.rows, padded, positions, &mut k_columns);
                    transpose(&v.rows, padded, positions, &mut v_columns);
                    k_slope.fill(0.0);
                    v_slope.fill(0.0);
                }
                let query = spec.query(head);
                by_width!(width, load::<E>(&query, qkv, &mut q));
                by_width!(width, load::<E>(&spec.gathered(head), slope, &mut y));
                q_slope.fill(0.0);
                for block in (0..length).step_by(BLOCK) {
                    let reach = block + BLOCK;
                    for first in (block..reach).step_by(ROWS) {
                        let here = (first - block) * positions..(first + ROWS - block) * positions;
                        let (weights, slopes) = (&mut weights[here.clone()], &mut slopes[here]);
                        for row in 0..ROWS {
                            weights[row * positions..][..reach].fill(0.0);
                            slopes[row * positions..][..reach].fill(0.0);
                        }
                        let own = (first + ROWS).next_multiple_of(LANES);
                        let at = first * padded;
                        let queries = View { numbers: &q.rows[at..], row: padded, column: 1 };
                        let givens = View { numbers: &y.rows[at..], row: padded, column: 1 };
                        let keys = (k_columns.as_slice(), positions);
                        let values = (v_columns.as_slice(), positions);
                        // SAFETY: this is compiled for, and called on, a processor that has `V`.
                        unsafe {
                            let out = (&mut *weights, positions);
                            add_product::<V>(queries, keys, padded, out, own);
                            let out = (&mut *slopes, positions);
                            add_product::<V>(givens, values, padded, out, own);
                        }
                        let rows = weights.chunks_exact_mut(positions);
                        for (r, (weights, slopes)) in
                            rows.zip(slopes.chunks_exact_mut(positions)).enumerate()
                        {
                            let position = first + r;
                            let seen = if position < length { position + 1 } else { 0 };
                            let log_sum =
                                if seen == 0 { 0.0 } else { log_sums[head * length + position] };
                            let (weights, slopes) = (&mut weights[..own], &mut slopes[..own]);
                            raise(weights, log_sum);
                            weights[seen..].fill(0.0);
                            let mean = sum_of(own, |i| weights[i] * slopes[i]);
                            let (vectors, weights) =
                                (slopes.as_chunks_mut::<LANES>().0, weights.as_chunks::<LANES>().0);
                            for (slopes, weights) in vectors.iter_mut().zip(weights) {
                                for (slope, weight) in slopes.iter_mut().zip(weights) {
                                    *slope = *weight * (*slope - mean);
                                }
                            }
                        }
                        let rows = View { numbers: slopes, row: positions, column: 1 };
                        let keys = (k.rows.as_slice(), padded);
                        let out = (&mut q_slope[at..], padded);
                        // SAFETY: as above.
                        unsafe { add_product::<V>(rows, keys, first + ROWS, out, padded) };
                    }
                    for first in (0..reach).step_by(ROWS) {
                        // Queries before the first of these keys do not see them.
                        let start = first.max(block);
                        let at = (start - block) * positions + first;
                        let depth = reach - start;
                        let by_columns =
                            |numbers| View { numbers, row: 1, column: positions };
                        let queries = (&q.rows[start * padded..], padded);
                        let givens = (&y.rows[start * padded..], padded);
                        // SAFETY: as above.
                        unsafe {
                            let out = (&mut k_slope[first * padded..], padded);
                            let columns = by_columns(&slopes[at..]);
                            add_product::<V>(columns, queries, depth, out, padded);
                            let out = (&mut v_slope[first * padded..], padded);
                            let columns = by_columns(&weights[at..]);
                            add_product::<V>(columns, givens, depth, out, padded);
                        }
                    }
                }
                by_width!(
                    width,
                    unload::<E>(&query, &q_slope, &q.inverse, qkv, qkv_slope, q_gain_slope)
                );
                if head % group == group - 1 {
                    by_width!(
                        width,
                        unload::<E>(&key, &k_slope, &k.inverse, qkv, qkv_slope, k_gain_slope)
                    );
                    by_width!(
                        width,
                        unload::<E>(&value, &v_slope, &v.inverse, qkv, qkv_slope, k_gain_slope)
                    );
                }
            }
        }
    }
}

impl<'a> Attention<'a> {
    fn way(&self, place: usize, stride: usize) -> Way<'a> {
        Way {
            start: place * self.width,
            stride,
            width: self.width,
            padded: self.padded().0,
            gain: None,
            eps: self.eps,
            rotation: None,
            factor: 1.0,
        }
    }

    fn query(&self, head: usize) -> Way<'a> {
        Way {
            gain: self.gains.map(|(q, _)| q),
            rotation: self.rotation,
            factor: self.scale,
            ..self.way(head, self.row())
        }
    }

    fn key(&self, head: usize) -> Way<'a> {
        Way {
            gain: self.gains.map(|(_, k)| k),
            rotation: self.rotation,
            ..self.way(self.queries + head, self.row())
        }
    }

    fn value(&self, head: usize) -> Way<'a> {
        self.way(self.queries + self.keys + head, self.row())
    }

    fn gathered(&self, head: usize) -> Way<'a> {
        self.way(head, self.queries * self.width)
    }
}

/// Writes what each position gathers to `y` (batch, length, query heads x width), and the log of each
/// query's sum of exponentials to `log_sums` (batch, query heads, length) for the backward. `qkv`:
/// (batch, length, all heads x width), queries, then keys, then values.
///
/// # Panics
/// Lengths disagree.
pub fn attention<E: Number>(
    spec: &Attention,
    qkv: &[E],
    mut y: &mut [E],
    mut log_sums: &mut [f32],
    threads: usize,
) {
    let batch = spec.check(qkv.len(), y.len(), log_sums.len());
    let sequence = spec.length * spec.row();
    let heads = spec.length * spec.queries;
    let jobs = parts(batch, work(spec), threads).into_iter().map(|range| {
        let y = take(&mut y, range.len() * heads * spec.width);
        let log_sums = take(&mut log_sums, range.len() * heads);
        let qkv = &qkv[range.start * sequence..range.end * sequence];
        move || sequences(spec, qkv, y, log_sums)
    });
    run_all(jobs.collect());
}

/// The backward of [`attention`]: `slope` is the loss' derivative by `y`. That by `qkv` is written to
/// `qkv_slope`; those by the gains of queries and keys are added to `gain_slopes`, one after the
/// other (2 x width).
///
/// # Panics
/// Lengths disagree.
pub fn attention_back<E: Number>(
    spec: &Attention,
    slope: &[E],
    qkv: &[E],
    log_sums: &[f32],
    mut qkv_slope: &mut [E],
    gain_slopes: &mut [f32],
    threads: usize,
) {
    let batch = spec.check(qkv.len(), slope.len(), log_sums.len());
    assert!(qkv_slope.len() == qkv.len() && gain_slopes.len() == 2 * spec.width);
    let sequence = spec.length * spec.row();
    let heads = spec.length * spec.queries;
    let ranges = parts(batch, 2 * work(spec), threads);
    let mut partial = vec![0.0; ranges.len() * gain_slopes.len()];
    let mut partials = partial.as_mut_slice();
    let jobs = ranges.into_iter().map(|range| {
        let qkv_slope = take(&mut qkv_slope, range.len() * sequence);
        let gain_slopes = take(&mut partials, 2 * spec.width);
        let slope = &slope[range.start * heads * spec.width..range.end * heads * spec.width];
        let log_sums = &log_sums[range.start * heads..range.end * heads];
        let qkv = &qkv[range.start * sequence..range.end * sequence];
        move || sequences_back(spec, slope, qkv, log_sums, qkv_slope, gain_slopes)
    });
    run_all(jobs.collect());
    add_up(&partial, gain_slopes);
}

/// About how many simple operations on a number one sequence takes.
fn work(spec: &Attention) -> usize {
    spec.length * (spec.row() + spec.queries * spec.length / 2)
}
