//! The classes of 64 bytes of text at a time, as masks of a bit a byte.
//!
//! ASCII is classified by comparing all bytes at once: 8 in a register on any processor
//! ([`Portable`]), 32 with AVX2 ([`Avx2`]). Characters beyond ASCII are looked up one by one; all
//! bytes of a character carry its class.

use super::classes::Class;
use super::text::Text;

/// The bytes in a block.
pub const WIDTH: usize = 64;

/// The ASCII classes of a block. Bit i is byte i; bytes beyond ASCII are in `high` alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ascii {
    pub letter: u64,
    pub upper: u64,
    pub number: u64,
    pub white: u64,
    pub space: u64,
    pub line: u64,
    pub quote: u64,
    pub slash: u64,
    pub high: u64,
}

/// A way to classify the ASCII of a block.
pub trait Lanes {
    fn ascii(block: &[u8; WIDTH]) -> Ascii;
}

/// Eight bytes at a time in an integer register.
pub struct Portable;

impl Lanes for Portable {
    #[inline(always)]
    fn ascii(block: &[u8; WIDTH]) -> Ascii {
        let mut masks = Ascii::default();
        for (i, bytes) in block.as_chunks::<8>().0.iter().enumerate() {
            let word = u64::from_le_bytes(*bytes);
            let put = |mask: &mut u64, bits: u64| *mask |= gather(bits) << (8 * i);
            let upper = within(word, b'A', b'Z');
            let space = within(word, b' ', b' ');
            put(&mut masks.letter, upper | within(word, b'a', b'z'));
            put(&mut masks.upper, upper);
            put(&mut masks.number, within(word, b'0', b'9'));
            put(&mut masks.white, space | within(word, b'\t', b'\r'));
            put(&mut masks.space, space);
            put(
                &mut masks.line,
                within(word, b'\n', b'\n') | within(word, b'\r', b'\r'),
            );
            put(&mut masks.quote, within(word, b'\'', b'\''));
            put(&mut masks.slash, within(word, b'/', b'/'));
            put(&mut masks.high, word & TOPS);
        }
        masks
    }
}

const ONES: u64 = 0x0101_0101_0101_0101;
const TOPS: u64 = ONES << 7;

/// The top bit of each byte that is ASCII and in `first..=last`.
#[inline(always)]
fn within(word: u64, first: u8, last: u8) -> u64 {
    // With the top bits out of the way no sum carries into the next byte. The first sum has a top
    // bit from `first` on, the second beyond `last`.
    let low = word & !TOPS;
    let from_first = low + ONES * u64::from(0x80 - first);
    let past_last = low + ONES * u64::from(0x7F - last);
    (from_first ^ past_last) & TOPS & !word
}

/// The top bits of the bytes, side by side: bit i is byte i.
#[inline(always)]
fn gather(tops: u64) -> u64 {
    (tops >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
}

/// Two times 32 bytes in vector registers.
#[cfg(target_arch = "x86_64")]
pub struct Avx2;

#[cfg(target_arch = "x86_64")]
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

#[cfg(target_arch = "x86_64")]
impl Lanes for Avx2 {
    #[inline(always)]
    fn ascii(block: &[u8; WIDTH]) -> Ascii {
        // SAFETY: `Avx2` is only used after `Avx2::detected`.
        unsafe { ascii_avx2(block) }
    }
}

/// The classes by 32 bytes. What the caller does not use is not computed.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn ascii_avx2(block: &[u8; WIDTH]) -> Ascii {
    use std::arch::x86_64::*;
    // SAFETY: both loads are inside the block.
    let (v, w) = unsafe {
        let first: *const __m256i = block.as_ptr().cast();
        (_mm256_loadu_si256(first), _mm256_loadu_si256(first.add(1)))
    };
    let mask = |v, w| {
        let [low, high] = [top_bits(v), top_bits(w)];
        u64::from(low) | u64::from(high) << 32
    };
    let all = |byte: u8| _mm256_set1_epi8(byte.cast_signed());
    let eq = |v, byte| _mm256_cmpeq_epi8(v, all(byte));
    let is = |byte| mask(eq(v, byte), eq(w, byte));
    let within_half = |v, first: u8, last: u8| {
        let from = _mm256_sub_epi8(v, all(first));
        _mm256_cmpeq_epi8(_mm256_min_epu8(from, all(last - first)), from)
    };
    let within = |v, w, first, last| mask(within_half(v, first, last), within_half(w, first, last));
    let to_lower = |v| _mm256_or_si256(v, all(0x20));
    let letter = within(to_lower(v), to_lower(w), b'a', b'z');
    let space = is(b' ');
    Ascii {
        letter,
        // Bit 5 is what tells the cases apart.
        upper: letter & !mask(_mm256_slli_epi16::<2>(v), _mm256_slli_epi16::<2>(w)),
        number: within(v, w, b'0', b'9'),
        white: space | within(v, w, b'\t', b'\r'),
        space,
        line: is(b'\n') | is(b'\r'),
        quote: is(b'\''),
        slash: is(b'/'),
        high: mask(v, w),
    }
}

