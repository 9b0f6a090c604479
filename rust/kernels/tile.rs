//! Small matrix products on vector registers: ROWS rows of the result at a time, held in registers
//! while they grow.
//!
//! Written with the processor's own vectors, since compilers do not keep an array of this size in
//! registers: attention of 32 x 4 heads, 64 x 16 each, took 14 ms forward and backward with arrays.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m256, __m512, _mm256_add_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps,
    _mm256_storeu_ps, _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps,
    _mm512_storeu_ps,
};

use super::LANES;

/// Rows of a product that are worked on together.
pub(super) const ROWS: usize = 8;

/// LANES numbers in the processor's registers.
pub(super) trait Vector: Copy {
    /// Vectors of columns that a tile holds besides ROWS rows without running out of registers.
    const COLUMNS: usize;

    /// # Safety
    /// The processor has the instructions, and LANES numbers are readable at `from`.
    unsafe fn load(from: *const f32) -> Self;
    /// # Safety
    /// The processor has the instructions, and LANES numbers are writable at `to`.
    unsafe fn store(self, to: *mut f32);
    /// # Safety
    /// The processor has the instructions.
    unsafe fn splat(x: f32) -> Self;
    /// # Safety
    /// The processor has the instructions.
    unsafe fn add(self, other: Self) -> Self;
    /// self + a x b.
    ///
    /// # Safety
    /// The processor has the instructions.
    unsafe fn add_product(self, a: Self, b: Self) -> Self;
}

/// For any processor.
#[derive(Clone, Copy)]
pub(super) struct Plain([f32; LANES]);

impl Vector for Plain {
    const COLUMNS: usize = 1;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller says that so many numbers are readable.
        Self(unsafe { from.cast::<[f32; LANES]>().read() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller says that so many numbers are writable.
        unsafe { to.cast::<[f32; LANES]>().write(self.0) };
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self([x; LANES])
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] + other.0[i]))
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] + a.0[i] * b.0[i]))
    }
}

/// For AVX2 with FMA.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Avx2(__m256, __m256);

#[cfg(target_arch = "x86_64")]
impl Vector for Avx2 {
    const COLUMNS: usize = 1;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller answers for the instructions and the memory.
        unsafe { Self(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller answers for the instructions and the memory.
        unsafe {
            _mm256_storeu_ps(to, self.0);
            _mm256_storeu_ps(to.add(8), self.1);
        }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: the caller answers for the instructions.
        unsafe { Self(_mm256_set1_ps(x), _mm256_set1_ps(x)) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: the caller answers for the instructions.
        unsafe {
            Self(
                _mm256_add_ps(self.0, other.0),
                _mm256_add_ps(self.1, other.1),
            )
        }
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: the caller answers for the instructions.
        unsafe {
            Self(
                _mm256_fmadd_ps(a.0, b.0, self.0),
                _mm256_fmadd_ps(a.1, b.1, self.1),
            )
        }
    }
}

/// For AVX-512.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Avx512(__m512);

#[cfg(target_arch = "x86_64")]
impl Vector for Avx512 {
    const COLUMNS: usize = 2;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller answers for the instructions and the memory.
        Self(unsafe { _mm512_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller answers for the instructions and the memory.
        unsafe { _mm512_storeu_ps(to, self.0) };
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: the caller answers for the instructions.
        Self(unsafe { _mm512_set1_ps(x) })
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: the caller answers for the instructions.
        Self(unsafe { _mm512_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: the caller answers for the instructions.
        Self(unsafe { _mm512_fmadd_ps(a.0, b.0, self.0) })
    }
}

/// A matrix as part of a slice: number (i, k) is at i x `row` + k x `column`.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub numbers: &'a [f32],
    pub row: usize,
    pub column: usize,
}

/// Adds to `out` the products of ROWS rows of `a` with `b` (depth, columns), whose rows begin
/// `stride` apart, and those of `out` `out_stride`. `columns` is a multiple of LANES.
///
/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
pub(super) unsafe fn add_product<V: Vector>(
    a: View,
    (b, stride): (&[f32], usize),
    depth: usize,
    (out, out_stride): (&mut [f32], usize),
    columns: usize,
) {
    let mut column = 0;
    while column < columns {
        let (b, out) = (&b[column..], &mut out[column..]);
        // SAFETY: the caller answers for the instructions.
        unsafe {
            if V::COLUMNS == 2 && columns - column >= 2 * LANES {
                tile::<V, 2>(a, b, stride, depth, out, out_stride);
                column += 2 * LANES;
            } else {
                tile::<V, 1>(a, b, stride, depth, out, out_stride);
                column += LANES;
            }
        }
    }
}

/// [`add_product`] for `C` vectors of columns.
#[inline(always)]
unsafe fn tile<V: Vector, const C: usize>(
    a: View,
    b: &[f32],
    stride: usize,
    depth: usize,
    out: &mut [f32],
    out_stride: usize,
) {
    if depth == 0 {
        return;
    }
    assert!((ROWS - 1) * a.row + (depth - 1) * a.column < a.numbers.len());
    assert!((depth - 1) * stride + C * LANES <= b.len());
    assert!((ROWS - 1) * out_stride + C * LANES <= out.len());
    let (a_at, b_at, out_at) = (a.numbers.as_ptr(), b.as_ptr(), out.as_mut_ptr());
    // SAFETY: the greatest index of each slice was checked above; the caller answers for the
    // instructions.
    unsafe {
        let mut sums = [[V::splat(0.0); C]; ROWS];
        for k in 0..depth {
            let mut b = [V::splat(0.0); C];
            for (c, b) in b.iter_mut().enumerate() {
                *b = V::load(b_at.add(k * stride + c * LANES));
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let a = V::splat(*a_at.add(row * a.row + k * a.column));
                for (sum, b) in sums.iter_mut().zip(&b) {
                    *sum = sum.add_product(a, *b);
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            for (c, sum) in sums.iter().enumerate() {
                let at = out_at.add(row * out_stride + c * LANES);
                V::load(at).add(*sum).store(at);
            }
        }
    }
}
