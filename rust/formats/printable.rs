//! GPT-2's way to write bytes as characters that JSON, spaces and people can tell apart: printable
//! Latin-1 stands for itself, the 68 other bytes for U+0100 and up, in order.

/// Whether a byte stands for itself.
const fn is_plain(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// The character of each byte.
const CHARS: [char; 256] = {
    let mut chars = ['\0'; 256];
    let (mut byte, mut other) = (0, 0);
    while byte < 256 {
        chars[byte] = if is_plain(byte as u8) {
            byte as u8 as char
        } else {
            OTHERS[other]
        };
        other += !is_plain(byte as u8) as usize;
        byte += 1;
    }
    chars
};

/// U+0100 to U+0143.
const OTHERS: [char; 68] = {
    let mut chars = ['\0'; 68];
    let mut place = 0;
    while place < 68 {
        chars[place] = match char::from_u32(0x100 + place as u32) {
            Some(char) => char,
            None => panic!("U+0100 to U+0143 are characters"),
        };
        place += 1;
    }
    chars
};

/// The byte of each character below U+0144; 256 where there is none.
const BYTES: [u16; 0x144] = {
    let mut bytes = [256; 0x144];
    let mut byte = 0;
    while byte < 256 {
        bytes[CHARS[byte] as usize] = byte as u16;
        byte += 1;
    }
    bytes
};

/// The characters that stand for `bytes`.
pub(crate) fn chars(bytes: &[u8]) -> impl Iterator<Item = char> {
    bytes.iter().map(|&byte| CHARS[usize::from(byte)])
}

/// Writes `bytes` as characters.
pub(crate) fn to_text(bytes: &[u8]) -> String {
    chars(bytes).collect()
}

/// Appends the bytes that `text` stands for.
///
/// # Errors
/// The first character that stands for no byte.
pub(crate) fn to_bytes(text: &str, out: &mut Vec<u8>) -> Result<(), char> {
    for char in text.chars() {
        match BYTES.get(char as usize) {
            Some(&byte) if byte < 256 => out.push(byte as u8),
            _ => return Err(char),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_a_character_of_its_own() {
        let all: Vec<u8> = (0..=255).collect();
        let mut back = Vec::new();
        assert_eq!(to_bytes(&to_text(&all), &mut back), Ok(()));
        assert_eq!(back, all);
    }

    #[test]
    fn the_characters_are_gpt2s() {
        assert_eq!(to_text(b" \n\0\x7f\xad\xffa"), "ĠĊĀġŃÿa");
    }

    #[test]
    fn other_characters_are_named() {
        assert_eq!(to_bytes("a b", &mut Vec::new()), Err(' '));
        assert_eq!(to_bytes("▁", &mut Vec::new()), Err('▁'));
    }
}
