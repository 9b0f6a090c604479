//! LANES numbers in a processor's registers.
//!
//! Written with the processor's own vectors, since compilers do not keep arrays of this size in
//! registers, and fold them through memory.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use super::{LANES, Number};

/// LANES numbers. A value proves that the processor has the instructions of its type, so only
/// making the first one is unsafe; methods that need no value take one as that proof.
pub trait Vector: Copy {
    /// Vectors of columns that a tile of a product holds without running out of registers, and rows.
    const TILE: (usize, usize);

    /// # Safety
    /// The processor has the instructions.
    unsafe fn zero() -> Self;
    fn splat(self, x: f32) -> Self;
    fn load(self, from: &[f32; LANES]) -> Self;
    fn store(self, to: &mut [f32; LANES]);
    /// From bfloat16.
    fn load_low(self, from: &[u16; LANES]) -> Self;
    /// To the nearest bfloat16, ties to even.
    fn store_low(self, to: &mut [u16; LANES]);
    fn add(self, other: Self) -> Self;
    fn minus(self, other: Self) -> Self;
    fn times(self, other: Self) -> Self;
    /// self + a x b.
    fn add_product(self, a: Self, b: Self) -> Self;
    /// The smaller one, or self where that is no number.
    fn at_most(self, other: Self) -> Self;
    /// The greater one, or self where that is no number.
    fn at_least(self, other: Self) -> Self;
    /// 1 / self, within two units in the last place.
    fn inverse(self) -> Self;
    /// 2 to the integers that numbers of 1.5 x 2^23 and so many more stand for.
    fn power_of_two(self) -> Self;
    fn total(self) -> f32;
    fn largest(self) -> f32;
    /// The first `count` numbers, and `rest` after them.
    fn first(self, count: usize, rest: f32) -> Self;
    /// The second half before the first.
    fn turned(self) -> Self;
    /// Writes LANES rows, `stride` apart, as columns, rows of which are `out_stride` apart.
    fn transpose(self, rows: &[f32], stride: usize, out: &mut [f32], out_stride: usize) {
        for (row, numbers) in rows.chunks(stride).take(LANES).enumerate() {
            for (column, x) in numbers[..LANES].iter().enumerate() {
                out[column * out_stride + row] = *x;
            }
        }
    }

    /// e^x within two units in the last place, for x clamped to -87..88.
    #[inline(always)]
    fn exp(self) -> Self {
        const ROUND: f32 = 12_582_912.0; // 1.5 x 2^23: adding it leaves the integer in the low bits
        let round = self.splat(ROUND);
        let x = self.at_least(self.splat(-87.0)).at_most(self.splat(88.0));
        let shifted = round.add_product(x, self.splat(std::f32::consts::LOG2_E));
        let whole = shifted.minus(round);
        let rest = x.add_product(whole, self.splat(-0.693_359_4));
        let rest = rest.add_product(whole, self.splat(2.121_944_4e-4));
        let mut power = self.splat(1.987_569_1e-4);
        for coefficient in [
            1.398_199_9e-3,
            8.333_452e-3,
            4.166_579_6e-2,
            1.666_666_5e-1,
            0.5,
        ] {
            power = self.splat(coefficient).add_product(power, rest);
        }
        let power = rest.add_product(power.times(rest), rest);
        let scale = shifted.power_of_two();
        scale.add_product(power, scale)
    }

    /// 1 / (1 + e^-x).
    #[inline(always)]
    fn sigmoid(self) -> Self {
        let one = self.splat(1.0);
        one.add(self.splat(0.0).minus(self).exp()).inverse()
    }
}

/// Reads up to LANES numbers; zeros follow them.
#[inline(always)]
pub(super) fn read<V: Vector, E: Number>(proof: V, from: &[E]) -> V {
    if let Ok(whole) = from.try_into() {
        return E::load(proof, whole);
    }
    let mut padded = [E::default(); LANES];
    padded[..from.len()].copy_from_slice(from);
    E::load(proof, &padded)
}

