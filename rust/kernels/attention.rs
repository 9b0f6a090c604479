//! Causal attention with QK-norm and rotation, from rows of stacked queries, keys and values to what
//! each position gathers, and back.
//!
//! One head of one sequence at a time, so that all it needs lies in the nearest caches: queries and
//! keys are normalised and rotated as they are read, and a block of queries meets the keys up to its
//! own end, from the first that one of them sees on. The backward works the weights out again from
//! each row's log-sum (the idea of Dao et al. 2022, FlashAttention). T positions, D numbers of a head;
//! both are padded with zeros to whole vectors, and what the padding computes is thrown away.

use super::dropout::Dropout;
use super::tile::{ROWS, View, product};
use super::vector::{Vector, read, write};
use super::{LANES, Number, Sequences, add_up, for_each_processor, parts, run_all, take};
use std::ops::Range;

/// Queries whose weights are held at once in the backward, a multiple of `ROWS`.
const BLOCK: usize = 32;
/// Numbers of a head, at most.
pub const MAX_WIDTH: usize = 128;

/// How one row of queries, keys and values is divided, and what is done to it on the way.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// The sequences.
    pub sequences: Sequences<'a>,
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
    /// What falls out of the weights, (batch, query heads, length) rows of (length) columns.
    pub dropout: Option<Dropout>,
}

impl<'a> Attention<'a> {
    fn row(&self) -> usize {
        (self.queries + 2 * self.keys) * self.width
    }

    /// Returns the number of sequences.
    fn check(&self, qkv: usize, y: usize, log_sums: usize) -> usize {
        let (length, batch) = (self.sequences.length, self.sequences.check(qkv, self.row()));
        assert!(y == batch * length * self.queries * self.width);
        assert!(log_sums == batch * length * self.queries);
        assert!(self.keys > 0 && self.queries.is_multiple_of(self.keys));
        assert!(self.width <= MAX_WIDTH);
        if let Some((cos, sin)) = self.rotation {
            assert!(cos.len() >= length * self.width && sin.len() == cos.len());
            assert!(self.width.is_multiple_of(2));
        }
        if let Some((q, k)) = self.gains {
            assert!(q.len() == self.width && k.len() == self.width);
        }
        batch
    }

    /// The same for some of the sequences.
    fn only(&self, sequences: Range<usize>) -> Self {
        let rows = sequences.start * self.queries * self.sequences.length;
        Self {
            sequences: self.sequences.only(sequences),
            dropout: self.dropout.map(|dropout| dropout.from(rows)),
            ..*self
        }
    }

    /// What falls out of the weights of a query of `head`, of those from position `start` on.
    #[inline(always)]
    fn drop_weights<V: Vector>(
        &self,
        zero: V,
        (sequence, head, query): (usize, usize, usize),
        start: usize,
        weights: &mut [f32],
    ) {
        if let Some(dropout) = &self.dropout {
            let row = (sequence * self.queries + head) * self.sequences.length + query;
            dropout.row(row).apply(zero, start, weights);
        }
    }

