//! `.tiktoken`: a line a token, its bytes in base64, a space, its rank, which is also its id. Merges,
//! pattern and special tokens are not in the file.

use super::{ordinary, read, write_whole};
use crate::error::{Error, Result};
use crate::pretokenize::Pattern;
use crate::tokenizer::Tokenizer;
use crate::vocab::{Special, Tokens, Vocab, special};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::path::Path;

/// The special tokens that tiktoken gives the published vocabularies, known by pattern and by the
/// number of their ranks.
fn published_specials(pattern: &str, ranks: usize) -> &'static [(&'static str, u32)] {
    match (pattern, ranks) {
        // r50k; p50k adds runs of spaces.
        ("gpt2", 50_256 | 50_280) => &[("<|endoftext|>", 50_256)],
        ("cl100k", 100_256) => &[
            ("<|endoftext|>", 100_257),
            ("<|fim_prefix|>", 100_258),
            ("<|fim_middle|>", 100_259),
            ("<|fim_suffix|>", 100_260),
            ("<|endofprompt|>", 100_276),
        ],
        ("o200k", 199_998) => &[("<|endoftext|>", 199_999), ("<|endofprompt|>", 200_018)],
        _ => &[],
    }
}

/// Reads ranks. Where `specials` is `None`, a published vocabulary gets the special tokens that
/// tiktoken gives it, any other none.
///
/// # Errors
/// [`Error::Io`], and [`Error::Format`] where the file is not what it should be.
pub fn load(
    path: &Path,
    pattern: Pattern,
    specials: Option<Vec<(String, u32)>>,
) -> Result<Tokenizer> {
    from_bytes(&read(path)?, path, pattern, specials)
}

/// The same from memory; `path` is named in errors.
///
/// # Errors
/// [`Error::Format`] as [`load`].
pub fn from_bytes(
    bytes: &[u8],
    path: &Path,
    pattern: Pattern,
    specials: Option<Vec<(String, u32)>>,
) -> Result<Tokenizer> {
    let bad = |what: String| Error::format(path, what);
    let tokens = parse(bytes).map_err(bad)?;
    let specials: Vec<Special> = match specials {
        Some(given) => given
            .into_iter()
            .map(|(text, id)| special(text, id))
            .collect(),
        None => published_specials(pattern.name(), tokens.iter().count())
            .iter()
            .map(|&(text, id)| special(text.to_owned(), id))
            .collect(),
    };
    Ok(Tokenizer::new(
        Vocab::from_ranks(tokens, specials).map_err(bad)?,
        pattern,
    ))
}

fn parse(bytes: &[u8]) -> std::result::Result<Tokens, String> {
    let mut tokens = Tokens::with_capacity(bytes.len() / 16);
    let mut token = Vec::new();
    for (number, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            continue;
        }
        let at = |what: String| format!("line {}: {what}", number + 1);
        let space = memchr::memchr(b' ', line)
            .ok_or_else(|| at("no space between token and rank".into()))?;
        token.clear();
        STANDARD
            .decode_vec(&line[..space], &mut token)
            .map_err(|error| at(format!("the token is no base64 ({error})")))?;
        let rank = &line[space + 1..];
        let number = std::str::from_utf8(rank)
            .ok()
            .and_then(|rank| rank.parse().ok());
        let number = number.ok_or_else(|| {
            at(format!(
                "the rank {:?} is no number",
                String::from_utf8_lossy(rank)
            ))
        })?;
        tokens.insert(number, &token).map_err(at)?;
    }
    if tokens.is_empty() {
        Err("there is no token in it".into())
    } else {
        Ok(tokens)
    }
}

/// Writes the ranks. Pattern and special tokens stay behind: the format has no place for them.
///
/// # Errors
/// [`Error::Io`]; [`Error::Usage`] where ranks cannot say what the merges say.
pub fn save(tokenizer: &Tokenizer, path: &Path) -> Result<()> {
    let vocab = tokenizer.vocab();
    let mut tokens = Tokens::with_capacity(vocab.size());
    let mut lines = String::with_capacity(vocab.size() * 20);
    for (id, token) in ordinary(vocab) {
        tokens.insert(id, token).map_err(Error::Usage)?;
        STANDARD.encode_string(token, &mut lines);
        lines.push_str(&format!(" {id}\n"));
    }
    let ranked = Vocab::from_ranks(tokens, Vec::new()).map_err(Error::Usage)?;
    if ranked.merges() != vocab.merges() || ranked.has_exact_merges() != vocab.has_exact_merges() {
        return Err(Error::usage(format!(
            "cannot write {}: the order of this tokenizer's ids does not say the order of its merges; save it as tokenizer.json",
            path.display()
        )));
    }
    write_whole(path, lines.as_bytes())
}