/// Writes as many numbers as `to` has room for, up to LANES.
#[inline(always)]
pub(super) fn write<V: Vector, E: Number>(vector: V, to: &mut [E]) {
    if let Ok(whole) = to.try_into() {
        return E::store(vector, whole);
    }
    let mut padded = [E::default(); LANES];
    E::store(vector, &mut padded);
    to.copy_from_slice(&padded[..to.len()]);
}

/// For any processor.
#[derive(Clone, Copy)]
pub(super) struct Plain([f32; LANES]);

impl Plain {
    #[inline(always)]
    fn each(mut self, change: impl Fn(f32) -> f32) -> Self {
        for x in &mut self.0 {
            *x = change(*x);
        }
        self
    }

    #[inline(always)]
    fn both(mut self, other: Self, join: impl Fn(f32, f32) -> f32) -> Self {
        for (x, other) in self.0.iter_mut().zip(other.0) {
            *x = join(*x, other);
        }
        self
    }
}

impl Vector for Plain {
    const TILE: (usize, usize) = (1, 4);

    #[inline(always)]
    unsafe fn zero() -> Self {
        Self([0.0; LANES])
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Self {
        Self([x; LANES])
    }
    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Self {
        Self(*from)
    }
    #[inline(always)]
    fn store(self, to: &mut [f32; LANES]) {
        *to = self.0;
    }
    #[inline(always)]
    fn load_low(self, from: &[u16; LANES]) -> Self {
        Self(from.map(Number::get))
    }
    #[inline(always)]
    fn store_low(self, to: &mut [u16; LANES]) {
        *to = self.0.map(u16::of);
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.both(other, |a, b| a + b)
    }
    #[inline(always)]
    fn minus(self, other: Self) -> Self {
        self.both(other, |a, b| a - b)
    }
    #[inline(always)]
    fn times(self, other: Self) -> Self {
        self.both(other, |a, b| a * b)
    }
    #[inline(always)]
    fn add_product(self, a: Self, b: Self) -> Self {
        self.add(a.times(b))
    }
    #[inline(always)]
    fn at_most(self, other: Self) -> Self {
        self.both(other, |a, b| if b < a { b } else { a })
    }
    #[inline(always)]
    fn at_least(self, other: Self) -> Self {
        self.both(other, |a, b| if b > a { b } else { a })
    }
    #[inline(always)]
    fn inverse(self) -> Self {
        self.each(|x| 1.0 / x)
    }
    #[inline(always)]
    fn power_of_two(self) -> Self {
        self.each(|x| f32::from_bits(x.to_bits().wrapping_add(127) << 23))
    }
    #[inline(always)]
    fn total(self) -> f32 {
        folded(self.0, |a, b| a + b)
    }
    #[inline(always)]
    fn largest(self) -> f32 {
        folded(self.0, |a, b| if b > a { b } else { a })
    }
    #[inline(always)]
    fn first(self, count: usize, rest: f32) -> Self {
        Self(std::array::from_fn(|i| {
            if i < count { self.0[i] } else { rest }
        }))
    }
    #[inline(always)]
    fn turned(self) -> Self {
        Self(std::array::from_fn(|i| self.0[(i + LANES / 2) % LANES]))
    }
}

/// For AVX2 with FMA.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Avx2(__m256, __m256);

// SAFETY of all that follows: a value of this type exists, so the processor has AVX2 and FMA; memory
// is reached through references to arrays of the size that is read or written.
#[allow(clippy::undocumented_unsafe_blocks)]
#[cfg(target_arch = "x86_64")]
impl Vector for Avx2 {
    const TILE: (usize, usize) = (1, 4);

