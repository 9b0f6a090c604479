//! Sixty-four bytes of text as masks of a bit a byte.
//!
//! [`Planes`] are the text turned on its side: eight masks, one for each bit of a byte. A class of
//! bytes is then a few operations on whole words (`0x30..=0x39` is `!b7 & !b6 & b5 & b4
//! & !(b3 & (b2 | b1))`), the same on any processor; only the turning differs: [`Portable`] does it
//! with exchanges of bits inside integers, [`Avx2`] gathers the top bits of 32 bytes at a time, and
//! `neon.rs` interleaves those of 64.
//!
//! [`Signs`] are the classes that ASCII text needs. They follow from the planes; comparing bytes
//! takes half the instructions where registers are wide.

/// The bytes in a block.
pub const WIDTH: usize = 64;

/// Bit i of mask k is bit k of byte i.
pub type Planes = [u64; 8];

/// The classes of a block's ASCII characters, and the bytes that are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signs {
    pub letter: u64,
    pub upper: u64,
    pub number: u64,
    pub white: u64,
    pub space: u64,
    /// CR and LF.
    pub line: u64,
    pub quote: u64,
    pub slash: u64,
    pub high: u64,
}

/// A way to turn a block.
pub trait Lanes {
    fn planes(block: &[u8; WIDTH]) -> Planes;

    fn signs(block: &[u8; WIDTH]) -> Signs;
}

impl Signs {
    #[inline(always)]
    pub fn of(planes: &Planes) -> Self {
        let &[b0, b1, b2, b3, b4, b5, b6, b7] = planes;
        // 0x41..=0x5A and 0x61..=0x7A: the low five bits are in 1..=26.
        let past_z = b4 & b3 & (b2 | b1 & b0);
        let letter = !b7 & b6 & (b4 | b3 | b2 | b1 | b0) & !past_z;
        let low = !(b7 | b6);
        let sign = low & b5 & !b4;
        let control = low & !(b5 | b4) & b3;
        let space = sign & !(b3 | b2 | b1 | b0);
        let nine_to_thirteen = control & (b2 & !b1 | !b2 & (b1 | b0));
        Self {
            letter,
            upper: letter & !b5,
            number: low & b5 & b4 & !(b3 & (b2 | b1)),
            white: space | nine_to_thirteen,
            space,
            line: control & (b2 & !b1 & b0 | !b2 & b1 & !b0),
            quote: sign & !b3 & b2 & b1 & b0,
            slash: sign & b3 & b2 & b1 & b0,
            high: b7,
        }
    }
}

/// Eight bytes at a time, in integers.
#[cfg(any(test, not(target_arch = "aarch64")))]
pub struct Portable;

#[cfg(any(test, not(target_arch = "aarch64")))]
impl Lanes for Portable {
    #[inline(always)]
    fn planes(block: &[u8; WIDTH]) -> Planes {
        let mut words = [0; 8];
        for (word, bytes) in words.iter_mut().zip(block.as_chunks::<8>().0) {
            *word = transposed(u64::from_le_bytes(*bytes));
        }
        // Byte k of word i belongs in mask k as its byte i: exchange bytes at ever larger distance.
        for (step, mask) in [
            (1, 0x00FF_00FF_00FF_00FF),
            (2, 0x0000_FFFF_0000_FFFF),
            (4, 0x0000_0000_FFFF_FFFF),
        ] {
            for i in (0..8).filter(|i| i & step == 0) {
                let exchanged = (words[i] >> (8 * step) ^ words[i + step]) & mask;
                words[i + step] ^= exchanged;
                words[i] ^= exchanged << (8 * step);
            }
        }
        words
    }

    #[inline(always)]
    fn signs(block: &[u8; WIDTH]) -> Signs {
        Signs::of(&Self::planes(block))
    }
}

