//! One multiply-fold hash for the crate's tables. Tables bound their own cost, so nothing is lost to
//! an adversary who finds collisions but speed.

const FIRST: u64 = 0x9E37_79B9_7F4A_7C15;
const SECOND: u64 = 0xD1B5_4A32_D192_ED03;

/// The two halves of a 128-bit product, folded.
#[inline(always)]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ (product >> 64) as u64
}

/// Hashes sixteen bytes; the high bits are the good ones.
#[inline(always)]
pub(crate) fn hash_key(key: u128) -> u64 {
    hash_word(key as u64 ^ ((key >> 64) as u64).rotate_right(27))
}

/// Hashes a word; the high bits are the good ones.
#[inline(always)]
pub(crate) fn hash_word(word: u64) -> u64 {
    word.wrapping_mul(FIRST)
}

/// Hashes any bytes, their length included.
#[inline]
pub(crate) fn hash_bytes(bytes: &[u8]) -> u64 {
    let mut state = SECOND ^ bytes.len() as u64;
    let (chunks, tail) = bytes.as_chunks::<8>();
    for chunk in chunks {
        state = fold(state ^ u64::from_le_bytes(*chunk), FIRST);
    }
    let mut last = [0; 8];
    last[..tail.len()].copy_from_slice(tail);
    fold(state ^ u64::from_le_bytes(last), FIRST)
}
