//! Inputs -> documents -> ids -> shard files and a manifest: the dataset folder of
//! `docs/formats.md`.
//!
//! [`inputs`] finds the files, [`read`] streams their documents, [`split`] tells training from
//! validation, [`batch`] cuts the stream into jobs, [`pour`] encodes them in parallel and
//! writes them in order, [`output`] keeps what a killed write needs to go on, [`manifest`] seals it.
//!
//! The bytes of a dataset follow from input, tokenizer and options; never from threads, from how
//! often the write was interrupted, or from the machine. Memory is a few megabytes a thread.

mod batch;
mod encode;
mod glob;
mod inputs;
mod manifest;
mod output;
mod pour;
mod read;
mod split;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use encode::DocumentEncoder;
pub use glob::Glob;
pub use inputs::{Format, OnBinary, STANDARD_INPUT, Search, Source};
pub use manifest::{
    InputFacts, MANIFEST_FILE, Manifest, ReadOptions, SideFacts, TokenizerFacts,
    source_fingerprint, verify_dataset,
};
pub use output::{JOURNAL_FILE, Width};
pub use read::{Outcome, Reading, Sink, read_documents};
pub use split::{Rule, SplitOptions};

use crate::control::{Control, Stage};
use crate::error::{Error, Result};
use crate::pretokenize::Pattern;
use batch::{Batcher, Job};
use manifest::{SourceFacts, SplitFacts, write_whole};
use output::{IllFormed, Journal, Progress};
use pour::{Poured, Work, pour};
use serde_json::json;
use split::Split;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::UNIX_EPOCH;

/// The tokenizer's name in the folder.
pub const TOKENIZER_FILE: &str = "tokenizer.json";
/// Held by the process that writes.
pub const LOCK_FILE: &str = "lock";
/// Ids in a full shard, where the user names no number.
pub const SHARD_TOKENS: u64 = 100_000_000;
/// More ids than this do not fit the header's field.
const LARGEST_SHARD_TOKENS: u64 = i32::MAX as u64;

/// What a dataset needs of a tokenizer.
pub trait Encode: Sync {
    /// One thread's encoder.
    type Encoder<'e>: EncodeText
    where
        Self: 'e;

    /// An encoder for this thread.
    fn start(&self) -> Self::Encoder<'_>;

    /// A place late in `text`, not its beginning, where encoding the two parts one by one is proven
    /// to give the ids of the whole.
    fn safe_cut(&self, text: &[u8]) -> Option<usize>;

    /// What the manifest tells of it.
    fn facts(&self) -> TokenizerFacts;

    /// Writes it to a file.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn save(&self, path: &Path) -> Result<()>;
}

/// One thread's encoder.
pub trait EncodeText {
    /// Appends the ids of `text`.
    ///
    /// # Errors
    /// What the tokenizer's pattern cannot do.
    fn encode(&mut self, text: &[u8], ids: &mut Vec<u32>) -> Result<()>;
}

/// What to read, and how to write it.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which files.
    pub search: Search,
    /// How documents are found in them.
    pub reading: Reading,
    /// What is kept for validation.
    pub split: SplitOptions,
    /// Special tokens that become their ids where the text spells them.
    pub special_tokens: Vec<String>,
    /// Ids in a full shard.
    pub shard_tokens: u64,
    /// Threads that encode; `None`: as many as the machine runs at once.
    pub threads: Option<usize>,
}

impl Options {
    fn check(&self) -> Result<()> {
        if !(1..=LARGEST_SHARD_TOKENS).contains(&self.shard_tokens) {
            return Err(Error::usage(format!(
                "a shard of {} ids is asked for, but it must hold between 1 and \
                 {LARGEST_SHARD_TOKENS}",
                self.shard_tokens
            )));
        }
        if self.threads == Some(0) {
            return Err(Error::usage(
                "0 threads are asked for, but it takes at least 1",
            ));
        }
        self.split.check()
    }

    /// The options as the manifest holds them.
    fn read_options(&self) -> ReadOptions {
        let format = match self.search.format {
            None => "auto",
            Some(Format::Text) => "text",
            Some(Format::Jsonl) => "jsonl",
            Some(Format::Parquet) => "parquet",
        };
        ReadOptions {
            field: self.reading.field.clone(),
            format: format.to_owned(),
            include: self.search.include.clone(),
            seed: self.split.seed,
            separator: self.reading.separator.clone(),
            special_tokens: self.special_tokens.clone(),
            valid_fraction: self.split.fraction,
        }
    }
}