    #[inline(always)]
    unsafe fn zero() -> Self {
        unsafe { Self(_mm256_setzero_ps(), _mm256_setzero_ps()) }
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Self {
        unsafe { Self(_mm256_set1_ps(x), _mm256_set1_ps(x)) }
    }
    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Self {
        let at = from.as_ptr();
        unsafe { Self(_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(8))) }
    }
    #[inline(always)]
    fn store(self, to: &mut [f32; LANES]) {
        let at = to.as_mut_ptr();
        unsafe {
            _mm256_storeu_ps(at, self.0);
            _mm256_storeu_ps(at.add(8), self.1);
        }
    }
    #[inline(always)]
    fn load_low(self, from: &[u16; LANES]) -> Self {
        let at: *const __m128i = from.as_ptr().cast();
        unsafe {
            Self(
                widened(_mm_loadu_si128(at)),
                widened(_mm_loadu_si128(at.add(1))),
            )
        }
    }
    #[inline(always)]
    fn store_low(self, to: &mut [u16; LANES]) {
        unsafe {
            let packed = _mm256_packus_epi32(rounded(self.0), rounded(self.1));
            let ordered = _mm256_permute4x64_epi64(packed, 0b11_01_10_00);
            _mm256_storeu_si256(to.as_mut_ptr().cast(), ordered);
        }
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        unsafe {
            Self(
                _mm256_add_ps(self.0, other.0),
                _mm256_add_ps(self.1, other.1),
            )
        }
    }
    #[inline(always)]
    fn minus(self, other: Self) -> Self {
        unsafe {
            Self(
                _mm256_sub_ps(self.0, other.0),
                _mm256_sub_ps(self.1, other.1),
            )
        }
    }
    #[inline(always)]
    fn times(self, other: Self) -> Self {
        unsafe {
            Self(
                _mm256_mul_ps(self.0, other.0),
                _mm256_mul_ps(self.1, other.1),
            )
        }
    }
    #[inline(always)]
    fn add_product(self, a: Self, b: Self) -> Self {
        unsafe {
            Self(
                _mm256_fmadd_ps(a.0, b.0, self.0),
                _mm256_fmadd_ps(a.1, b.1, self.1),
            )
        }
    }
    #[inline(always)]
    fn at_most(self, other: Self) -> Self {
        unsafe {
            Self(
                _mm256_min_ps(other.0, self.0),
                _mm256_min_ps(other.1, self.1),
            )
        }
    }
    #[inline(always)]
    fn at_least(self, other: Self) -> Self {
        unsafe {
            Self(
                _mm256_max_ps(other.0, self.0),
                _mm256_max_ps(other.1, self.1),
            )
        }
    }
    #[inline(always)]
    fn inverse(self) -> Self {
        let one = self.splat(1.0);
        unsafe { Self(_mm256_div_ps(one.0, self.0), _mm256_div_ps(one.1, self.1)) }
    }
    #[inline(always)]
    fn power_of_two(self) -> Self {
        unsafe { Self(exponents(self.0), exponents(self.1)) }
    }
    #[inline(always)]
    fn total(self) -> f32 {
        unsafe {
            let eight = _mm256_add_ps(self.0, self.1);
            let four = _mm_add_ps(
                _mm256_castps256_ps128(eight),
                _mm256_extractf128_ps(eight, 1),
            );
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }
    #[inline(always)]
    fn largest(self) -> f32 {
        unsafe {
            let eight = _mm256_max_ps(self.0, self.1);
            let four = _mm_max_ps(
                _mm256_castps256_ps128(eight),
                _mm256_extractf128_ps(eight, 1),
            );
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
    }
    #[inline(always)]
    fn first(self, count: usize, rest: f32) -> Self {
        let (low, high) = (count as f32, count as f32 - 8.0);
        unsafe { Self(first_of(self.0, low, rest), first_of(self.1, high, rest)) }
    }
    #[inline(always)]
    fn turned(self) -> Self {
        Self(self.1, self.0)
    }
}

/// Values of bfloat16.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn widened(x: __m128i) -> __m256 {
    _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16))
}

