//! Ids -> shard files, so that a write which is killed at any moment goes on where it was.
//!
//! A shard grows under a temporary name, and its ids are hashed as they come. Full, it is sealed:
//! header written, synced, renamed. From time to time a checkpoint is made: what was written is synced,
//! and the journal replaced. All that waits for the disk is done by a thread of its own, in order.

use super::manifest::{ShardFacts, to_json, write_whole};
use super::read::hex;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

/// Length of a shard's header.
pub const HEADER_BYTES: usize = 1024;
/// The journal's name in the folder.
pub const JOURNAL_FILE: &str = "journal.json";
/// Seals and checkpoints that may wait.
const TASKS: usize = 4;

/// Width of an id in a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Width {
    /// Two bytes.
    Uint16,
    /// Four bytes.
    Uint32,
}

impl Width {
    /// The narrowest for ids below `vocab_size`.
    pub fn for_vocabulary(vocab_size: u32) -> Self {
        if vocab_size <= 1 << 16 {
            Self::Uint16
        } else {
            Self::Uint32
        }
    }

    /// Bytes of an id.
    pub fn bytes(self) -> u64 {
        match self {
            Self::Uint16 => 2,
            Self::Uint32 => 4,
        }
    }

    /// The header of a shard with so many ids (of the llm.c family; see `docs/formats.md`).
    pub fn header(self, tokens: u64) -> [u8; HEADER_BYTES] {
        let (magic, version) = match self {
            Self::Uint16 => (20_240_520_u32, 1_u32),
            Self::Uint32 => (20_240_801, 7),
        };
        let mut header = [0; HEADER_BYTES];
        header[..4].copy_from_slice(&magic.to_le_bytes());
        header[4..8].copy_from_slice(&version.to_le_bytes());
        header[8..12].copy_from_slice(&(tokens as u32).to_le_bytes());
        header
    }

    /// Appends ids as a shard stores them.
    pub fn append(self, ids: &[u32], bytes: &mut Vec<u8>) {
        // Whole chunks of a slice, so that the loops are vectorised.
        let start = bytes.len();
        bytes.resize(start + ids.len() * self.bytes() as usize, 0);
        let room = &mut bytes[start..];
        match self {
            Self::Uint16 => {
                for (place, &id) in room.chunks_exact_mut(2).zip(ids) {
                    place.copy_from_slice(&(id as u16).to_le_bytes());
                }
            }
            Self::Uint32 => {
                for (place, &id) in room.chunks_exact_mut(4).zip(ids) {
                    place.copy_from_slice(&id.to_le_bytes());
                }
            }
        }
    }
}

/// How far a side had come at a checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Shards sealed.
    pub sealed: u64,
    /// Ids in the shard after those.
    pub partial_tokens: u64,
}

/// What a resumed write must know; `plan` is all that decides the bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Journal {
    /// Tokenizer, inputs and options; another plan starts anew.
    pub plan: serde_json::Value,
    /// Jobs before this one are written.
    pub next_job: u64,
    /// Ill-formed byte sequences met so far, and the input with the first.
    pub ill_formed: IllFormed,
    /// Training's shards.
    pub train: Progress,
    /// Validation's shards.
    pub valid: Progress,
}

/// Byte sequences that are no UTF-8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IllFormed {
    /// How many.
    pub count: u64,
    /// The place, in the list of inputs, of the first.
    pub first_source: usize,
}

/// Writes one side's ids.
pub struct ShardWriter<'f> {
    folder: &'f Path,
    name: &'static str,
    width: Width,
    shard_tokens: u64,
    progress: Progress,
    open: Option<(File, PathBuf)>,
    /// Of the ids in the open shard.
    hasher: Sha256,
}

