//! The classes of 64 bytes of text at a time, as masks of a bit a byte.
//!
//! ASCII, and what text in Cyrillic, kana, ideographs and Hangul has most, is told by algebra on
//! the [`planes`](super::planes) alone. Other characters are looked up one by one. All bytes of a
//! character carry its class.

use super::classes::{Class, Classes};
use super::planes::{Lanes, Planes, WIDTH};
use super::text::Text;

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
    #[cfg(test)]
    pub fn read<L: Lanes>(text: Text<'_>, at: usize) -> Self {
        let (masks, high) = Self::of_ascii::<L>(text, at);
        if high == 0 {
            masks
        } else {
            masks.and_others::<L>(high, text, at)
        }
    }

    /// The classes of the ASCII characters from `at`, and the bytes that are none: where there are
    /// such, [`Masks::and_others`] makes this whole. (In two steps, for what is not in ASCII costs
    /// nothing where the compiler sees that it is 0.)
    #[inline(always)]
    pub fn of_ascii<L: Lanes>(text: Text<'_>, at: usize) -> (Self, u64) {
        let mut padded = [0; WIDTH];
        let (block, valid) = block(text, at, &mut padded);
        let signs = L::signs(block);
        let masks = Self {
            letter: signs.letter,
            upper: signs.upper,
            caseless: 0,
            mark: 0,
            number: signs.number,
            white: signs.white,
            space: signs.space,
            line: signs.line,
            quote: signs.quote,
            slash: signs.slash,
            inner: 0,
            valid,
        };
        (masks, signs.high)
    }

    /// Adds the characters beyond ASCII, whose bytes are `high`.
    #[inline(always)]
    pub fn and_others<L: Lanes>(self, high: u64, text: Text<'_>, at: usize) -> Self {
        let mut padded = [0; WIDTH];
        let (block, _) = block(text, at, &mut padded);
        let known = self.with_high(block, &L::planes(block), text.classes);
        known.unwrap_or_else(|| self.with_invalid(high, text, at))
    }

    /// Adds the characters beyond ASCII; `None` where there is an invalid byte.
    #[inline(always)]
    fn with_high(self, block: &[u8; WIDTH], planes: &Planes, classes: &Classes) -> Option<Self> {
        let [.., b4, b5, b6, b7] = *planes;
        let first = b7 & b6;
        let (two, three, four) = (first & !b5, first & b5 & !b4, first & b5 & b4);
        // A full block ends before a character that it does not hold.
        let cut_off = two & !low(63) | three & !low(62) | four & !low(61);
        let whole = low(cut_off.trailing_zeros() as usize);
        let (two, three, four) = (two & whole, three & whole, four & whole);
        let (inner, expected) = (
            b7 & !b6,
            (two | three | four) << 1 | (three | four) << 2 | four << 3,
        );
        if expected & !inner | inner & whole & !expected != 0 {
            return None;
        }
        let valid = self.valid & whole;
        let mut codes = Codes::default();
        let known = codes.put_common(planes, two, three);
        for i in bits(two & !known) {
            codes.put(i, classes.of_two([block[i], block[(i + 1) % WIDTH]]));
        }
        for i in bits(three & !known) {
            let bytes = [block[i], block[(i + 1) % WIDTH], block[(i + 2) % WIDTH]];
            codes.put(i, classes.of_three(bytes));
        }
        for i in bits(four) {
            match classes.at(block, i) {
                (class, 4) => codes.put(i, class),
                _ => return None,
            }
        }
        codes.spread(expected);
        (codes.are(Class::Invalid) == 0).then(|| self.with_codes(&codes, expected, valid))
    }

    /// Adds the characters beyond ASCII, whose bytes are `high`, some of them invalid.
    #[cold]
    #[inline(never)]
    fn with_invalid(self, mut high: u64, text: Text<'_>, at: usize) -> Self {
        let (mut codes, mut inner, mut valid) = (Codes::default(), 0, self.valid);
        while high != 0 {
            let i = high.trailing_zeros() as usize;
            let (class, length) = text.at(at + i);
            if i + length > WIDTH {
                valid = low(i);
                break;
            }
            let character = low(length) << i;
            codes.put_all(character, class);
            inner |= character & character << 1;
            high &= !character;
        }
        self.with_codes(&codes, inner, valid)
    }

    #[inline(always)]
    fn with_codes(self, codes: &Codes, inner: u64, valid: u64) -> Self {
        let [upper, lower, caseless] =
            [Class::Upper, Class::Lower, Class::Caseless].map(|class| codes.are(class));
        Self {
            letter: self.letter | upper | lower | caseless,
            upper: self.upper | upper,
            caseless,
            mark: codes.are(Class::Mark),
            number: self.number | codes.are(Class::Number),
            white: self.white | codes.are(Class::White),
            inner,
            valid,
            ..self
        }
    }

    /// Letters in lower case.
    #[inline(always)]
    pub fn lower(&self) -> u64 {
        self.letter & !(self.upper | self.caseless)
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

/// The block at `at`, and the bytes of it that are text.
#[inline(always)]
fn block<'a>(text: Text<'a>, at: usize, padded: &'a mut [u8; WIDTH]) -> (&'a [u8; WIDTH], u64) {
    let rest = &text.bytes[at..];
    match rest.first_chunk::<WIDTH>() {
        Some(block) => (block, !0),
        None => {
            padded[..rest.len()].copy_from_slice(rest);
            (padded, low(rest.len()))
        }
    }
}