/// The nearest bfloat16, ties to even.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn rounded(x: __m256) -> __m256i {
    let bits = _mm256_castps_si256(x);
    let odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    let up = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
    let near = _mm256_srli_epi32(_mm256_add_epi32(bits, up), 16);
    let nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    _mm256_blendv_epi8(near, _mm256_set1_epi32(0x7fc0), nan)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn exponents(x: __m256) -> __m256 {
    let exponent = _mm256_add_epi32(_mm256_castps_si256(x), _mm256_set1_epi32(127));
    _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn first_of(x: __m256, count: f32, rest: f32) -> __m256 {
    let places = _mm256_setr_ps(0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0);
    let kept = _mm256_cmp_ps(places, _mm256_set1_ps(count), _CMP_LT_OQ);
    _mm256_blendv_ps(_mm256_set1_ps(rest), x, kept)
}

/// For AVX-512.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Avx512(__m512);

// SAFETY of all that follows: a value of this type exists, so the processor has AVX-512 F, BW, DQ and
// VL; memory is reached through references to arrays of the size that is read or written, and in
// `transpose` through slices whose length was checked.
#[allow(clippy::undocumented_unsafe_blocks)]
#[cfg(target_arch = "x86_64")]
impl Vector for Avx512 {
    const TILE: (usize, usize) = (2, 8);

    #[inline(always)]
    unsafe fn zero() -> Self {
        unsafe { Self(_mm512_setzero_ps()) }
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Self {
        unsafe { Self(_mm512_set1_ps(x)) }
    }
    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Self {
        unsafe { Self(_mm512_loadu_ps(from.as_ptr())) }
    }
    #[inline(always)]
    fn store(self, to: &mut [f32; LANES]) {
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), self.0) };
    }
    #[inline(always)]
    fn load_low(self, from: &[u16; LANES]) -> Self {
        unsafe {
            let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.as_ptr().cast()));
            Self(_mm512_castsi512_ps(_mm512_slli_epi32(bits, 16)))
        }
    }
    #[inline(always)]
    fn store_low(self, to: &mut [u16; LANES]) {
        unsafe {
            let bits = _mm512_castps_si512(self.0);
            let odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
            let up = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
            let near = _mm512_srli_epi32(_mm512_add_epi32(bits, up), 16);
            let nan = _mm512_cmp_ps_mask(self.0, self.0, _CMP_UNORD_Q);
            let near = _mm512_mask_blend_epi32(nan, near, _mm512_set1_epi32(0x7fc0));
            _mm256_storeu_si256(to.as_mut_ptr().cast(), _mm512_cvtepi32_epi16(near));
        }
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        unsafe { Self(_mm512_add_ps(self.0, other.0)) }
    }
    #[inline(always)]
    fn minus(self, other: Self) -> Self {
        unsafe { Self(_mm512_sub_ps(self.0, other.0)) }
    }
    #[inline(always)]
    fn times(self, other: Self) -> Self {
        unsafe { Self(_mm512_mul_ps(self.0, other.0)) }
    }
    #[inline(always)]
    fn add_product(self, a: Self, b: Self) -> Self {
        unsafe { Self(_mm512_fmadd_ps(a.0, b.0, self.0)) }
    }
    #[inline(always)]
    fn at_most(self, other: Self) -> Self {
        unsafe { Self(_mm512_min_ps(other.0, self.0)) }
    }
    #[inline(always)]
    fn at_least(self, other: Self) -> Self {
        unsafe { Self(_mm512_max_ps(other.0, self.0)) }
    }
    #[inline(always)]
    fn inverse(self) -> Self {
        // A division takes as long as 16 products; an estimate of 14 bits and one of Newton's steps
        // take five. Where the estimate is 0 or infinite, it stays.
        unsafe {
            let near = _mm512_rcp14_ps(self.0);
            let error = _mm512_fnmadd_ps(self.0, near, _mm512_set1_ps(1.0));
            let finite = _mm512_cmp_ps_mask(error, error, _CMP_ORD_Q);
            Self(_mm512_mask3_fmadd_ps(error, near, near, finite))
        }
    }
    #[inline(always)]
    fn power_of_two(self) -> Self {
        unsafe {
            let exponent = _mm512_add_epi32(_mm512_castps_si512(self.0), _mm512_set1_epi32(127));
            Self(_mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23)))
        }
    }
    #[inline(always)]
    fn total(self) -> f32 {
        unsafe { _mm512_reduce_add_ps(self.0) }
    }
    #[inline(always)]
    fn largest(self) -> f32 {
        unsafe { _mm512_reduce_max_ps(self.0) }
    }
    #[inline(always)]
    fn first(self, count: usize, rest: f32) -> Self {
        let kept = ((1_u32 << count.min(LANES)) - 1) as u16;
        unsafe { Self(_mm512_mask_blend_ps(kept, _mm512_set1_ps(rest), self.0)) }
    }
    #[inline(always)]
    fn turned(self) -> Self {
        unsafe { Self(_mm512_shuffle_f32x4(self.0, self.0, 0b01_00_11_10)) }
    }
    #[inline(always)]
    fn transpose(self, rows: &[f32], stride: usize, out: &mut [f32], out_stride: usize) {
        let (rows, out) = (
            &rows[..15 * stride + LANES],
            &mut out[..15 * out_stride + LANES],
        );
        let mut columns = unsafe { [_mm512_setzero_ps(); LANES] };
        for (i, column) in columns.iter_mut().enumerate() {
            *column = unsafe { _mm512_loadu_ps(rows.as_ptr().add(i * stride)) };
        }
        let columns = unsafe { transposed(columns) };
        for (i, column) in columns.into_iter().enumerate() {
            unsafe { _mm512_storeu_ps(out.as_mut_ptr().add(i * out_stride), column) };
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn transposed(rows: [__m512; LANES]) -> [__m512; LANES] {
    // Columns of each four rows side by side in the quarters of a register, then the quarters sorted.
    let mut fours = rows;
    for four in fours.as_chunks_mut::<4>().0 {
        let [a, b, c, d] = *four;
        let (ab, cd) = (_mm512_unpacklo_ps(a, b), _mm512_unpacklo_ps(c, d));
        let (ab2, cd2) = (_mm512_unpackhi_ps(a, b), _mm512_unpackhi_ps(c, d));
        *four = [
            _mm512_shuffle_ps(ab, cd, 0b01_00_01_00),
            _mm512_shuffle_ps(ab, cd, 0b11_10_11_10),
            _mm512_shuffle_ps(ab2, cd2, 0b01_00_01_00),
            _mm512_shuffle_ps(ab2, cd2, 0b11_10_11_10),
        ];
    }
    let mut columns = fours;
    for i in 0..4 {
        let [a, b, c, d] = [fours[i], fours[4 + i], fours[8 + i], fours[12 + i]];
        let even = _mm512_shuffle_f32x4(a, b, 0b10_00_10_00);
        let odd = _mm512_shuffle_f32x4(a, b, 0b11_01_11_01);
        let even2 = _mm512_shuffle_f32x4(c, d, 0b10_00_10_00);
        let odd2 = _mm512_shuffle_f32x4(c, d, 0b11_01_11_01);
        columns[i] = _mm512_shuffle_f32x4(even, even2, 0b10_00_10_00);
        columns[4 + i] = _mm512_shuffle_f32x4(odd, odd2, 0b10_00_10_00);
        columns[8 + i] = _mm512_shuffle_f32x4(even, even2, 0b11_01_11_01);
        columns[12 + i] = _mm512_shuffle_f32x4(odd, odd2, 0b11_01_11_01);
    }
    columns
}

/// `join` of all numbers, halves first: one after another would wait for each.
#[inline(always)]
fn folded(mut numbers: [f32; LANES], join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            numbers[i] = join(numbers[i], numbers[i + half]);
        }
        half /= 2;
    }
    numbers[0]
}
