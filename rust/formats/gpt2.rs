//! GPT-2's pair of files: `vocab.json` maps tokens, written in printable characters, to ids;
//! `merges.txt` holds a merge a line, lowest rank first. The pattern is GPT-2's.

use super::{printable, read, write_whole};
use crate::error::{Error, Result};
use crate::formats::huggingface::{Entries, require_plain_merges, written_tokens};
use crate::pretokenize::Pattern;
use crate::tokenizer::Tokenizer;
use crate::vocab::{Special, SpelledMerges, Tokens, Vocab, special};
use std::collections::HashSet;
use std::path::Path;

/// Reads both files. A token that is no byte and that no merge makes becomes a special token: plain
/// text can never give it.
///
/// # Errors
/// [`Error::Io`], and [`Error::Format`] where a file is not what it should be.
pub fn load(vocab: &Path, merges: &Path) -> Result<Tokenizer> {
    from_bytes(&read(vocab)?, &read(merges)?, vocab, merges)
}

/// The same from memory; `vocab` and `merges` are named in errors.
///
/// # Errors
/// [`Error::Format`] as [`load`].
pub fn from_bytes(
    vocab_bytes: &[u8],
    merges_bytes: &[u8],
    vocab: &Path,
    merges: &Path,
) -> Result<Tokenizer> {
    let entries: Entries = serde_json::from_slice(vocab_bytes)
        .map_err(|error| Error::format(vocab, error.to_string()))?;
    let text = std::str::from_utf8(merges_bytes)
        .map_err(|error| Error::format(merges, error.to_string()))?;
    let (spelled, made) = parse_merges(text).map_err(|what| Error::format(merges, what))?;
    let (tokens, specials) =
        sort_tokens(&entries, &made).map_err(|what| Error::format(vocab, what))?;
    let vocab = Vocab::from_spelled_merges(tokens, &spelled, specials, false)
        .map_err(|what| Error::format(merges, what))?;
    Ok(Tokenizer::new(vocab, Pattern::named("gpt2")?))
}

/// The merges, and the tokens they make as the file writes them.
fn parse_merges(text: &str) -> std::result::Result<(SpelledMerges, HashSet<String>), String> {
    let (mut merges, mut made) = (SpelledMerges::default(), HashSet::new());
    for (number, line) in text.lines().enumerate() {
        if line.is_empty() || (number == 0 && line.starts_with("#version")) {
            continue;
        }
        let at = |what: String| format!("line {}: {what}", number + 1);
        let (left, right) = line
            .split_once(' ')
            .ok_or_else(|| at("no space between two tokens".into()))?;
        merges.push_text(left, right).map_err(at)?;
        made.insert(format!("{left}{right}"));
    }
    Ok((merges, made))
}

/// Ordinary tokens in bytes, and special ones.
fn sort_tokens(
    entries: &Entries,
    made: &HashSet<String>,
) -> std::result::Result<(Tokens, Vec<Special>), String> {
    let (mut tokens, mut specials) = (Tokens::with_capacity(entries.0.len()), Vec::new());
    let mut bytes = Vec::new();
    for (text, id) in &entries.0 {
        bytes.clear();
        match printable::to_bytes(text, &mut bytes) {
            Ok(()) if bytes.len() == 1 || made.contains(text.as_ref()) => {
                tokens.insert(*id, &bytes)?
            }
            _ => specials.push(special(text.to_string(), *id)),
        }
    }
    specials.sort_by_key(|special| special.id);
    Ok((tokens, specials))
}

impl SpelledMerges {
    /// Adds a merge of tokens in printable characters.
    pub(super) fn push_text(&mut self, left: &str, right: &str) -> std::result::Result<(), String> {
        let (mut a, mut b) = (Ok(()), Ok(()));
        self.push(
            |out| a = printable::to_bytes(left, out),
            |out| b = printable::to_bytes(right, out),
        );
        a.and(b).map_err(|char| {
            format!("the merge {left:?} {right:?} is not byte-level: {char:?} stands for no byte")
        })
    }
}

/// Writes both files; special tokens go into the vocabulary by their text.
///
/// # Errors
/// [`Error::Io`]; [`Error::Usage`] where the files cannot say what the tokenizer does.
pub fn save(tokenizer: &Tokenizer, vocab: &Path, merges: &Path) -> Result<()> {
    require_plain_merges(tokenizer, vocab)?;
    let known = tokenizer.vocab();
    let cannot = |why: String| {
        Err(Error::usage(format!(
            "cannot write {}: {why}; save it as tokenizer.json",
            vocab.display()
        )))
    };
    if tokenizer.pattern().name() != "gpt2" && !known.is_bytes() {
        return cannot(format!(
            "vocab.json and merges.txt mean GPT-2's pattern, and this tokenizer's is {}",
            tokenizer.pattern().name()
        ));
    }
    if known.whole_pieces() {
        return cannot("some of its tokens are made by no merge".into());
    }
    let lines: Vec<String> = written_tokens(known)
        .iter()
        .map(|(id, text)| format!("{}: {id}", serde_json::Value::from(text.as_str())))
        .collect();
    write_whole(vocab, format!("{{{}}}\n", lines.join(", ")).as_bytes())?;
    let mut text = String::from("#version: 0.2\n");
    for &(left, right) in known.merges() {
        let token = |id| printable::to_text(known.tokens().get(id));
        text.push_str(&format!("{} {}\n", token(left), token(right)));
    }
    write_whole(merges, text.as_bytes())
}
