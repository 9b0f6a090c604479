//! The threads: one reads, some encode, the caller's writes in order, one waits for the disk.
//!
//! A fixed number of jobs goes round: empty to the reader, full to an encoder, encoded to the writer,
//! and back. So memory is bounded whoever is slowest, and buffers are used again.

use super::batch::{Batcher, Job, Tally};
use super::inputs::Source;
use super::manifest::SideFacts;
use super::output::{Finisher, IllFormed, Journal, Progress, ShardWriter, Task, Width, checkpoint};
use super::read::{Outcome, Reading, read_documents};
use super::split::{Side, Split};
use super::{Encode, EncodeText};
use crate::control::{Control, Stage};
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

/// A checkpoint is made when a shard is full, and after so much text.
const CHECKPOINT_BYTES: u64 = 256 << 20;

/// All that decides the bytes, and where they go.
pub struct Work<'a, E> {
    /// Text to ids.
    pub encoder: &'a E,
    /// Ids begin each document with this.
    pub end_of_text_id: Option<u32>,
    /// The dataset's folder.
    pub folder: &'a Path,
    /// The input files.
    pub sources: &'a [Source],
    /// How documents are found in them.
    pub reading: &'a Reading,
    /// Which of them are for validation.
    pub split: &'a Split,
    /// Width of ids.
    pub width: Width,
    /// Ids in a full shard.
    pub shard_tokens: u64,
    /// Threads that encode.
    pub threads: usize,
    /// Where to begin, and the plan that checkpoints repeat.
    pub journal: Journal,
}

/// What was written.
pub struct Poured {
    /// What each input turned out to be.
    pub outcomes: Vec<Outcome>,
    /// Documents without text.
    pub empty_documents: u64,
    /// Byte sequences that are no UTF-8.
    pub ill_formed: IllFormed,
    /// Training and validation.
    pub sides: [SideFacts; 2],
}

/// An encoded job.
#[derive(Default)]
struct Encoded {
    job: Job,
    train: Vec<u8>,
    valid: Vec<u8>,
    ill_formed: Option<IllFormed>,
}

/// What the reader knows at the end.
struct Read {
    outcomes: Vec<Outcome>,
    empty_documents: u64,
    tallies: [Tally; 2],
}

/// Reads, encodes and writes everything.
///
/// # Errors
/// The first error in the order of the text; what was written until then stays, for another try.
pub fn pour<E: Encode>(work: &Work<E>, control: &Control) -> Result<Poured> {
    control.begin(
        Stage::Encode,
        work.sources.iter().map(|source| source.bytes).sum(),
    );
    let rounds = work.threads * 2 + 4;
    let (empty, empties) = channel();
    let (full, jobs) = channel();
    let (encoded, results) = channel();
    for _ in 0..rounds {
        // The receiver is at hand, so this cannot fail.
        let _ = empty.send(Encoded::default());
    }
    let jobs = Mutex::new(jobs);
    thread::scope(|scope| {
        let finisher = Finisher::start(scope);
        let reader = scope.spawn(move || read(work, empties, full, control));
        for _ in 0..work.threads {
            let encoded = encoded.clone();
            let jobs = &jobs;
            scope.spawn(move || encode(work, jobs, &encoded, control));
        }
        drop(encoded);
        let mut writer = Writer::resume(work, finisher)?;
        let written = writer.write_all(results, empty, control);
        let read = reader.join().unwrap_or_else(|panic| resume_unwind(panic));
        // The writer's error comes first: it is what ended the reader, too.
        match written.and(read) {
            Ok(read) => writer.finish(read),
            Err(Error::Interrupted) => {
                writer.checkpoint()?;
                writer.finisher.finish()?;
                Err(Error::Interrupted)
            }
            Err(error) => Err(error),
        }
    })
}

/// The reader: inputs -> jobs. Jobs that an earlier process wrote are passed over.
fn read<E: Encode>(
    work: &Work<E>,
    empties: Receiver<Encoded>,
    full: Sender<Encoded>,
    control: &Control,
) -> Result<Read> {
    let next_empty = || empties.recv().map_err(|_| Error::Interrupted);
    let mut current = next_empty()?;
    let first = std::mem::take(&mut current.job);
    let mut deliver = |job: Job| {
        if job.sequence < work.journal.next_job {
            control.advance(job.read_bytes);
            return Ok(job);
        }
        let mut encoded = std::mem::replace(&mut current, next_empty()?);
        encoded.job = job;
        let next = std::mem::take(&mut current.job);
        full.send(encoded).map_err(|_| Error::Interrupted)?;
        Ok(next)
    };
    let safe_cut = |text: &[u8]| work.encoder.safe_cut(text);
    let mut batcher = Batcher::new(work.split, &safe_cut, &mut deliver, first);
    let mut outcomes = Vec::with_capacity(work.sources.len());
    for (place, source) in work.sources.iter().enumerate() {
        batcher.source = place;
        outcomes.push(read_documents(
            source,
            work.reading,
            true,
            control,
            &mut batcher,
        )?);
    }
    batcher.finish()?;
    let tallies = [batcher.train, batcher.valid];
    Ok(Read {
        outcomes,
        empty_documents: batcher.empty_documents,
        tallies,
    })
}