/// Writes a dataset into `folder`, which is made where it does not exist. A write of the same input
/// with the same options that was broken off is continued; any other dataset there is replaced.
///
/// # Errors
/// [`Error::Usage`] for options that cannot be, and for a folder that another process writes;
/// [`Error::Format`] for input that cannot be read; [`Error::Io`]; [`Error::Interrupted`]. After each
/// of these the same call goes on from the last checkpoint.
pub fn write_dataset<E: Encode>(
    encoder: &E,
    folder: &Path,
    options: &Options,
    control: &Control,
) -> Result<Manifest> {
    options.check()?;
    let sources = options.search.files()?;
    let split = Split::decide(options.split, &sources, &options.reading, control)?;
    fs::create_dir_all(folder).map_err(Error::io("cannot make", folder))?;
    let _lock = lock(folder)?;
    let tokenizer = encoder.facts();
    let width = Width::for_vocabulary(tokenizer.vocab_size);
    let plan = plan(&tokenizer, &sources, &split, options)?;
    let journal = match unfinished(folder, &plan, width) {
        Some(journal) => journal,
        None => begin(folder, plan, encoder)?,
    };
    let available = || thread::available_parallelism().map_or(1, usize::from);
    let work = Work {
        encoder,
        end_of_text_id: tokenizer.end_of_text_id,
        folder,
        sources: &sources,
        reading: &options.reading,
        split: &split,
        width,
        shard_tokens: options.shard_tokens,
        threads: options.threads.unwrap_or_else(available),
        journal,
    };
    let poured = pour(&work, control)?;
    let source = source_facts(&sources, options, &poured);
    let facts = SplitFacts {
        seed: split.seed,
        fraction: split.fraction,
        rule: split.rule(),
    };
    let manifest = Manifest::new(tokenizer, width, source, facts, poured.sides);
    write_whole(&folder.join(MANIFEST_FILE), manifest.to_json().as_bytes())?;
    let _ = fs::remove_file(folder.join(JOURNAL_FILE));
    Ok(manifest)
}

/// The `source.fingerprint` that a dataset made with these options would have.
///
/// # Errors
/// Those of [`Search::files`]; [`Error::Io`]; [`Error::Interrupted`].
pub fn input_fingerprint(options: &Options, control: &Control) -> Result<String> {
    let sources = options.search.files()?;
    control.begin(Stage::Read, sources.iter().map(|source| source.bytes).sum());
    let mut inputs = Vec::with_capacity(sources.len());
    for source in &sources {
        if let Outcome::Read { sha256 } = read::hash_file(source, control)? {
            inputs.push(InputFacts {
                path: source.name.clone(),
                bytes: source.bytes,
                sha256,
            });
        }
    }
    Ok(source_fingerprint(&inputs, &options.read_options()))
}

/// Hands the documents of `search` to `take`, some megabytes at a time, as texts that no piece of
/// `pattern` crosses: whole documents, long ones in parts.
///
/// # Errors
/// Those of [`Search::files`], [`read_documents`] and `take`; [`Error::Format`] where there is no
/// text.
pub fn for_each_batch(
    search: &Search,
    reading: &Reading,
    pattern: &Pattern,
    control: &Control,
    take: &mut dyn FnMut(&[&[u8]]) -> Result<()>,
) -> Result<()> {
    let sources = search.files()?;
    let plain = sources.iter().all(|source| source.format == Format::Text);
    let total = if plain {
        split::estimated_text_bytes(&sources)
    } else {
        0
    };
    control.begin(Stage::Count, total);
    let split = Split::none();
    let safe_cut = |text: &[u8]| pattern.late_split(text);
    let mut held: Vec<Job> = Vec::new();
    let mut deliver = |job: Job| {
        held.push(job);
        if held.len() >= JOBS_IN_BATCH {
            take(&texts_of(&held))?;
            held.clear();
        }
        Ok(Job::default())
    };
    let mut batcher = Batcher::new(&split, &safe_cut, &mut deliver, Job::default());
    for source in &sources {
        read_documents(source, reading, false, control, &mut batcher)?;
    }
    batcher.finish()?;
    if batcher.train.documents == 0 {
        return Err(split::no_text(&sources));
    }
    if held.is_empty() {
        Ok(())
    } else {
        take(&texts_of(&held))
    }
}