    /// Numbers of a head, and positions, with their padding.
    fn padded(&self) -> (usize, usize) {
        (
            self.width.next_multiple_of(LANES),
            self.sequences.length.next_multiple_of(BLOCK),
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

/// Calls `$function` with room for the head's width, in vectors.
macro_rules! by_width {
    ($way:expr, $function:ident($($arg:expr),* $(,)?)) => {
        match $way.padded / LANES {
            0..=1 => $function::<1, _, _>($($arg),*),
            2 => $function::<2, _, _>($($arg),*),
            3..=4 => $function::<4, _, _>($($arg),*),
            _ => $function::<{ MAX_WIDTH / LANES }, _, _>($($arg),*),
        }
    };
}

// Functions of their own, so that each width is compiled once, not at every place that asks.
for_each_processor! {
    fn load<V, E>(zero, way: &Way, x: &[E], head: &mut Head) {
        by_width!(way, load_rows(zero, way, x, head));
    }
}

for_each_processor! {
    fn unload<V, E>(
        zero,
        way: &Way,
        slope: &[f32],
        inverse: &[f32],
        x: &[E],
        x_slope: &mut [E],
        gain_slope: &mut [f32],
    ) {
        by_width!(way, unload_rows(zero, way, slope, inverse, x, x_slope, gain_slope));
    }
}

/// Reads one head's numbers, zeros after them.
#[inline(always)]
fn row_of<const N: usize, V: Vector, E: Number>(zero: V, from: &[E]) -> [V; N] {
    let mut row = [zero; N];
    for (vector, from) in row.iter_mut().zip(from.chunks(LANES)) {
        *vector = read(zero, from);
    }
    row
}

impl Way<'_> {
    #[inline(always)]
    fn gain_row<const N: usize, V: Vector>(&self, zero: V) -> Option<[V; N]> {
        // No `map`: what it calls would be compiled for any processor.
        match self.gain {
            Some(gain) => Some(row_of(zero, gain)),
            None => None,
        }
    }
}

/// An array of vectors by number. It is a loop, since what the library calls for each number is
/// compiled for any processor, and not inlined.
macro_rules! vectors {
    ($zero:expr; $n:ident => $value:expr) => {{
        let mut row = [$zero; N];
        for $n in 0..N {
            row[$n] = $value;
        }
        row
    }};
}

/// The second half of `width` numbers before the first.
#[inline(always)]
fn turned<const N: usize, V: Vector>(zero: V, row: [V; N], width: usize) -> [V; N] {
    if width == LANES {
        return vectors!(zero; n => row[n].turned());
    }
    if N.is_multiple_of(2) && width == N * LANES {
        return vectors!(zero; n => row[(n + N / 2) % N]);
    }
    let mut numbers = [[0.0; LANES]; N];
    for (vector, numbers) in row.iter().zip(&mut numbers) {
        vector.store(numbers);
    }
    numbers.as_flattened_mut()[..width].rotate_left(width / 2);
    vectors!(zero; n => zero.load(&numbers[n]))
}

/// The sum of products.
#[inline(always)]
fn dot<const N: usize, V: Vector>(zero: V, a: &[V; N], b: &[V; N]) -> f32 {
    let mut sum = zero;
    for (a, b) in a.iter().zip(b) {
        sum = sum.add_product(*a, *b);
    }
    sum.total()
}

/// Reads a head of each row of `x`, normalised and rotated where that is its way.
#[inline(always)]
fn load_rows<const N: usize, V: Vector, E: Number>(zero: V, way: &Way, x: &[E], head: &mut Head) {
    let width = way.width;
    let gain: Option<[V; N]> = way.gain_row(zero);
    let factor = zero.splat(way.factor);
    let rows = x
        .chunks_exact(way.stride)
        .zip(head.rows.chunks_exact_mut(way.padded));
    for (position, (x, out)) in rows.enumerate() {
        let mut row: [V; N] = row_of(zero, &x[way.start..][..width]);
        if let Some(gain) = &gain {
            let inverse = 1.0 / (dot(zero, &row, &row) / width as f32 + way.eps).sqrt();
            head.inverse[position] = inverse;
            let inverse = zero.splat(inverse);
            row = vectors!(zero; n => row[n].times(inverse).times(gain[n]));
        }
        if let Some((cos, sin)) = way.rotation {
            let at = position * width..(position + 1) * width;
            let (cos, sin) = (row_of(zero, &cos[at.clone()]), row_of(zero, &sin[at]));
            let turned: [V; N] = turned(zero, row, width);
            row = rotated(zero, &row, &cos, &turned, &sin);
        }
        for (vector, out) in row.iter().zip(out.chunks_mut(LANES)) {
            write(vector.times(factor), out);
        }
    }
}

/// a b + c d, number by number.
#[inline(always)]
fn rotated<const N: usize, V: Vector>(
    zero: V,
    a: &[V; N],
    b: &[V; N],
    c: &[V; N],
    d: &[V; N],
) -> [V; N] {
    vectors!(zero; n => a[n].times(b[n]).add_product(c[n], d[n]))
}

/// The backward of [`load_rows`], from the derivative by the head's rows to that by `x`.
#[inline(always)]
fn unload_rows<const N: usize, V: Vector, E: Number>(
    zero: V,
    way: &Way,
    slope: &[f32],
    inverse: &[f32],
    x: &[E],
    x_slope: &mut [E],
    gain_slope: &mut [f32],
) {
    let width = way.width;
    let gain: Option<[V; N]> = way.gain_row(zero);
    let mut gain_sum = [zero; N];
    let factor = zero.splat(way.factor);
    let rows = x
        .chunks_exact(way.stride)
        .zip(x_slope.chunks_exact_mut(way.stride));
    let rows = rows.zip(slope.chunks_exact(way.padded));
    for (position, ((x, out), slope)) in rows.enumerate() {
        let mut row: [V; N] = row_of(zero, &slope[..width]);
        if let Some((cos, sin)) = way.rotation {
            let at = position * width..(position + 1) * width;
            let (cos, sin): ([V; N], [V; N]) =
                (row_of(zero, &cos[at.clone()]), row_of(zero, &sin[at]));
            let turned: [V; N] = turned(zero, vectors!(zero; n => row[n].times(sin[n])), width);
            row = vectors!(zero; n => turned[n].add_product(row[n], cos[n]));
        }
        row = vectors!(zero; n => row[n].times(factor));
        if let Some(gain) = &gain {
            let x: [V; N] = row_of(zero, &x[way.start..][..width]);
            let gained: [V; N] = vectors!(zero; n => row[n].times(gain[n]));
            let inverse = inverse[position];
            let along = dot(zero, &gained, &x) * inverse * inverse * inverse / width as f32;
            let (inverse, along) = (zero.splat(inverse), zero.splat(-along));
            gain_sum = vectors!(zero; n => gain_sum[n].add_product(row[n].times(x[n]), inverse));
            row = rotated(zero, &gained, &[inverse; N], &x, &[along; N]);
        }
        let out = &mut out[way.start..][..width];
        for (vector, out) in row.iter().zip(out.chunks_mut(LANES)) {
            write(*vector, out);
        }
    }
    if gain.is_some() {
        for (sum, out) in gain_sum.iter().zip(gain_slope.chunks_mut(LANES)) {
            write(read(zero, out).add(*sum), out);
        }
    }
}

/// Writes the transpose of `rows` (length, width) to `columns` (width, length).
#[inline(always)]
fn transpose<V: Vector>(zero: V, rows: &[f32], width: usize, length: usize, columns: &mut [f32]) {
    for first in (0..length).step_by(LANES) {
        for column in (0..width).step_by(LANES) {
            let rows = &rows[first * width + column..];
            zero.transpose(rows, width, &mut columns[column * length + first..], length);
        }
    }
}

/// Turns a row of scores, whole vectors, into weights for the first `seen` positions, which end in
/// the last vector, and zeros after; returns the weights' sum and the log of the sum of the scores'
/// exponentials.
#[inline(always)]
fn soften<V: Vector>(zero: V, scores: &mut [f32], seen: usize) -> (f32, f32) {
    let Some((last, before)) = scores.as_chunks_mut().0.split_last_mut() else {
        return (0.0, 0.0);
    };
    let kept = seen - before.len() * LANES;
    let end = zero.load(last).first(kept, f32::MIN);
    let mut most = end;
    for scores in &*before {
        most = most.at_least(zero.load(scores));
    }
    let most = most.largest();
    let shift = zero.splat(most);
    let mut total = end.minus(shift).exp().first(kept, 0.0);
    total.store(last);
    for scores in before {
        let weights = zero.load(scores).minus(shift).exp();
        weights.store(scores);
        total = total.add(weights);
    }
    let total = total.total();
    (total, most + total.ln())
}

/// The backward of [`soften`]: turns scores into weights again, and the loss' derivatives by weights
/// into those by scores.
#[inline(always)]
fn soften_back<V: Vector>(
    zero: V,
    scores: &mut [f32],
    slopes: &mut [f32],
    seen: usize,
    log_sum: f32,
) {
    let (scores, slopes) = (scores.as_chunks_mut().0, slopes.as_chunks_mut().0);
    let (shift, mut mean, mut left) = (zero.splat(log_sum), zero, seen);
    for (scores, slopes) in scores.iter_mut().zip(&*slopes) {
        let weights = zero.load(scores).minus(shift).exp().first(left, 0.0);
        left = left.saturating_sub(LANES);
        mean = mean.add_product(weights, zero.load(slopes));
        weights.store(scores);
    }
    let mean = zero.splat(mean.total());
    for (weights, slopes) in scores.iter().zip(slopes) {
        zero.load(weights)
            .times(zero.load(slopes).minus(mean))
            .store(slopes);
    }
}

for_each_processor! {
    fn sequences<V, E>(zero, spec: &Attention, qkv: &[E], y: &mut [E], log_sums: &mut [f32]) {
        let (length, width) = (spec.sequences.length, spec.width);
        let (padded, positions) = spec.padded();
        let (row, gathered) = (spec.row(), spec.queries * width);
        let mut q = Head::new(padded, positions);
        let mut k = Head::new(padded, positions);
        let mut v = Head::new(padded, positions);
        let mut k_columns = vec![0.0; padded * positions];
        let mut scores = vec![0.0; ROWS * positions];
        let mut gathered_here = vec![0.0; ROWS * padded];
        let sequences = qkv.chunks_exact(length * row).zip(y.chunks_exact_mut(length * gathered));
        let sequences = sequences.zip(log_sums.chunks_exact_mut(length * spec.queries));
        for (sequence, ((qkv, y), log_sums)) in sequences.enumerate() {
            for head in 0..spec.queries {
                let group = spec.queries / spec.keys;
                if head % group == 0 {
                    load(&spec.key(head / group), qkv, &mut k);
                    transpose(zero, &k.rows, padded, positions, &mut k_columns);
                    load(&spec.value(head / group), qkv, &mut v);
                }
                load(&spec.query(head), qkv, &mut q);
                for first in (0..length).step_by(ROWS) {
                    // From the first vector that one of these queries sees to the last.
                    let start = spec.sequences.first_seen(sequence, first) / LANES * LANES;
                    let reach = (first + ROWS).next_multiple_of(LANES);
                    let queries = View { numbers: &q.rows[first * padded..], row: padded, column: 1 };
                    let keys = (&k_columns[start..], positions);
                    let out = (&mut scores[start..], positions);
                    product::<false, V>(zero, queries, keys, padded, out, reach - start);
                    let mut sums = [0.0; ROWS];
                    for (r, scores) in scores.chunks_exact_mut(positions).enumerate() {
                        let hidden = start..spec.sequences.first_seen(sequence, first + r);
                        scores[hidden.clone()].fill(f32::MIN);
                        let seen = first + r + 1 - start;
                        let (total, log_sum) = soften(zero, &mut scores[start..reach], seen);
                        scores[hidden].fill(0.0);
                        let query = (sequence, head, first + r);
                        spec.drop_weights(zero, query, start, &mut scores[start..reach]);
                        sums[r] = total;
                        if first + r < length {
                            log_sums[head * length + first + r] = log_sum;
                        }
                    }
                    let weights = View { numbers: &scores[start..], row: positions, column: 1 };
                    let values = (&v.rows[start * padded..], padded);
                    let out = (gathered_here.as_mut_slice(), padded);
                    product::<false, V>(zero, weights, values, first + ROWS - start, out, padded);
                    let rows = y.chunks_exact_mut(gathered).skip(first);
                    for ((y, out), sum) in rows.zip(gathered_here.chunks_exact(padded)).zip(sums) {
                        let share = zero.splat(1.0 / sum);
                        let y = &mut y[head * width..(head + 1) * width];
                        for (y, out) in y.chunks_mut(LANES).zip(out.as_chunks().0) {
                            write(zero.load(out).times(share), y);
                        }
                    }
                }
            }
        }
    }
}

for_each_processor! {
    fn sequences_back<V, E>(
        zero,
        spec: &Attention,
        slope: &[E],
        qkv: &[E],
        log_sums: &[f32],
        qkv_slope: &mut [E],
        gain_slopes: &mut [f32],
    ) {
        let (length, width) = (spec.sequences.length, spec.width);
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
        for (sequence, ((qkv, qkv_slope), (slope, log_sums))) in sequences.enumerate() {
            for head in 0..spec.queries {
                let group = spec.queries / spec.keys;
                let (key, value) = (spec.key(head / group), spec.value(head / group));
                if head % group == 0 {
                    load(&key, qkv, &mut k);
                    load(&value, qkv, &mut v);
                    transpose(zero, &k.rows, padded, positions, &mut k_columns);
                    transpose(zero, &v.rows, padded, positions, &mut v_columns);
                    k_slope.fill(0.0);
                    v_slope.fill(0.0);
                }
                let query = spec.query(head);
                load(&query, qkv, &mut q);
                load(&spec.gathered(head), slope, &mut y);
                for block in (0..length).step_by(BLOCK) {
                    let first_seen = |position| spec.sequences.first_seen(sequence, position);
                    let first_vector = |position| first_seen(position) / LANES * LANES;
                    let (lowest, reach) = (first_vector(block), block + BLOCK);
                    for first in (block..reach).step_by(ROWS) {
                        let here = (first - block) * positions..(first + ROWS - block) * positions;
                        let (weights, slopes) = (&mut weights[here.clone()], &mut slopes[here]);
                        let (start, own) = (first_vector(first), (first + ROWS).next_multiple_of(LANES));
                        let at = first * padded;
                        let queries = View { numbers: &q.rows[at..], row: padded, column: 1 };
                        let givens = View { numbers: &y.rows[at..], row: padded, column: 1 };
                        let keys = (&k_columns[start..], positions);
                        let values = (&v_columns[start..], positions);
                        let out = (&mut weights[start..], positions);
                        product::<false, V>(zero, queries, keys, padded, out, own - start);
                        let out = (&mut slopes[start..], positions);
                        product::<false, V>(zero, givens, values, padded, out, own - start);
                        let rows = weights.chunks_exact_mut(positions);
                        let rows = rows.zip(slopes.chunks_exact_mut(positions));
                        for (position, (weights, slopes)) in (first..).zip(rows) {
                            let (seen, log_sum) = if position < length {
                                (position + 1 - start, log_sums[head * length + position])
                            } else {
                                (0, 0.0)
                            };
                            let hidden = first_seen(position);
                            weights[start..hidden].fill(f32::MIN);
                            let (here, back) = (&mut weights[start..own], &mut slopes[start..own]);
                            let query = (sequence, head, position);
                            spec.drop_weights(zero, query, start, back);
                            soften_back(zero, here, back, seen, log_sum);
                            spec.drop_weights(zero, query, start, here);
                            for numbers in [weights, slopes] {
                                numbers[lowest..hidden].fill(0.0);
                                numbers[own..reach].fill(0.0);
                            }
                        }
                        let rows = View { numbers: &slopes[start..], row: positions, column: 1 };
                        let keys = (&k.rows[start * padded..], padded);
                        let out = (&mut q_slope[at..], padded);
                        product::<false, V>(zero, rows, keys, first + ROWS - start, out, padded);
                    }
                    for first in (lowest..reach).step_by(ROWS) {
                        // Queries before the first of these keys do not see them.
                        let start = first.max(block);
                        let at = (start - block) * positions + first;
                        let depth = reach - start;
                        let by_columns = |numbers| View { numbers, row: 1, column: positions };
                        let queries = (&q.rows[start * padded..], padded);
                        let givens = (&y.rows[start * padded..], padded);
                        let out = (&mut k_slope[first * padded..], padded);
                        let columns = by_columns(&slopes[at..]);
                        product::<true, V>(zero, columns, queries, depth, out, padded);
                        let out = (&mut v_slope[first * padded..], padded);
                        let columns = by_columns(&weights[at..]);
                        product::<true, V>(zero, columns, givens, depth, out, padded);
                    }
                }
                unload(&query, &q_slope, &q.inverse, qkv, qkv_slope, q_gain_slope);
                if head % group == group - 1 {
                    unload(&key, &k_slope, &k.inverse, qkv, qkv_slope, k_gain_slope);
                    unload(&value, &v_slope, &v.inverse, qkv, qkv_slope, k_gain_slope);
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
    let sequence = spec.sequences.length * spec.row();
    let heads = spec.sequences.length * spec.queries;
    let jobs = parts(batch, work(spec), threads).into_iter().map(|range| {
        let y = take(&mut y, range.len() * heads * spec.width);
        let log_sums = take(&mut log_sums, range.len() * heads);
        let qkv = &qkv[range.start * sequence..range.end * sequence];
        let spec = spec.only(range);
        move || sequences(&spec, qkv, y, log_sums)
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
    let sequence = spec.sequences.length * spec.row();
    let heads = spec.sequences.length * spec.queries;
    let ranges = parts(batch, 2 * work(spec), threads);
    let mut partial = vec![0.0; ranges.len() * gain_slopes.len()];
    let mut partials = partial.as_mut_slice();
    let jobs = ranges.into_iter().map(|range| {
        let qkv_slope = take(&mut qkv_slope, range.len() * sequence);
        let gain_slopes = take(&mut partials, 2 * spec.width);
        let slope = &slope[range.start * heads * spec.width..range.end * heads * spec.width];
        let log_sums = &log_sums[range.start * heads..range.end * heads];
        let qkv = &qkv[range.start * sequence..range.end * sequence];
        let spec = spec.only(range);
        move || sequences_back(&spec, slope, qkv, log_sums, qkv_slope, gain_slopes)
    });
    run_all(jobs.collect());
    add_up(&partial, gain_slopes);
}

/// About how many simple operations on a number one sequence takes.
fn work(spec: &Attention) -> usize {
    spec.sequences.length * (spec.row() + spec.queries * spec.sequences.length / 2)
}
