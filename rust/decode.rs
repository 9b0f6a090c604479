//! Ids -> bytes.
//!
//! Nearly all tokens are short, so each has a 16-byte entry: up to 15 bytes of token and their number.
//! An entry is copied whole, the next one over what was too much of it: one load and one store an id,
//! without a loop or a call. Longer tokens are looked up.

use crate::vocab::Tokens;

/// Bytes of a token that fit an entry.
const SHORT: usize = 15;
/// The number in an entry whose token is longer.
const LONG: u8 = u8::MAX;
/// Ids decoded between two copies into the result.
const TOGETHER: usize = 1024;

/// Tokens in entries of one size, by id; that of an id without a token has length 0.
#[derive(Debug)]
pub(crate) struct Decoder {
    entries: Vec<[u8; SHORT + 1]>,
}

impl Decoder {
    /// The entries of all tokens, 16 bytes an id.
    pub(crate) fn new(tokens: &Tokens) -> Self {
        let entry = |id| {
            let (token, mut entry) = (tokens.get(id), [0; SHORT + 1]);
            entry[SHORT] = LONG;
            if token.len() <= SHORT {
                entry[..token.len()].copy_from_slice(token);
                entry[SHORT] = token.len() as u8;
            }
            entry
        };
        Self {
            entries: (0..tokens.len() as u32).map(entry).collect(),
        }
    }

    /// Appends the bytes of `ids`, whose tokens are `tokens`.
    ///
    /// # Errors
    /// The first id that has no token; what was appended before it stays.
    pub(crate) fn decode(
        &self,
        tokens: &Tokens,
        ids: &[u32],
        out: &mut Vec<u8>,
    ) -> Result<(), u32> {
        let mut room = [0; TOGETHER * SHORT + SHORT + 1];
        for ids in ids.chunks(TOGETHER) {
            let mut filled = 0;
            for &id in ids {
                let entry = self.entries.get(id as usize).ok_or(id)?;
                match entry[SHORT] {
                    0 => return Err(id),
                    LONG => {
                        out.extend_from_slice(&room[..filled]);
                        out.extend_from_slice(tokens.get(id));
                        filled = 0;
                    }
                    length => {
                        room[filled..filled + SHORT + 1].copy_from_slice(entry);
                        filled += usize::from(length);
                    }
                }
            }
            out.extend_from_slice(&room[..filled]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ids 0..: tokens of every length up to 40, a gap, and a long one.
    fn tokens() -> Tokens {
        let mut tokens = Tokens::default();
        for length in 1..=40_u8 {
            tokens
                .insert(length.into(), &vec![b'a' + length % 26; length.into()])
                .unwrap();
        }
        tokens.insert(50, &[7; 5000]).unwrap();
        tokens
    }

    #[test]
    fn any_ids_give_their_tokens_one_after_the_other() {
        let tokens = tokens();
        let decoder = Decoder::new(&tokens);
        let mut state = 1_u32;
        for count in [0, 1, 2, 1023, 1024, 1025, 5000] {
            let ids: Vec<u32> = (0..count)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    [50, state % 40 + 1][usize::from(state >> 24 != 0)]
                })
                .collect();
            let expected: Vec<u8> = ids.iter().flat_map(|&id| tokens.get(id).to_vec()).collect();
            let mut out = b"before".to_vec();
            decoder.decode(&tokens, &ids, &mut out).unwrap();
            assert_eq!(&out[..6], b"before");
            assert_eq!(&out[6..], expected);
        }
        // As many bytes as there is room for.
        let mut out = Vec::new();
        decoder.decode(&tokens, &[15; 3000], &mut out).unwrap();
        assert_eq!(out, [b'a' + 15; 45_000]);
    }

    #[test]
    fn an_id_without_a_token_is_named() {
        let tokens = tokens();
        let decoder = Decoder::new(&tokens);
        for id in [0, 41, 49, 51, u32::MAX] {
            let found = decoder.decode(&tokens, &[1, 2, id, 50], &mut Vec::new());
            assert_eq!(found, Err(id));
        }
    }
}