/// Jobs, a megabyte each, that are handed on together.
const JOBS_IN_BATCH: usize = 16;

fn texts_of(jobs: &[Job]) -> Vec<&[u8]> {
    let texts = jobs.iter().flat_map(|job| {
        let starts = std::iter::once(0).chain(job.parts.iter().map(|part| part.end));
        starts
            .zip(&job.parts)
            .map(|(start, part)| &job.text[start..part.end])
    });
    texts.collect()
}

/// What a look at the beginning of the input tells, before a tokenizer is chosen.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// About how many bytes of text there are.
    pub text_bytes: u64,
    /// Whether there is more than one document, as far as was looked.
    pub several_documents: bool,
    /// How many different bytes the text has, as far as was looked.
    pub distinct_bytes: usize,
}

/// Looks at the first [`SURVEY_BYTES`] of text.
///
/// # Errors
/// Those of [`Search::files`] and [`read_documents`].
pub fn survey(search: &Search, reading: &Reading, control: &Control) -> Result<Survey> {
    let sources = search.files()?;
    let mut look = Look::default();
    for source in &sources {
        read_documents(source, reading, false, control, &mut look)?;
        if look.is_satisfied() {
            break;
        }
    }
    Ok(Survey {
        text_bytes: split::estimated_text_bytes(&sources),
        several_documents: look.documents + u64::from(look.in_document) > 1,
        distinct_bytes: look.seen.iter().filter(|&&seen| seen).count(),
    })
}

/// How much text a survey looks at.
const SURVEY_BYTES: u64 = 16 << 20;

/// The state of a survey.
struct Look {
    bytes: u64,
    documents: u64,
    in_document: bool,
    seen: [bool; 256],
}

impl Default for Look {
    fn default() -> Self {
        Self {
            bytes: 0,
            documents: 0,
            in_document: false,
            seen: [false; 256],
        }
    }
}

impl Sink for Look {
    fn text(&mut self, text: &[u8]) -> Result<()> {
        self.bytes += text.len() as u64;
        self.in_document |= !text.is_empty();
        for &byte in text {
            self.seen[usize::from(byte)] = true;
        }
        Ok(())
    }

    fn end_document(&mut self) -> Result<()> {
        self.documents += u64::from(std::mem::take(&mut self.in_document));
        Ok(())
    }

    fn is_satisfied(&self) -> bool {
        self.bytes >= SURVEY_BYTES
    }
}

/// Takes the folder for this process, until the file is closed.
fn lock(folder: &Path) -> Result<File> {
    let path = folder.join(LOCK_FILE);
    let file = File::create(&path).map_err(Error::io("cannot write", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::usage(format!(
            "{} is being written by another process: wait for it, or choose another name",
            folder.display()
        ))),
        Err(TryLockError::Error(error)) => Err(Error::io("cannot lock", &path)(error)),
    }
}

/// All that decides the bytes, and whether the inputs are still those of before.
fn plan(
    tokenizer: &TokenizerFacts,
    sources: &[Source],
    split: &Split,
    options: &Options,
) -> Result<serde_json::Value> {
    let mut files = Vec::with_capacity(sources.len());
    for source in sources {
        let modified = fs::metadata(&source.path)
            .and_then(|facts| facts.modified())
            .map_err(Error::io("cannot read", &source.name))?;
        let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        files.push(json!([
            source.name,
            source.bytes,
            since.as_nanos().to_string()
        ]));
    }
    Ok(json!({
        "program": env!("CARGO_PKG_VERSION"),
        "tokenizer": tokenizer,
        "files": files,
        "options": options.read_options(),
        "fraction": split.fraction,
        "shard_tokens": options.shard_tokens,
    }))
}