/// An encoder: jobs -> ids as bytes, until there are no more jobs or nobody wants them.
fn encode<E: Encode>(
    work: &Work<E>,
    jobs: &Mutex<Receiver<Encoded>>,
    results: &Sender<Result<Encoded>>,
    control: &Control,
) {
    let mut encoder = work.encoder.start();
    let mut ids = Vec::new();
    loop {
        let Ok(Ok(mut encoded)) = jobs.lock().map(|jobs| jobs.recv()) else {
            return;
        };
        let done = catch_unwind(AssertUnwindSafe(|| {
            control.check()?;
            encode_job(work, &mut encoder, &mut ids, &mut encoded)
        }));
        match done {
            Ok(Ok(())) if results.send(Ok(encoded)).is_ok() => {}
            Ok(Ok(())) => return,
            Ok(Err(error)) => {
                let _ = results.send(Err(error));
                return;
            }
            Err(panic) => {
                // So that the writer does not wait for this job for ever.
                let _ = results.send(Err(Error::Interrupted));
                resume_unwind(panic);
            }
        }
    }
}

fn encode_job<'a, E: Encode>(
    work: &Work<'a, E>,
    encoder: &mut E::Encoder<'a>,
    ids: &mut Vec<u32>,
    encoded: &mut Encoded,
) -> Result<()> {
    encoded.train.clear();
    encoded.valid.clear();
    encoded.ill_formed = None;
    let mut start = 0;
    for part in &encoded.job.parts {
        let text = &encoded.job.text[start..part.end];
        start = part.end;
        ids.clear();
        if part.begins {
            ids.extend(work.end_of_text_id);
        }
        encoder.encode(text, ids)?;
        let side = match part.side {
            Side::Train => &mut encoded.train,
            Side::Valid => &mut encoded.valid,
        };
        work.width.append(ids, side);
        let count = count_ill_formed(text);
        if count > 0 {
            let first = IllFormed {
                count: 0,
                first_source: part.source,
            };
            encoded.ill_formed.get_or_insert(first).count += count;
        }
    }
    Ok(())
}

/// How many replacement characters a lossy reading of `text` would show.
fn count_ill_formed(mut text: &[u8]) -> u64 {
    let mut count = 0;
    while let Err(error) = std::str::from_utf8(text) {
        count += 1;
        let Some(length) = error.error_len() else {
            break;
        };
        text = &text[error.valid_up_to() + length..];
    }
    count
}

/// The writer: encoded jobs, in order -> shards.
struct Writer<'a, 'scope> {
    train: ShardWriter<'a>,
    valid: ShardWriter<'a>,
    finisher: Finisher<'scope>,
    journal: Journal,
    folder: &'a Path,
    since_checkpoint: u64,
}

impl<'a, 'scope> Writer<'a, 'scope> {
    fn resume<E>(work: &Work<'a, E>, mut finisher: Finisher<'scope>) -> Result<Self> {
        let writer = |name, progress: Progress| {
            ShardWriter::resume(work.folder, name, work.width, work.shard_tokens, progress)
        };
        let train = writer("train", work.journal.train)?;
        let valid = writer("valid", work.journal.valid)?;
        for path in train.sealed_paths().chain(valid.sealed_paths()) {
            finisher.send(Task::Hash { path })?;
        }
        let journal = work.journal.clone();
        Ok(Self {
            train,
            valid,
            finisher,
            journal,
            folder: work.folder,
            since_checkpoint: 0,
        })
    }

    fn write_all(
        &mut self,
        results: Receiver<Result<Encoded>>,
        empties: Sender<Encoded>,
        control: &Control,
    ) -> Result<()> {
        let mut early = BTreeMap::new();
        for result in results {
            let encoded = result?;
            early.insert(encoded.job.sequence, encoded);
            while let Some(encoded) = early.remove(&self.journal.next_job) {
                self.write(&encoded)?;
                control.advance(encoded.job.read_bytes);
                control.check()?;
                // The reader may have read everything and be gone.
                let _ = empties.send(encoded);
            }
        }
        control.check()
    }

    fn write(&mut self, encoded: &Encoded) -> Result<()> {
        let mut sealed = self.train.append(&encoded.train, &mut self.finisher)?;
        sealed |= self.valid.append(&encoded.valid, &mut self.finisher)?;
        if let Some(found) = encoded.ill_formed {
            let so_far = &mut self.journal.ill_formed;
            if so_far.count == 0 {
                so_far.first_source = found.first_source;
            }
            so_far.count += found.count;
        }
        self.journal.next_job += 1;
        self.since_checkpoint += encoded.job.text.len() as u64;
        if sealed || self.since_checkpoint >= CHECKPOINT_BYTES {
            self.checkpoint()?;
        }
        Ok(())
    }

    fn checkpoint(&mut self) -> Result<()> {
        self.since_checkpoint = 0;
        self.journal.train = self.train.progress();
        self.journal.valid = self.valid.progress();
        let writers = [&self.train, &self.valid];
        checkpoint(
            self.journal.clone(),
            writers,
            self.folder,
            &mut self.finisher,
        )
    }
    /// Seals what is unfinished, and tells what was written.
    fn finish(mut self, read: Read) -> Result<Poured> {
        self.train.seal(&mut self.finisher)?;
        self.valid.seal(&mut self.finisher)?;
        let sealed = self.finisher.finish()?;
        let side = |writer: &ShardWriter, tally: Tally| {
            let shards = writer.facts(&sealed)?;
            Ok(SideFacts {
                tokens: shards.iter().map(|shard| shard.tokens).sum(),
                documents: tally.documents,
                text_bytes: tally.text_bytes,
                shards,
            })
        };
        let [train, valid] = read.tallies;
        Ok(Poured {
            outcomes: read.outcomes,
            empty_documents: read.empty_documents,
            ill_formed: self.journal.ill_formed,
            sides: [side(&self.train, train)?, side(&self.valid, valid)?],
        })
    }
}