/// The top bit of each byte: `_mm256_movemask_epi8`, but opaque. LLVM sees through the intrinsic,
/// moves the bit algebra of the callers into vectors, and takes those apart byte by byte (4x slower
/// with rustc 1.95).
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn top_bits(v: std::arch::x86_64::__m256i) -> u32 {
    let bits;
    // SAFETY: one instruction of AVX2, from register to register.
    unsafe {
        std::arch::asm!(
            "vpmovmskb {bits:e}, {v}",
            bits = lateout(reg) bits,
            v = in(ymm_reg) v,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    bits
}

/// The classes of a block's characters.
#[derive(Clone, Copy, Debug)]
pub struct Masks {
    /// `\p{L}`.
    pub letter: u64,
    /// `Lu`, `Lt`.
    pub upper: u64,
    /// `Lm`, `Lo`.
    pub caseless: u64,
    pub mark: u64,
    pub number: u64,
    pub white: u64,
    /// The ASCII space, line ends (CR, LF), apostrophe and slash.
    pub space: u64,
    pub line: u64,
    pub quote: u64,
    pub slash: u64,
    /// The bytes of a character but its first.
    pub inner: u64,
    /// The bytes that the masks describe: whole characters, and at most what the text has left.
    pub valid: u64,
}

impl Masks {
    /// The classes of the text from `at`, which is inside it, up to [`WIDTH`] bytes on.
    #[inline(always)]
    pub fn read<L: Lanes>(text: Text<'_>, at: usize) -> Self {
        let rest = &text.bytes[at..];
        let (ascii, valid) = match rest.first_chunk::<WIDTH>() {
            Some(block) => (L::ascii(block), !0),
            None => {
                let mut block = [0; WIDTH];
                block[..rest.len()].copy_from_slice(rest);
                (L::ascii(&block), low(rest.len()))
            }
        };
        let masks = Self {
            letter: ascii.letter,
            upper: ascii.upper,
            caseless: 0,
            mark: 0,
            number: ascii.number,
            white: ascii.white,
            space: ascii.space,
            line: ascii.line,
            quote: ascii.quote,
            slash: ascii.slash,
            inner: 0,
            valid,
        };
        if ascii.high == 0 {
            masks
        } else {
            masks.with_high(ascii.high, text, at)
        }
    }

    /// Adds the characters beyond ASCII, whose bytes are `high`.
    fn with_high(mut self, mut high: u64, text: Text<'_>, at: usize) -> Self {
        let mut kinds = [0; 7];
        while high != 0 {
            let i = high.trailing_zeros() as usize;
            let (class, length) = text.at(at + i);
            if i + length > WIDTH {
                self.valid = low(i);
                break;
            }
            let bits = low(length) << i;
            kinds[class as usize] |= bits;
            self.inner |= bits & (bits << 1);
            high &= !bits;
        }
        self.upper |= kinds[Class::Upper as usize];
        self.caseless = kinds[Class::Caseless as usize];
        self.letter |= kinds[Class::Upper as usize] | kinds[Class::Lower as usize] | self.caseless;
        self.mark = kinds[Class::Mark as usize];
        self.number |= kinds[Class::Number as usize];
        self.white |= kinds[Class::White as usize];
        self
    }

    /// From the last bytes of characters to their first.
    #[inline(always)]
    pub fn firsts(&self, mut bits: u64) -> u64 {
        while bits & self.inner != 0 {
            bits = (bits & !self.inner) | (bits & self.inner) >> 1;
        }
        bits
    }

    /// From the first bytes of characters to those of the characters behind them.
    #[inline(always)]
    pub fn nexts(&self, bits: u64) -> u64 {
        let mut bits = bits << 1;
        while bits & self.inner != 0 {
            bits = (bits & !self.inner) | (bits & self.inner) << 1;
        }
        bits
    }
}

/// The lowest `count` bits, 64 at most.
#[inline(always)]
pub fn low(count: usize) -> u64 {
    if count >= 64 { !0 } else { (1 << count) - 1 }
}