/// The journal of a broken-off write of this plan, where all that it tells of is there.
fn unfinished(folder: &Path, plan: &serde_json::Value, width: Width) -> Option<Journal> {
    let text = fs::read(folder.join(JOURNAL_FILE)).ok()?;
    let journal: Journal = serde_json::from_slice(&text).ok()?;
    let is_whole = journal.plan == *plan
        && folder.join(TOKENIZER_FILE).is_file()
        && side_is_whole(folder, "train", width, journal.train)
        && side_is_whole(folder, "valid", width, journal.valid);
    is_whole.then_some(journal)
}

fn side_is_whole(folder: &Path, name: &str, width: Width, progress: Progress) -> bool {
    let shard = |number: u64| folder.join(format!("{name}-{number:05}.bin"));
    if !(0..progress.sealed).all(|number| shard(number).is_file()) {
        return false;
    }
    if progress.partial_tokens == 0 {
        return true;
    }
    let sealed = shard(progress.sealed);
    let growing = sealed.with_extension("bin.tmp");
    if !growing.exists() {
        // It was sealed after the last checkpoint: take it up again where that was.
        let _ = fs::rename(&sealed, &growing);
    }
    let written = output::HEADER_BYTES as u64 + progress.partial_tokens * width.bytes();
    fs::metadata(&growing).is_ok_and(|facts| facts.len() >= written)
}

/// Clears the folder of what an earlier write left, and writes what a new one begins with.
fn begin<E: Encode>(folder: &Path, plan: serde_json::Value, encoder: &E) -> Result<Journal> {
    // The manifest goes first: without it the rest is no dataset.
    let mut files = vec![folder.join(MANIFEST_FILE), folder.join(JOURNAL_FILE)];
    files.extend([MANIFEST_FILE, JOURNAL_FILE].map(|name| folder.join(format!("{name}.tmp"))));
    files.extend(files_of_shards(folder)?);
    for file in files {
        match fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("cannot remove", &file)(error));
            }
            _ => {}
        }
    }
    encoder.save(&folder.join(TOKENIZER_FILE))?;
    let nothing = Progress::default();
    let ill_formed = IllFormed::default();
    Ok(Journal {
        plan,
        next_job: 0,
        ill_formed,
        train: nothing,
        valid: nothing,
    })
}

fn files_of_shards(folder: &Path) -> Result<Vec<PathBuf>> {
    let globs = [
        "train-*.bin",
        "train-*.bin.tmp",
        "valid-*.bin",
        "valid-*.bin.tmp",
    ]
    .map(Glob::new);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io("cannot list", folder))? {
        let entry = entry.map_err(Error::io("cannot list", folder))?;
        let name = entry.file_name();
        if globs
            .iter()
            .any(|glob| glob.matches(&name.to_string_lossy()))
        {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn source_facts(sources: &[Source], options: &Options, poured: &Poured) -> SourceFacts {
    let mut inputs = Vec::new();
    let mut skipped = Vec::new();
    for (source, outcome) in sources.iter().zip(&poured.outcomes) {
        let path = source.name.clone();
        match outcome {
            Outcome::Read { sha256 } => {
                inputs.push(InputFacts {
                    path,
                    bytes: source.bytes,
                    sha256: sha256.clone(),
                });
            }
            Outcome::Skipped => skipped.push(path),
        }
    }
    let options = options.read_options();
    let fingerprint = source_fingerprint(&inputs, &options);
    let text_bytes = poured.sides.iter().map(|side| side.text_bytes).sum();
    let notes = notes(sources, &skipped, poured);
    SourceFacts {
        inputs,
        text_bytes,
        options,
        fingerprint,
        notes,
    }
}

/// What the user should know of the input, a sentence each.
fn notes(sources: &[Source], skipped: &[String], poured: &Poured) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(first) = skipped.first() {
        notes.push(format!(
            "binary files left out: {}, the first is {first}",
            skipped.len()
        ));
    }
    if poured.empty_documents > 0 {
        notes.push(format!(
            "documents without text left out: {}",
            poured.empty_documents
        ));
    }
    let IllFormed {
        count,
        first_source,
    } = poured.ill_formed;
    if let Some(source) = sources.get(first_source).filter(|_| count > 0) {
        let name = &source.name;
        notes.push(format!(
            "byte sequences that are no UTF-8, kept as bytes: {count}, the first in {name}"
        ));
    }
    notes
}
