//! Small matrix products on vector registers: ROWS rows of the result at a time, held in registers
//! while they grow.

use super::LANES;
use super::vector::Vector;

/// Rows of a product that are worked on together.
pub(super) const ROWS: usize = 8;

/// A matrix as part of a slice: number (i, k) is at i x `row` + k x `column`.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub numbers: &'a [f32],
    pub row: usize,
    pub column: usize,
}

/// Writes to `out`, or with `ADD` adds to it, the products of ROWS rows of `a` with `b` (depth,
/// columns), whose rows begin `stride` apart, and those of `out` `out_stride`. `columns` is a multiple
/// of LANES.
#[inline(always)]
pub(super) fn product<const ADD: bool, V: Vector>(
    zero: V,
    a: View,
    (b, stride): (&[f32], usize),
    depth: usize,
    (out, out_stride): (&mut [f32], usize),
    columns: usize,
) {
    let mut column = 0;
    while column < columns {
        let wide = V::TILE.0 == 2 && columns - column >= 2 * LANES;
        for first in (0..ROWS).step_by(V::TILE.1) {
            let a = View {
                numbers: &a.numbers[first * a.row..],
                ..a
            };
            let (b, out) = (&b[column..], &mut out[first * out_stride + column..]);
            match (wide, V::TILE.1) {
                (true, ROWS) => tile::<ADD, V, 2, ROWS>(zero, a, b, stride, depth, out, out_stride),
                (_, ROWS) => tile::<ADD, V, 1, ROWS>(zero, a, b, stride, depth, out, out_stride),
                _ => tile::<ADD, V, 1, 4>(zero, a, b, stride, depth, out, out_stride),
            }
        }
        column += if wide { 2 * LANES } else { LANES };
    }
}

/// [`product`] for `C` vectors of columns and `R` rows.
#[inline(always)]
fn tile<const ADD: bool, V: Vector, const C: usize, const R: usize>(
    zero: V,
    a: View,
    b: &[f32],
    stride: usize,
    depth: usize,
    out: &mut [f32],
    out_stride: usize,
) {
    assert!(depth == 0 || (R - 1) * a.row + (depth - 1) * a.column < a.numbers.len());
    assert!(depth == 0 || (depth - 1) * stride + C * LANES <= b.len());
    let (a_at, b_at) = (a.numbers.as_ptr(), b.as_ptr());
    let mut sums = [[zero; C]; R];
    for k in 0..depth {
        let mut b = [zero; C];
        for (c, b) in b.iter_mut().enumerate() {
            // SAFETY: the greatest place that is read of `b` was checked above.
            *b = zero.load(unsafe { &*b_at.add(k * stride + c * LANES).cast() });
        }
        for (row, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the greatest place that is read of `a` was checked above.
            let a = zero.splat(unsafe { *a_at.add(row * a.row + k * a.column) });
            for (sum, b) in sums.iter_mut().zip(&b) {
                *sum = sum.add_product(a, *b);
            }
        }
    }
    for (sums, out) in sums.iter().zip(out.chunks_mut(out_stride)) {
        for (sum, out) in sums.iter().zip(out.as_chunks_mut::<LANES>().0) {
            let sum = if ADD { sum.add(zero.load(out)) } else { *sum };
            sum.store(out);
        }
    }
}