/// Eight bytes as an 8 by 8 matrix of bits, with rows and columns exchanged.
#[cfg(any(test, not(target_arch = "aarch64")))]
#[inline(always)]
fn transposed(mut word: u64) -> u64 {
    for (distance, mask) in [
        (7, 0x00AA_00AA_00AA_00AA),
        (14, 0x0000_CCCC_0000_CCCC),
        (28, 0x0000_0000_F0F0_F0F0),
    ] {
        let exchanged = (word ^ word >> distance) & mask;
        word ^= exchanged ^ exchanged << distance;
    }
    word
}

#[cfg(target_arch = "x86_64")]
pub use avx2::Avx2;

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{Lanes, Planes, Signs, WIDTH};
    use std::arch::x86_64::*;

    /// Two times 32 bytes in vector registers.
    pub struct Avx2;

    impl Avx2 {
        /// Whether this processor has what [`Avx2`] and its callers are compiled for.
        pub fn detected() -> bool {
            is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("bmi1")
                && is_x86_feature_detected!("bmi2")
                && is_x86_feature_detected!("lzcnt")
                && is_x86_feature_detected!("popcnt")
        }
    }

    impl Lanes for Avx2 {
        #[inline(always)]
        fn planes(block: &[u8; WIDTH]) -> Planes {
            // SAFETY: `Avx2` is only used after `Avx2::detected`.
            unsafe { planes(block) }
        }

        #[inline(always)]
        fn signs(block: &[u8; WIDTH]) -> Signs {
            // SAFETY: `Avx2` is only used after `Avx2::detected`.
            unsafe { signs(block) }
        }
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn signs(block: &[u8; WIDTH]) -> Signs {
        let first: *const __m256i = block.as_ptr().cast();
        // SAFETY: both loads are inside the block.
        let (v, w) = unsafe { (_mm256_loadu_si256(first), _mm256_loadu_si256(first.add(1))) };
        let (small, smaller) = (in_lower_case(v), in_lower_case(w));
        let (blank, blank_too) = (between(v, b'\t', b'\r'), between(w, b'\t', b'\r'));
        let (space, space_too) = (equal(v, b' '), equal(w, b' '));
        Signs {
            letter: top_bits(between(small, b'a', b'z'), between(smaller, b'a', b'z')),
            upper: top_bits(between(v, b'A', b'Z'), between(w, b'A', b'Z')),
            number: top_bits(between(v, b'0', b'9'), between(w, b'0', b'9')),
            white: top_bits(
                _mm256_or_si256(blank, space),
                _mm256_or_si256(blank_too, space_too),
            ),
            space: top_bits(space, space_too),
            line: top_bits(
                _mm256_or_si256(equal(v, b'\r'), equal(v, b'\n')),
                _mm256_or_si256(equal(w, b'\r'), equal(w, b'\n')),
            ),
            quote: top_bits(equal(v, b'\''), equal(w, b'\'')),
            slash: top_bits(equal(v, b'/'), equal(w, b'/')),
            high: top_bits(v, w),
        }
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn equal(v: __m256i, byte: u8) -> __m256i {
        _mm256_cmpeq_epi8(v, _mm256_set1_epi8(byte as i8))
    }

    /// Letters in lower case, other bytes as others that are no letters.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn in_lower_case(v: __m256i) -> __m256i {
        _mm256_or_si256(v, _mm256_set1_epi8(0x20))
    }

    /// The bytes from `first` to `last`.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn between(v: __m256i, first: u8, last: u8) -> __m256i {
        // The range moves to the lowest of the signed numbers.
        let (moved, past) = (0x80_u8.wrapping_sub(first), 0x81 + (last - first));
        let moved = _mm256_add_epi8(v, _mm256_set1_epi8(moved as i8));
        _mm256_cmpgt_epi8(_mm256_set1_epi8(past as i8), moved)
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn planes(block: &[u8; WIDTH]) -> Planes {
        let first: *const __m256i = block.as_ptr().cast();
        // SAFETY: both loads are inside the block.
        let (v, w) = unsafe { (_mm256_loadu_si256(first), _mm256_loadu_si256(first.add(1))) };
        // A shift of pairs of bytes brings bit k to the top of each byte; what it moves across
        // from the neighbour stays below.
        [
            top_bits(_mm256_slli_epi16::<7>(v), _mm256_slli_epi16::<7>(w)),
            top_bits(_mm256_slli_epi16::<6>(v), _mm256_slli_epi16::<6>(w)),
            top_bits(_mm256_slli_epi16::<5>(v), _mm256_slli_epi16::<5>(w)),
            top_bits(_mm256_slli_epi16::<4>(v), _mm256_slli_epi16::<4>(w)),
            top_bits(_mm256_slli_epi16::<3>(v), _mm256_slli_epi16::<3>(w)),
            top_bits(_mm256_slli_epi16::<2>(v), _mm256_slli_epi16::<2>(w)),
            top_bits(_mm256_slli_epi16::<1>(v), _mm256_slli_epi16::<1>(w)),
            top_bits(v, w),
        ]
    }

    /// The top bit of each byte: `_mm256_movemask_epi8` twice, but opaque. LLVM sees through the
    /// intrinsic, moves the bit algebra of the callers into vectors, and takes those apart byte by
    /// byte (5x slower with rustc 1.95).
    #[target_feature(enable = "avx2")]
    #[inline]
    fn top_bits(v: __m256i, w: __m256i) -> u64 {
        let half = |v: __m256i| {
            let bits: u32;
            // SAFETY: one instruction of AVX2, from register to register.
            unsafe {
                std::arch::asm!(
                    "vpmovmskb {bits:e}, {v}",
                    bits = lateout(reg) bits,
                    v = in(ymm_reg) v,
                    options(pure, nomem, nostack, preserves_flags),
                );
            }
            u64::from(bits)
        };
        half(v) | half(w) << 32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks() -> impl Iterator<Item = [u8; WIDTH]> {
        let mut state = 1_u64;
        (0..1000).map(move |_| {
            std::array::from_fn(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state >> 56) as u8
            })
        })
    }

    fn bit_by_bit(block: &[u8; WIDTH]) -> Planes {
        std::array::from_fn(|k| (0..64).map(|i| u64::from(block[i] >> k & 1) << i).sum())
    }

    #[test]
    fn signs_are_told_of_every_byte_wherever_it_stands() {
        for byte in 0..=255_u8 {
            let told = [
                byte.is_ascii_alphabetic(),
                byte.is_ascii_uppercase(),
                byte.is_ascii_digit(),
                byte == b' ' || (9..14).contains(&byte),
                byte == b' ',
                byte == b'\r' || byte == b'\n',
                byte == b'\'',
                byte == b'/',
                byte >= 0x80,
            ];
            for at in 0..WIDTH {
                let mut block = [b'.'; WIDTH];
                block[at] = byte;
                let [
                    letter,
                    upper,
                    number,
                    white,
                    space,
                    line,
                    quote,
                    slash,
                    high,
                ] = told.map(|told| u64::from(told) << at);
                let expected = Signs {
                    letter,
                    upper,
                    number,
                    white,
                    space,
                    line,
                    quote,
                    slash,
                    high,
                };
                assert_eq!(Portable::signs(&block), expected, "{byte:x} at {at}");
                #[cfg(target_arch = "x86_64")]
                if Avx2::detected() {
                    assert_eq!(Avx2::signs(&block), expected, "{byte:x} at {at}");
                }
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn signs_of_noise_are_the_same() {
        if Avx2::detected() {
            assert!(blocks().all(|block| Avx2::signs(&block) == Portable::signs(&block)));
        }
    }

    #[test]
    fn portable_planes_are_those_taken_bit_by_bit() {
        assert!(blocks().all(|block| Portable::planes(&block) == bit_by_bit(&block)));
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn avx2_planes_are_those_taken_bit_by_bit() {
        if Avx2::detected() {
            assert!(blocks().all(|block| Avx2::planes(&block) == bit_by_bit(&block)));
        }
    }

    #[cfg(target_arch = "aarch64")]
    #[test]
    fn neon_planes_are_those_taken_bit_by_bit() {
        use super::super::neon::Neon;
        assert!(blocks().all(|block| Neon::planes(&block) == bit_by_bit(&block)));
    }
}