impl<'f> ShardWriter<'f> {
    /// A writer that goes on after `progress` (the default: at the beginning).
    ///
    /// # Errors
    /// [`Error::Io`] where the unfinished shard cannot be opened, or is shorter than it should be.
    pub fn resume(
        folder: &'f Path,
        name: &'static str,
        width: Width,
        shard_tokens: u64,
        progress: Progress,
    ) -> Result<Self> {
        let mut writer = Self {
            folder,
            name,
            width,
            shard_tokens,
            progress,
            open: None,
            hasher: Sha256::new(),
        };
        if progress.partial_tokens > 0 {
            let path = writer.temporary_path();
            let written = HEADER_BYTES as u64 + progress.partial_tokens * width.bytes();
            let file = reopen(&path, written).map_err(Error::io("cannot go on with", &path))?;
            writer.hasher = hash_ids(&path)?.0;
            writer.open = Some((file, path));
        }
        Ok(writer)
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// The shards that are sealed.
    pub fn sealed_paths(&self) -> impl Iterator<Item = PathBuf> {
        (0..self.progress.sealed).map(|number| self.folder.join(self.file_name(number)))
    }

    /// Appends ids as bytes; whether a shard became full.
    ///
    /// # Errors
    /// [`Error::Io`] where the disk refuses; those of a seal that failed.
    pub fn append(&mut self, mut ids: &[u8], finisher: &mut Finisher) -> Result<bool> {
        let mut sealed = false;
        while !ids.is_empty() {
            let room = (self.shard_tokens - self.progress.partial_tokens) * self.width.bytes();
            let (now, later) = ids.split_at(ids.len().min(room as usize));
            let (file, path) = self.open_file()?;
            file.write_all(now)
                .map_err(Error::io("cannot write", path))?;
            self.hasher.update(now);
            self.progress.partial_tokens += now.len() as u64 / self.width.bytes();
            ids = later;
            if self.progress.partial_tokens == self.shard_tokens {
                self.seal(finisher)?;
                sealed = true;
            }
        }
        Ok(sealed)
    }

    /// Seals what is there, where there is anything.
    ///
    /// # Errors
    /// Those of a seal that failed.
    pub fn seal(&mut self, finisher: &mut Finisher) -> Result<()> {
        let Some((file, temporary)) = self.open.take() else {
            return Ok(());
        };
        let tokens = std::mem::take(&mut self.progress.partial_tokens);
        let path = self.folder.join(self.file_name(self.progress.sealed));
        self.progress.sealed += 1;
        let sealed = Sealed {
            path,
            bytes: HEADER_BYTES as u64 + tokens * self.width.bytes(),
            ids_sha256: hex(&std::mem::take(&mut self.hasher).finalize()),
        };
        finisher.send(Task::Seal {
            file,
            temporary,
            header: Box::new(self.width.header(tokens)),
            sealed,
        })
    }

    /// The unfinished shard's file, for a checkpoint to sync.
    fn unfinished(&self) -> Result<Option<File>> {
        let Some((file, path)) = &self.open else {
            return Ok(None);
        };
        file.try_clone()
            .map(Some)
            .map_err(Error::io("cannot write", path))
    }

    fn open_file(&mut self) -> Result<(&mut File, &Path)> {
        let (file, path) = match self.open.take() {
            Some(open) => open,
            None => {
                let path = self.temporary_path();
                let file =
                    reopen(&path, HEADER_BYTES as u64).map_err(Error::io("cannot write", &path))?;
                (file, path)
            }
        };
        let (file, path) = self.open.insert((file, path));
        Ok((file, path))
    }

    fn temporary_path(&self) -> PathBuf {
        self.folder
            .join(format!("{}.tmp", self.file_name(self.progress.sealed)))
    }

    fn file_name(&self, number: u64) -> String {
        format!("{}-{number:05}.bin", self.name)
    }

    /// The manifest's entries of all shards, given their checksums.
    pub fn facts(&self, sealed: &[Sealed]) -> Result<Vec<ShardFacts>> {
        let names = (0..self.progress.sealed).map(|number| self.file_name(number));
        names
            .map(|file| {
                let path = self.folder.join(&file);
                let found = sealed.iter().find(|one| one.path == path);
                let Sealed {
                    bytes, ids_sha256, ..
                } = found.ok_or_else(|| Error::format(&path, "was never hashed"))?;
                let tokens = (bytes - HEADER_BYTES as u64) / self.width.bytes();
                Ok(ShardFacts {
                    file,
                    tokens,
                    bytes: *bytes,
                    ids_sha256: ids_sha256.clone(),
                })
            })
            .collect()
    }
}

/// Opens a file for writing at `length`, which is made its length.
fn reopen(path: &Path, length: u64) -> std::io::Result<File> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    file.set_len(length)?;
    file.seek(SeekFrom::Start(length))?;
    Ok(file)
}

