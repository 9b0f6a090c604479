//! Tokenizers in files: Hugging Face's `tokenizer.json`, tiktoken's ranks, GPT-2's `vocab.json` with
//! `merges.txt`. Readers believe nothing: what a file claims is checked or refused in one sentence, and
//! so is what this crate cannot do exactly as the file says.

pub mod gpt2;
pub mod huggingface;
pub(crate) mod printable;
pub mod tiktoken;

use crate::error::{Error, Result};
use crate::vocab::{Special, Vocab};
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// The whole of a file.
fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(Error::io("cannot read", path))
}

/// Writes a file whole or not at all.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomically(path, |file| {
        file.write_all(bytes)
            .map_err(Error::io("cannot write", path))
    })
}

/// Writes a file under a temporary name beside its own, syncs it, and renames it.
///
/// # Errors
/// Those of `write`; [`Error::Usage`] for a path that names no file, [`Error::Io`].
pub(crate) fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut File) -> Result<()>,
) -> Result<()> {
    let Some(name) = path.file_name() else {
        return Err(Error::usage(format!(
            "cannot write {}: it names no file",
            path.display()
        )));
    };
    let mut name = name.to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let io = |error| Error::io("cannot write", path)(error);
    let written = File::create(&temporary).map_err(io).and_then(|mut file| {
        write(&mut file)?;
        file.sync_all().map_err(io)?;
        std::fs::rename(&temporary, path).map_err(io)
    });
    if written.is_err() {
        // The first error is the one to report; there may be nothing to remove.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

/// Ordinary tokens, by ascending id.
fn ordinary(vocab: &Vocab) -> impl Iterator<Item = (u32, &[u8])> {
    let specials: std::collections::HashSet<u32> =
        vocab.specials().iter().map(|special| special.id).collect();
    vocab
        .tokens()
        .iter()
        .filter(move |(id, _)| !specials.contains(id))
}

/// The special tokens by ascending id.
fn specials_by_id(vocab: &Vocab) -> Vec<&Special> {
    let mut specials: Vec<&Special> = vocab.specials().iter().collect();
    specials.sort_by_key(|special| special.id);
    specials
}
