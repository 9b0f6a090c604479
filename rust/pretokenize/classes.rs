//! The class of every code point, as far as the patterns tell them apart.
//!
//! A two-stage table (code point / 64 -> row -> class), built once from the tables of
//! `regex-syntax`, so that the scanners and the regex engines share one version of Unicode. A row
//! is what the last byte of an encoded character chooses from.

use regex_syntax::hir::{Class as HirClass, HirKind};
use std::sync::LazyLock;

/// The version of Unicode behind every class, that of `regex-syntax` 0.8.
pub fn unicode_version() -> &'static str {
    "16.0.0"
}

/// What a character is to a pattern; the general categories that it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    /// Everything that is nothing below, invalid bytes included.
    Other = 0,
    /// `Lu` and `Lt`.
    Upper = 1,
    /// `Ll`.
    Lower = 2,
    /// `Lm` and `Lo`: letters that have no case.
    Caseless = 3,
    /// `M`.
    Mark = 4,
    /// `N`.
    Number = 5,
    /// `\s`, that is `White_Space`.
    White = 6,
    /// Never the class of a character: what bytes encode that are not well-formed.
    Invalid = 7,
}

/// A set of classes, a bit each.
#[derive(Clone, Copy, Debug)]
pub struct Set(u8);

impl Set {
    /// `\p{L}`.
    pub const LETTER: Self = Self::of(&[Class::Upper, Class::Lower, Class::Caseless]);
    /// `\p{N}`.
    pub const NUMBER: Self = Self::of(&[Class::Number]);
    /// `\s`.
    pub const WHITE: Self = Self::of(&[Class::White]);
    /// `[^\s\p{L}\p{N}]`.
    pub const OTHER: Self = Self::of(&[Class::Other, Class::Mark]);

    /// The set of these classes.
    pub const fn of(classes: &[Class]) -> Self {
        let mut bits = 0;
        let mut i = 0;
        while i < classes.len() {
            bits |= 1 << classes[i] as u8;
            i += 1;
        }
        Self(bits)
    }

    /// Whether the class is in the set.
    #[inline(always)]
    pub const fn has(self, class: Class) -> bool {
        self.0 >> class as u8 & 1 != 0
    }
}

const CODE_POINTS: usize = 0x11_0000;
const ROW: usize = 64;

/// The first rows are of one class throughout, in the order of [`Class`].
const UNIFORM: [Class; 8] = {
    use Class::*;
    [Other, Upper, Lower, Caseless, Mark, Number, White, Invalid]
};

/// The two-stage table, and its views by encoded bytes.
pub struct Classes {
    ascii: [Class; 128],
    two: [Class; 32 * ROW],
    three: [u16; 16 * ROW],
    row_of: Vec<u16>,
    rows: Vec<[Class; ROW]>,
}

/// The table, built at first use (in a fraction of a millisecond).
pub static CLASSES: LazyLock<Classes> = LazyLock::new(Classes::build);

impl Classes {
    fn build() -> Self {
        let mut classes = Self {
            ascii: [Class::Other; 128],
            two: [Class::Invalid; 32 * ROW],
            three: [Class::Invalid as u16; 16 * ROW],
            row_of: vec![Class::Other as u16; CODE_POINTS / ROW],
            rows: UNIFORM.map(|class| [class; ROW]).into(),
        };
        let parts = [
            (r"[\p{Lu}\p{Lt}]", Class::Upper),
            (r"\p{Ll}", Class::Lower),
            (r"[\p{Lm}\p{Lo}]", Class::Caseless),
            (r"\p{M}", Class::Mark),
            (r"\p{N}", Class::Number),
            (r"\s", Class::White),
        ];
        for (regex, class) in parts {
            for (first, last) in ranges(regex) {
                classes.fill(first, last, class);
            }
        }
        classes.view_by_bytes();
        classes
    }

    /// Gives the code points of a range, all Other so far, their class.
    fn fill(&mut self, first: usize, last: usize, class: Class) {
        for row in first / ROW..=last / ROW {
            let start = row * ROW;
            let (from, to) = (first.max(start) - start, last.min(start + ROW - 1) - start);
            if to - from == ROW - 1 {
                self.row_of[row] = class as u16;
                continue;
            }
            if usize::from(self.row_of[row]) < UNIFORM.len() {
                self.rows.push(self.rows[usize::from(self.row_of[row])]);
                self.row_of[row] = (self.rows.len() - 1) as u16;
            }
            self.rows[usize::from(self.row_of[row])][from..=to].fill(class);
        }
    }

    /// Copies what one, two and three bytes encode; the rest, overlong forms and surrogates, stays
    /// invalid.
    fn view_by_bytes(&mut self) {
        for code in 0..32 * ROW {
            let class = self.of(code as u32);
            if code < 0x80 {
                self.ascii[code] = class
            } else {
                self.two[code] = class
            }
        }
        for row in (0x800 / ROW..0xD800 / ROW).chain(0xE000 / ROW..0x1_0000 / ROW) {
            self.three[row] = self.row_of[row];
        }
    }

    /// The class of a code point below 0x110000.
    #[inline(always)]
    fn of(&self, code: u32) -> Class {
        let row = self.row_of[code as usize / ROW];
        self.rows[usize::from(row)][code as usize % ROW]
    }

    /// The class of the character of two bytes, the first of them in 0xC0..=0xDF and the second in
    /// 0x80..=0xBF.
    #[inline(always)]
    pub fn of_two(&self, bytes: [u8; 2]) -> Class {
        let [a, b] = bytes.map(usize::from);
        self.two[(a & 0x1F) << 6 | b & 0x3F]
    }

