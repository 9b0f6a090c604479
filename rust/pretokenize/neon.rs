//! The planes of a block in NEON's registers, which every aarch64 processor has.

use super::planes::{Lanes, Planes, Signs, WIDTH};
use std::arch::aarch64::*;

/// Sixty-four bytes as four registers of sixteen.
pub struct Neon;

impl Lanes for Neon {
    #[inline(always)]
    fn planes(block: &[u8; WIDTH]) -> Planes {
        // SAFETY: NEON is part of aarch64.
        unsafe { planes(block) }
    }

    #[inline(always)]
    fn signs(block: &[u8; WIDTH]) -> Signs {
        Signs::of(&Self::planes(block))
    }
}

#[target_feature(enable = "neon")]
#[inline]
fn planes(block: &[u8; WIDTH]) -> Planes {
    // SAFETY: the load is of the whole block. Register r takes the bytes 4i + r.
    let bytes = unsafe { vld4q_u8(block.as_ptr()) };
    [
        top_bits::<0x7>(bytes),
        top_bits::<0x6>(bytes),
        top_bits::<0x5>(bytes),
        top_bits::<0x4>(bytes),
        top_bits::<0x3>(bytes),
        top_bits::<0x2>(bytes),
        top_bits::<0x1>(bytes),
        top_bits::<0x0>(bytes),
    ]
}

/// The top bit of each byte, once all are shifted left by UP.
#[target_feature(enable = "neon")]
#[inline]
fn top_bits<const UP: i32>(uint8x16x4_t(a, b, c, d): uint8x16x4_t) -> u64 {
    let (a, b) = (vshlq_n_u8::<UP>(a), vshlq_n_u8::<UP>(b));
    let (c, d) = (vshlq_n_u8::<UP>(c), vshlq_n_u8::<UP>(d));
    // Shift right and insert: the top bits of four bytes become the upper half of one, d first.
    let (ab, cd) = (vsriq_n_u8::<1>(b, a), vsriq_n_u8::<1>(d, c));
    let four = vsriq_n_u8::<2>(cd, ab);
    let twice = vreinterpretq_u16_u8(vsriq_n_u8::<4>(four, four));
    // The lower half of the first byte of two, the upper half of the second.
    let eight = vshrn_n_u16::<4>(twice);
    vget_lane_u64::<0>(vreinterpret_u64_u8(eight))
}