/// A checkpoint of both writers after job `next_job - 1`.
///
/// # Errors
/// Those of tasks before.
pub fn checkpoint(
    journal: Journal,
    writers: [&ShardWriter; 2],
    folder: &Path,
    finisher: &mut Finisher,
) -> Result<()> {
    let mut unfinished = Vec::new();
    for writer in writers {
        unfinished.extend(writer.unfinished()?);
    }
    let path = folder.join(JOURNAL_FILE);
    finisher.send(Task::Checkpoint {
        journal: Box::new(journal),
        path,
        unfinished,
    })
}

/// What waits for the disk.
pub enum Task {
    /// Finish a shard.
    Seal {
        /// The shard, its header still missing.
        file: File,
        /// Its name so far.
        temporary: PathBuf,
        /// Its header.
        header: Box<[u8; HEADER_BYTES]>,
        /// What it will be.
        sealed: Sealed,
    },
    /// Hash a shard that an earlier process sealed.
    Hash {
        /// The shard.
        path: PathBuf,
    },
    /// Replace the journal.
    Checkpoint {
        /// What it says.
        journal: Box<Journal>,
        /// Where it is.
        path: PathBuf,
        /// What must be on the disk before.
        unfinished: Vec<File>,
    },
}

/// A sealed shard.
#[derive(Debug)]
pub struct Sealed {
    path: PathBuf,
    bytes: u64,
    ids_sha256: String,
}

/// The thread that waits for the disk.
pub struct Finisher<'scope> {
    tasks: Option<SyncSender<Task>>,
    thread: Option<ScopedJoinHandle<'scope, Result<Vec<Sealed>>>>,
}

impl<'scope> Finisher<'scope> {
    /// Starts it.
    pub fn start<'env>(scope: &'scope Scope<'scope, 'env>) -> Self {
        let (tasks, queue) = sync_channel(TASKS);
        Self {
            tasks: Some(tasks),
            thread: Some(scope.spawn(move || work(queue))),
        }
    }

    /// Queues a task.
    ///
    /// # Errors
    /// The error of an earlier task, which ended the thread.
    pub fn send(&mut self, task: Task) -> Result<()> {
        let sent = self
            .tasks
            .as_ref()
            .is_some_and(|tasks| tasks.send(task).is_ok());
        if sent {
            Ok(())
        } else {
            self.finish().map(|_| ())
        }
    }

    /// Waits for all tasks; the shards sealed or hashed.
    ///
    /// # Errors
    /// The first error of a task.
    pub fn finish(&mut self) -> Result<Vec<Sealed>> {
        self.tasks = None;
        match self.thread.take().map(ScopedJoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => Ok(Vec::new()),
        }
    }
}

fn work(queue: Receiver<Task>) -> Result<Vec<Sealed>> {
    let mut sealed = Vec::new();
    for task in queue {
        match task {
            Task::Seal {
                mut file,
                temporary,
                header,
                sealed: shard,
            } => {
                file.seek(SeekFrom::Start(0))
                    .and_then(|_| file.write_all(header.as_slice()))
                    .and_then(|()| file.sync_all())
                    .map_err(Error::io("cannot write", &temporary))?;
                drop(file);
                fs::rename(&temporary, &shard.path)
                    .map_err(Error::io("cannot write", &shard.path))?;
                sealed.push(shard);
            }
            Task::Hash { path } => {
                let (hasher, length) = hash_ids(&path)?;
                sealed.push(Sealed {
                    path,
                    bytes: HEADER_BYTES as u64 + length,
                    ids_sha256: hex(&hasher.finalize()),
                });
            }
            Task::Checkpoint {
                journal,
                path,
                unfinished,
            } => {
                for file in unfinished {
                    file.sync_data().map_err(Error::io("cannot write", &path))?;
                }
                write_whole(&path, to_json(&journal).as_bytes())?;
            }
        }
    }
    Ok(sealed)
}

/// Hashes what follows a shard's header, and tells how many bytes that is.
fn hash_ids(path: &Path) -> Result<(Sha256, u64)> {
    let refused = Error::io("cannot read", path);
    let hash = || {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(HEADER_BYTES as u64))?;
        let (mut hasher, mut block, mut length) = (Sha256::new(), vec![0; 256 << 10], 0);
        loop {
            let read = file.read(&mut block)?;
            if read == 0 {
                return Ok((hasher, length));
            }
            hasher.update(&block[..read]);
            length += read as u64;
        }
    };
    hash().map_err(refused)
}