    /// The class of the character of three bytes, the first of them in 0xE0..=0xEF and the others
    /// in 0x80..=0xBF.
    #[inline(always)]
    pub fn of_three(&self, bytes: [u8; 3]) -> Class {
        let [a, b, c] = bytes.map(usize::from);
        let row = self.three[(a & 0x0F) << 6 | b & 0x3F];
        self.rows[usize::from(row)][c & 0x3F]
    }

    /// The class and the length in bytes of the character at `at`, which is inside the text. A
    /// byte that begins no well-formed character is a character of class Other.
    #[inline(always)]
    pub fn at(&self, text: &[u8], at: usize) -> (Class, usize) {
        let byte = text[at];
        if byte < 0x80 {
            return (self.ascii[usize::from(byte)], 1);
        }
        match decode(&text[at..]) {
            Some((code, length)) => (self.of(code), length),
            None => (Class::Other, 1),
        }
    }
}

/// The inclusive ranges of code points in a class written as a regex.
fn ranges(regex: &str) -> Vec<(usize, usize)> {
    match regex_syntax::parse(regex).map(|hir| hir.into_kind()) {
        Ok(HirKind::Class(HirClass::Unicode(class))) => class
            .ranges()
            .iter()
            .map(|r| (r.start() as usize, r.end() as usize))
            .collect(),
        _ => unreachable!("{regex} is a Unicode class"),
    }
}

/// The code point and length of the well-formed multi-byte character that the bytes begin with.
#[inline(always)]
fn decode(bytes: &[u8]) -> Option<(u32, usize)> {
    let tail = |i: usize| match bytes.get(i) {
        Some(&byte) if byte & 0xC0 == 0x80 => Some(u32::from(byte & 0x3F)),
        _ => None,
    };
    let lead = u32::from(bytes[0]);
    match lead {
        0xC2..=0xDF => Some(((lead & 0x1F) << 6 | tail(1)?, 2)),
        0xE0..=0xEF => {
            let code = (lead & 0x0F) << 12 | tail(1)? << 6 | tail(2)?;
            (code >= 0x800 && !(0xD800..0xE000).contains(&code)).then_some((code, 3))
        }
        0xF0..=0xF4 => {
            let code = (lead & 0x07) << 18 | tail(1)? << 12 | tail(2)? << 6 | tail(3)?;
            (0x1_0000..0x11_0000).contains(&code).then_some((code, 4))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_point_has_the_class_that_the_regex_gives_it() {
        let of = |regex: &str| {
            let mut set = vec![false; CODE_POINTS];
            let regex = regex_automata::meta::Regex::new(regex).unwrap();
            let mut text = [0; 4];
            for c in '\0'..=char::MAX {
                set[c as usize] = regex.is_match(c.encode_utf8(&mut text).as_bytes());
            }
            set
        };
        let sets = [
            (of(r"\p{L}"), Set::LETTER),
            (of(r"\p{N}"), Set::NUMBER),
            (of(r"\s"), Set::WHITE),
            (of(r"[^\s\p{L}\p{N}]"), Set::OTHER),
            (of(r"[\p{Lu}\p{Lt}]"), Set::of(&[Class::Upper])),
            (of(r"\p{Ll}"), Set::of(&[Class::Lower])),
            (of(r"\p{M}"), Set::of(&[Class::Mark])),
        ];
        for c in '\0'..=char::MAX {
            for (members, set) in &sets {
                let class = CLASSES.of(c as u32);
                assert_eq!(set.has(class), members[c as usize], "{c:?} is {class:?}");
            }
        }
    }

    #[test]
    fn the_views_by_bytes_agree_with_the_decoder() {
        let tail = 0x80..=0xBF;
        for a in 0xC0..=0xDF {
            for b in tail.clone() {
                let class = decode(&[a, b]).map_or(Class::Invalid, |(code, _)| CLASSES.of(code));
                assert_eq!(CLASSES.of_two([a, b]), class, "{a:x} {b:x}");
            }
        }
        for a in 0xE0..=0xEF {
            for (b, c) in tail.clone().flat_map(|b| tail.clone().map(move |c| (b, c))) {
                let class = decode(&[a, b, c]).map_or(Class::Invalid, |(code, _)| CLASSES.of(code));
                assert_eq!(CLASSES.of_three([a, b, c]), class, "{a:x} {b:x} {c:x}");
            }
        }
    }

    #[test]
    fn the_unicode_version_is_the_one_stated() {
        // U+1C89 came with 16.0, U+088F with 17.0.
        assert_eq!(unicode_version(), "16.0.0");
        assert_eq!(CLASSES.of(0x1C89), Class::Upper);
        assert_eq!(CLASSES.of(0x088F), Class::Other);
    }

    #[test]
    fn decode_accepts_exactly_what_std_accepts() {
        // Every pair, and every triple and quadruple over the bytes where a rule changes.
        let edges = [
            0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF,
        ];
        let leads = [
            0xE0, 0xE1, 0xEC, 0xED, 0xEE, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFF,
        ];
        let check = |bytes: &[u8]| {
            let expected = (2..=bytes.len()).find_map(|n| {
                let c = std::str::from_utf8(&bytes[..n]).ok()?.chars().next()?;
                (c.len_utf8() == n).then_some((c as u32, n))
            });
            assert_eq!(decode(bytes), expected, "{bytes:x?}");
        };
        for lead in 0x80..=0xFF {
            check(&[lead]);
            for second in 0..=0xFF {
                check(&[lead, second]);
                for &third in edges.iter().chain(&leads) {
                    check(&[lead, second, third]);
                    for &fourth in edges.iter().chain(&leads) {
                        check(&[lead, second, third, fourth]);
                    }
                }
            }
        }
    }
}
