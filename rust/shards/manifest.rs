//! `manifest.json`, the last file of a dataset to be written: what the folder holds, from what.
//!
//! No key holds a time or a machine's name, so equal input, tokenizer and options give equal bytes.

use super::output::{HEADER_BYTES, Width};
use super::read::hex;
use super::split::Rule;
use crate::control::{Control, Stage};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

/// Its name in the folder.
pub const MANIFEST_FILE: &str = "manifest.json";
const FORMAT: &str = "microgpt-dataset";
const VERSION: u32 = 2;

/// The whole manifest, keys in the order in which they are written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Always `microgpt-dataset`.
    pub format: String,
    /// Always 1.
    pub version: u32,
    /// Which tokenizer made the ids.
    pub tokenizer: TokenizerFacts,
    /// Width of ids.
    pub dtype: Width,
    /// What was read.
    pub source: SourceFacts,
    /// How it was divided.
    pub split: SplitFacts,
    /// Training's shards.
    pub train: SideFacts,
    /// Validation's shards.
    pub valid: SideFacts,
}

/// What a dataset must know of its tokenizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenizerFacts {
    /// Changes whenever ids could.
    pub fingerprint: String,
    /// Ids are below this.
    pub vocab_size: u32,
    /// The id that each document begins with.
    pub end_of_text_id: Option<u32>,
    /// `byte` or `bpe`.
    pub kind: String,
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceFacts {
    /// The files, in order.
    pub inputs: Vec<InputFacts>,
    /// Bytes of text that the ids stand for.
    pub text_bytes: u64,
    /// The options that change what is read.
    pub options: ReadOptions,
    /// See [`source_fingerprint`].
    pub fingerprint: String,
    /// What a reader of the manifest should know: files left out, documents without text, bytes that
    /// are no UTF-8. A sentence each.
    pub notes: Vec<String>,
}

/// An input file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InputFacts {
    /// As it was named, or found below what was named.
    pub path: String,
    /// Its length as stored.
    pub bytes: u64,
    /// Of the file as stored.
    pub sha256: String,
}

/// The options that change what is read, as given; keys in alphabetical order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReadOptions {
    /// The JSON key or Parquet column.
    pub field: String,
    /// `auto`, `text`, `jsonl` or `parquet`.
    pub format: String,
    /// Patterns for files in folders.
    pub include: Vec<String>,
    /// Which documents go to validation.
    pub seed: u64,
    /// What parts documents of a text.
    pub separator: String,
    /// The special tokens that are recognised where the text spells them.
    pub special_tokens: Vec<String>,
    /// The share for validation; none: by the text's size.
    pub valid_fraction: Option<f64>,
}

/// How documents were divided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SplitFacts {
    /// As given.
    pub seed: u64,
    /// As decided.
    pub fraction: f64,
    /// Whole documents, tails, or none.
    pub rule: Rule,
}

/// One side's shards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SideFacts {
    /// Ids in all.
    pub tokens: u64,
    /// Documents, or tails of documents.
    pub documents: u64,
    /// Bytes of text that the ids stand for.
    pub text_bytes: u64,
    /// The files.
    pub shards: Vec<ShardFacts>,
}

/// A shard file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShardFacts {
    /// Its name in the folder.
    pub file: String,
    /// Ids in it.
    pub tokens: u64,
    /// Its length, header included.
    pub bytes: u64,
    /// Of what follows the header, so that it is known when the last id is.
    pub ids_sha256: String,
}

impl Manifest {
    /// A manifest of these parts.
    pub fn new(
        tokenizer: TokenizerFacts,
        dtype: Width,
        source: SourceFacts,
        split: SplitFacts,
        [train, valid]: [SideFacts; 2],
    ) -> Self {
        let format = FORMAT.to_owned();
        Self {
            format,
            version: VERSION,
            tokenizer,
            dtype,
            source,
            split,
            train,
            valid,
        }
    }

