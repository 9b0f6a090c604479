//! Code points -> UTF-8, for text that arrives as numbers of 32 bits.

#[cfg(target_arch = "x86_64")]
use crate::encode::is_wide;

/// Code points handled together: ASCII at once, others one by one.
const TOGETHER: usize = 16;

/// Appends the UTF-8 of `text`; false, with any part of it appended, where a number is no character
/// (surrogates are none).
pub(crate) fn push_utf8(text: &[u32], out: &mut Vec<u8>) -> bool {
    out.reserve(4 * text.len());
    #[cfg(target_arch = "x86_64")]
    if is_wide() {
        // SAFETY: the processor has the features that the function is compiled for.
        return unsafe { push_wide(text, out) };
    }
    push_portable(text, out)
}

fn push_portable(text: &[u32], out: &mut Vec<u8>) -> bool {
    text.chunks(TOGETHER).all(|some| {
        if some.iter().fold(0, |all, code| all | code) < 0x80 {
            out.extend(some.iter().map(|&code| code as u8));
            return true;
        }
        some.iter().all(|&code| {
            let character = char::from_u32(code);
            if let Some(character) = character {
                out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            }
            character.is_some()
        })
    })
}

/// What the encoding of a code point looks like, first byte highest: the bits that it fills, the bits
/// that are set besides, and how many bytes there are.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Form {
    payload: u32,
    marks: u32,
    length: usize,
}

/// By the number of leading zeros of the code point.
#[cfg(target_arch = "x86_64")]
static FORMS: [Form; 33] = {
    let mut forms = [Form {
        payload: 0x073F_3F3F,
        marks: 0xF080_8080,
        length: 4,
    }; 33];
    let mut zeros = 16;
    while zeros <= 32 {
        forms[zeros] = match 32 - zeros {
            0..=7 => Form {
                payload: 0x7F00_0000,
                marks: 0,
                length: 1,
            },
            8..=11 => Form {
                payload: 0x1F3F_0000,
                marks: 0xC080_0000,
                length: 2,
            },
            _ => Form {
                payload: 0x0F3F_3F00,
                marks: 0xE080_8000,
                length: 3,
            },
        };
        zeros += 1;
    }
    forms
};

/// [`push_portable`] with wide registers, and without a branch on the kind of character. There is
/// room for four bytes a code point.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn push_wide(text: &[u32], out: &mut Vec<u8>) -> bool {
    use std::arch::x86_64::*;
    let room = out.spare_capacity_mut();
    assert!(room.len() >= 4 * text.len());
    let begin: *mut u8 = room.as_mut_ptr().cast();
    let (mut end, mut done, mut sound) = (begin, 0, true);
    while let Some(block) = text[done..].first_chunk::<TOGETHER>() {
        let from: *const __m256i = block.as_ptr().cast();
        // SAFETY: both loads are inside the block.
        let (a, b) = unsafe { (_mm256_loadu_si256(from), _mm256_loadu_si256(from.add(1))) };
        // Packing works in halves of a register: quarters of the result stand in the order 0 2 1 3.
        let words = _mm256_packus_epi32(a, b);
        let order = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
        let (low, high) = (
            _mm256_castsi256_si128(order),
            _mm256_extracti128_si256::<1>(order),
        );
        // SAFETY: four bytes of room belong to each code point, sixteen are written for sixteen.
        unsafe { _mm_storeu_si128(end.cast(), _mm_packus_epi16(low, high)) };
        let beyond = _mm256_set1_epi32(!0x7F);
        let is_ascii = |codes| {
            let zero = _mm256_cmpeq_epi32(_mm256_and_si256(codes, beyond), _mm256_setzero_si256());
            _mm256_movemask_ps(_mm256_castsi256_ps(zero)) as u32
        };
        let ascii = is_ascii(a) | is_ascii(b) << 8;
        let before = ascii.trailing_ones() as usize;
        // SAFETY: as many bytes are right as ASCII characters stand at the beginning.
        end = unsafe { end.add(before) };
        if before == TOGETHER {
            done += TOGETHER;
            continue;
        }
        let others = (ascii >> before | 1 << (TOGETHER - before)).trailing_zeros() as usize;
        for &code in &block[before..before + others] {
            sound &= char::from_u32(code).is_some();
            let form = FORMS[code.leading_zeros() as usize];
            let bytes = _pdep_u32(code, form.payload) | form.marks;
            // SAFETY: there is room for four bytes, and no more are counted.
            unsafe {
                end.cast::<[u8; 4]>().write(bytes.to_be_bytes());
                end = end.add(form.length);
            }
        }
        done += before + others;
    }
    // SAFETY: all bytes from the old length up to `end` are written.
    unsafe {
        let length = out.len() + end.offset_from_unsigned(begin);
        out.set_len(length);
    }
    sound && push_portable(&text[done..], out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::NARROW;

    fn both_ways(text: &[u32], check: impl Fn(Option<Vec<u8>>)) {
        for way in [false, true] {
            NARROW.set(way);
            let mut out = b"before".to_vec();
            let sound = push_utf8(text, &mut out);
            NARROW.set(false);
            assert_eq!(&out[..6], b"before");
            check(sound.then(|| out.split_off(6)));
        }
    }

    #[test]
    fn every_character_is_written_as_std_writes_it() {
        let all: Vec<char> = ('\0'..=char::MAX).collect();
        for start in 0..TOGETHER {
            let text = &all[start..];
            let codes: Vec<u32> = text.iter().map(|&c| c.into()).collect();
            let expected: String = text.iter().collect();
            both_ways(&codes, |utf8| {
                assert_eq!(utf8.as_deref(), Some(expected.as_bytes()))
            });
        }
    }

    #[test]
    fn any_mixture_and_length_is_written() {
        let kinds = [
            'a',
            '\u{7F}',
            '\u{80}',
            '\u{7FF}',
            '\u{800}',
            '\u{FFFF}',
            '\u{10000}',
        ];
        let mut state = 1_u32;
        for length in 0..200 {
            let text: String = (0..length)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    kinds[(state >> 24) as usize % (1 + length % kinds.len())]
                })
                .collect();
            let codes: Vec<u32> = text.chars().map(u32::from).collect();
            both_ways(&codes, |utf8| {
                assert_eq!(utf8.as_deref(), Some(text.as_bytes()))
            });
        }
    }

    #[test]
    fn what_is_no_character_is_refused_wherever_it_stands() {
        for code in [0xD800, 0xDFFF, 0x11_0000, u32::MAX] {
            for at in 0..50 {
                let mut codes = vec![u32::from(b'a'); 50];
                codes[at] = code;
                both_ways(&codes, |utf8| assert_eq!(utf8, None));
            }
        }
    }
}