/// The classes of characters, the three bits of each class in a mask of their own: a class is put
/// without a branch and without going through memory.
#[derive(Clone, Copy, Default)]
struct Codes([u64; 3]);

impl Codes {
    #[inline(always)]
    fn put(&mut self, at: usize, class: Class) {
        for (bit, plane) in self.0.iter_mut().enumerate() {
            *plane |= (class as u64 >> bit & 1) << at;
        }
    }

    #[inline(always)]
    fn put_all(&mut self, at: u64, class: Class) {
        for (bit, plane) in self.0.iter_mut().enumerate() {
            *plane |= at & (class as u64 >> bit & 1).wrapping_neg();
        }
    }

    /// Puts the classes of the first bytes, of two and three, that belong to blocks of Unicode
    /// where little algebra tells all; those bytes.
    #[inline(always)]
    fn put_common(&mut self, planes: &Planes, two: u64, three: u64) -> u64 {
        let &[b0, b1, b2, b3, b4, ..] = planes;
        // Bits of the second and third byte, where the first byte is.
        let second = planes.map(|plane| plane >> 1);
        let third = planes.map(|plane| plane >> 2);

        // D0 and D1: U+0400..042F capitals, 0430..045F not; from 0460 on they alternate.
        let cyrillic = two & b4 & !(b3 | b2 | b1);
        let (d0, d1) = (cyrillic & !b0, cyrillic & b0);
        let from_b0 = second[5] & second[4];
        let (upper, lower) = (d0 & !from_b0, d0 & from_b0 | d1 & !second[5]);

        // E5..E9, EB and EC: U+5000..9FFF and B000..CFFF, letters all.
        let five_to_seven = !b3 & b2 & (b1 | b0);
        let eight_nine_b = b3 & !b2 & (!b1 | b0);
        let ideograph = three & (five_to_seven | eight_nine_b | b3 & b2 & !(b1 | b0));

        // E3 81..83: U+3041..3096 and 30A1..30FF but 30FB, letters all.
        let kana = three & !(b3 | b2) & b1 & b0;
        let kana = kana & !(second[5] | second[4] | second[3] | second[2]);
        let low_bits = third[4] | third[3] | third[2] | third[1] | third[0];
        let past_16 = third[4] & (third[3] | third[2] & third[1] & third[0]);
        let is_3b = third[5] & third[4] & third[3] & !third[2] & third[1] & third[0];
        let in_81 = third[5] | low_bits;
        let in_82 = third[5] & low_bits | !third[5] & !past_16;
        let letter = !second[1] & second[0] & in_81
            | second[1] & !second[0] & in_82
            | second[1] & second[0] & !is_3b;
        let caseless = ideograph | kana & letter;

        self.put_all(upper, Class::Upper);
        self.put_all(lower, Class::Lower);
        self.put_all(caseless, Class::Caseless);
        upper | lower | caseless
    }