    /// Reads the manifest of a dataset folder.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be read, [`Error::Format`] where it is none of this version.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(MANIFEST_FILE);
        let bytes = fs::read(&path).map_err(Error::io("cannot read", &path))?;
        let manifest: Self = serde_json::from_slice(&bytes)
            .map_err(|error| Error::format(&path, format!("no manifest of a dataset ({error})")))?;
        if manifest.format != FORMAT || manifest.version != VERSION {
            let what = format!(
                "{} {}, but this is {FORMAT} {VERSION}",
                manifest.format, manifest.version
            );
            return Err(Error::format(&path, what));
        }
        Ok(manifest)
    }

    /// The manifest as it stands in the file.
    pub fn to_json(&self) -> String {
        to_json(self)
    }
}

/// Indented JSON with a line end.
pub(super) fn to_json(value: &impl Serialize) -> String {
    // Serialising plain structs into memory cannot fail.
    serde_json::to_string_pretty(value)
        .map(|text| text + "\n")
        .unwrap_or_default()
}

/// Writes a small file under a temporary name, and renames it.
pub(super) fn write_whole(path: &Path, content: &[u8]) -> Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = Path::new(&temporary);
    let mut file = File::create(temporary).map_err(Error::io("cannot write", temporary))?;
    file.write_all(content)
        .and_then(|()| file.sync_all())
        .map_err(Error::io("cannot write", temporary))?;
    fs::rename(temporary, path).map_err(Error::io("cannot write", path))?;
    if let Some(folder) = path.parent().and_then(|folder| File::open(folder).ok()) {
        // Makes the renames before last over a power cut; not every system can sync a folder.
        let _ = folder.sync_all();
    }
    Ok(())
}

/// SHA-256, in hexadecimal, of the compact JSON `{"inputs":[sha256, ...],"options":{...}}`, keys in
/// alphabetical order: equal content read in the same way has the same, wherever it lies.
pub fn source_fingerprint(inputs: &[InputFacts], options: &ReadOptions) -> String {
    #[derive(Serialize)]
    struct Covered<'a> {
        inputs: Vec<&'a str>,
        options: &'a ReadOptions,
    }
    let inputs = inputs.iter().map(|input| input.sha256.as_str()).collect();
    let text = serde_json::to_string(&Covered { inputs, options }).unwrap_or_default();
    hex(&Sha256::digest(text.as_bytes()))
}

/// Checks each shard's header, length and checksum against the manifest.
///
/// # Errors
/// [`Error::Format`] about the first shard that differs; [`Error::Io`]; [`Error::Interrupted`].
pub fn verify_dataset(folder: &Path, control: &Control) -> Result<()> {
    let manifest = Manifest::read(folder)?;
    let shards = || manifest.train.shards.iter().chain(&manifest.valid.shards);
    let total = shards().fold(0, |sum: u64, shard| sum.saturating_add(shard.bytes));
    control.begin(Stage::Read, total);
    for shard in shards() {
        verify_shard(&folder.join(&shard.file), shard, manifest.dtype, control)?;
    }
    Ok(())
}

fn verify_shard(path: &Path, told: &ShardFacts, dtype: Width, control: &Control) -> Result<()> {
    let mut file = File::open(path).map_err(Error::io("cannot read", path))?;
    let differs = |what: &str| {
        Err(Error::format(
            path,
            format!("{what} is not what the manifest tells: make the dataset again"),
        ))
    };
    let mut header = [0; HEADER_BYTES];
    let mut bytes = file
        .read(&mut header)
        .map_err(Error::io("cannot read", path))?;
    if header != dtype.header(told.tokens) {
        return differs("the header");
    }
    let mut hasher = Sha256::new();
    let mut block = vec![0; 1 << 20];
    loop {
        control.check()?;
        let length = file
            .read(&mut block)
            .map_err(Error::io("cannot read", path))?;
        if length == 0 {
            break;
        }
        hasher.update(&block[..length]);
        bytes += length;
        control.advance(length as u64);
    }
    if bytes as u64 != told.bytes {
        return differs("the length");
    }
    if hex(&hasher.finalize()) != told.ids_sha256 {
        return differs("the checksum");
    }
    Ok(())
}