    /// Gives the bytes of each character the class of the first.
    #[inline(always)]
    fn spread(&mut self, inner: u64) {
        for plane in &mut self.0 {
            for _ in 0..3 {
                *plane |= *plane << 1 & inner;
            }
        }
    }

    #[inline(always)]
    fn are(&self, class: Class) -> u64 {
        let plane = |bit: usize| {
            if class as usize >> bit & 1 != 0 {
                self.0[bit]
            } else {
                !self.0[bit]
            }
        };
        plane(0) & plane(1) & plane(2)
    }
}

/// The positions of the bits.
#[inline(always)]
pub fn bits(mut of: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let first = of.trailing_zeros() as usize;
        (of != 0).then(|| {
            of &= of - 1;
            first
        })
    })
}

/// The lowest `count` bits, 64 at most.
#[inline(always)]
pub fn low(count: usize) -> u64 {
    if count >= 64 { !0 } else { (1 << count) - 1 }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "x86_64")]
    use super::super::planes::Avx2;
    use super::super::planes::Portable;
    use super::*;

    /// What the masks say of the character that begins at bit `at`.
    fn class(masks: &Masks, at: usize) -> Class {
        let is = |mask: u64| mask >> at & 1 != 0;
        match () {
            () if is(masks.mark) => Class::Mark,
            () if is(masks.number) => Class::Number,
            () if is(masks.white) => Class::White,
            () if is(masks.caseless) => Class::Caseless,
            () if is(masks.upper) => Class::Upper,
            () if is(masks.letter) => Class::Lower,
            () => Class::Other,
        }
    }

    /// Every character of the block, of which there are as many as fit, has the class that the
    /// table gives it, in all its bytes.
    fn assert_told<L: Lanes>(text: &[u8]) {
        let text = Text::new(text);
        let masks = Masks::read::<L>(text, 0);
        let (mut at, mut inner) = (0, 0);
        while masks.valid & low(WIDTH).unbounded_shl(at as u32) != 0 {
            let (expected, length) = text.at(at);
            inner |= low(length - 1).unbounded_shl(at as u32 + 1);
            for byte in at..at + length {
                assert_eq!(class(&masks, byte), expected, "{:x?}", text.bytes);
            }
            at += length;
        }
        assert_eq!(
            (masks.valid, masks.inner),
            (low(at), inner),
            "{:x?}",
            text.bytes
        );
        assert!(at > 60 || at == text.bytes.len());
    }

    fn assert_told_by_all(text: &[u8]) {
        assert_told::<Portable>(text);
        #[cfg(target_arch = "aarch64")]
        assert_told::<super::super::neon::Neon>(text);
        #[cfg(target_arch = "x86_64")]
        if Avx2::detected() {
            assert_told::<Avx2>(text);
        }
    }

    #[test]
    fn every_character_is_told_wherever_it_stands_in_a_block() {
        for c in '\0'..=char::MAX {
            for at in [c as usize % 64, 61 + c as usize % 3] {
                let mut text = [b'.'; 70];
                let length = c.encode_utf8(&mut text[at..]).len();
                assert_told_by_all(&text);
                assert_told_by_all(&text[..(at + length).min(WIDTH)]);
            }
        }
    }

    #[test]
    fn whatever_bytes_stand_at_the_edge_of_a_block_are_told() {
        let kinds = [b'a', 0x80, 0xBF, 0xC3, 0xE0, 0xE4, 0xED, 0xF0, 0xF4];
        let mut text = [b'.'; 68];
        for code in 0..9_usize.pow(5) {
            for i in 0..5 {
                text[59 + i] = kinds[code / 9_usize.pow(i as u32) % 9];
            }
            let after = kinds[code % 7];
            text[64..].fill(after);
            assert_told_by_all(&text);
            assert_told_by_all(&text[..63]);
        }
    }

    #[test]
    fn ascii_signs_are_told() {
        for byte in 0..0x80 {
            let masks = Masks::read::<Portable>(Text::new(&[b'.', byte]), 0);
            let told = [masks.space, masks.line, masks.quote, masks.slash].map(|mask| mask == 2);
            let expected = [
                byte == b' ',
                b"\r\n".contains(&byte),
                byte == b'\'',
                byte == b'/',
            ];
            assert_eq!(told, expected, "{byte:x}");
        }
    }
}
