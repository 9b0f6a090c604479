//! Counted pieces on disk in the order of their bytes: what memory does not hold, and count files.
//!
//! A record is the length of a piece, its bytes, its count and the position at which it was met
//! first; the three numbers in LEB128. A *run* is records with ascending pieces, none twice.

use super::joined::Extent;
use super::table::{Table, sum};
use crate::control::{Control, Stage};
use crate::error::{Error, Result};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Runs that are read at the same time.
const FAN_IN: usize = 128;
/// Pieces in a run that a table is written to.
const RUN_PIECES: usize = 1 << 20;
/// What is buffered of each run that is read, where memory is not limited.
const BUFFER: usize = 256 << 10;
/// Records between two looks at the stop flag.
const STRIDE: u64 = 1 << 12;
/// The longest LEB128 of 64 bits.
const LONGEST_NUMBER: usize = 10;

/// One piece of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Record {
    pub piece: Vec<u8>,
    pub count: u64,
    pub first: u64,
}

fn write_number(out: &mut impl Write, mut number: u64) -> io::Result<()> {
    let mut bytes = [0; LONGEST_NUMBER];
    let mut len = 0;
    loop {
        bytes[len] = number as u8 & 0x7F;
        number >>= 7;
        len += 1;
        if number == 0 {
            return out.write_all(&bytes[..len]);
        }
        bytes[len - 1] |= 0x80;
    }
}

/// Appends a record.
pub(super) fn write_record(
    out: &mut impl Write,
    piece: &[u8],
    count: u64,
    first: u64,
) -> io::Result<()> {
    write_number(out, piece.len() as u64)?;
    out.write_all(piece)?;
    write_number(out, count)?;
    write_number(out, first)
}

/// Reads the records of a run, and believes nothing: what it claims is checked before memory is
/// taken for it.
pub(super) struct Records<'a, R> {
    input: R,
    /// Bytes of records that may still come.
    left: u64,
    path: &'a Path,
    /// The piece before, empty at first: no piece is.
    before: Vec<u8>,
}

impl<'a, R: BufRead> Records<'a, R> {
    /// Those in the next `left` bytes of `input`, which is called `path` in errors.
    pub(super) fn new(input: R, left: u64, path: &'a Path) -> Self {
        let before = Vec::new();
        Self {
            input,
            left,
            path,
            before,
        }
    }

    /// Bytes not read yet.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// What is read from; behind the last record, once there is none left.
    pub(super) fn input(&mut self) -> &mut R {
        &mut self.input
    }

    /// Reads the next record; false at the end.
    ///
    /// # Errors
    /// [`Error::Format`] for what no writer writes, [`Error::Io`].
    pub(super) fn next(&mut self, record: &mut Record) -> Result<bool> {
        if self.left == 0 {
            return Ok(false);
        }
        let len = self.number()?;
        if len > self.left {
            return Err(self.broken("a piece is longer than the file"));
        }
        record.piece.clear();
        let read = (&mut self.input).take(len).read_to_end(&mut record.piece);
        let read = read.map_err(Error::io("cannot read", self.path))? as u64;
        if read < len {
            return Err(self.broken("it ends inside a piece"));
        }
        self.left -= len;
        (record.count, record.first) = (self.number()?, self.number()?);
        if record.count == 0 {
            return Err(self.broken("a piece occurs 0 times"));
        }
        if record.piece <= self.before {
            return Err(self.broken("its pieces are not in the order of their bytes"));
        }
        self.before.clone_from(&record.piece);
        Ok(true)
    }

    fn number(&mut self) -> Result<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let mut byte = [0];
            if self.left == 0 {
                return Err(self.broken("it ends inside a number"));
            }
            let read = self.input.read_exact(&mut byte);
            read.map_err(Error::io("cannot read", self.path))?;
            self.left -= 1;
            let bits = u64::from(byte[0] & 0x7F);
            if bits << shift >> shift != bits {
                break;
            }
            number |= bits << shift;
            if byte[0] < 0x80 {
                return Ok(number);
            }
        }
        Err(self.broken("a number takes more than 64 bits"))
    }

    fn broken(&self, what: &str) -> Error {
        Error::format(self.path, format!("is no whole count file: {what}"))
    }
}

/// Where temporary files lie, and how much of a run is buffered.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    folder: PathBuf,
    buffer: usize,
}

impl Disk {
    /// In the system's folder for temporary files (`TMPDIR`); buffers take half of `memory` at most.
    pub(super) fn new(memory: Option<usize>) -> Self {
        let buffer = memory.map_or(BUFFER, |memory| memory / (2 * FAN_IN));
        Self {
            folder: std::env::temp_dir(),
            buffer: buffer.clamp(4 << 10, BUFFER),
        }
    }
}

/// Runs, one behind the other in a temporary file that has no name: it is gone when the process is,
/// however that ends.
pub(super) struct Runs {
    file: File,
    path: PathBuf,
    runs: Vec<Range<u64>>,
    end: u64,
    disk: Disk,
}

/// What takes the records of a run, one call a piece: piece, count, first position.
type Write1<'a> = &'a mut dyn FnMut(&[u8], u64, u64) -> Result<()>;

impl Runs {
    /// No run yet.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn new(disk: &Disk) -> Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Relaxed);
        let name = format!("microgpt-{}-{number}.counts.tmp", std::process::id());
        let path = disk.folder.join(name);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).open(&path);
        let file = file.map_err(Error::io("cannot write", &path))?;
        std::fs::remove_file(&path).map_err(Error::io("cannot remove", &path))?;
        Ok(Self {
            file,
            path,
            runs: Vec::new(),
            end: 0,
            disk: disk.clone(),
        })
    }

    /// Empties `table` into runs.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Interrupted`].
    pub(super) fn add_table(&mut self, table: &mut Table, control: &Control) -> Result<()> {
        table.drain_sorted(RUN_PIECES, control, |pieces| {
            self.add(control, |write| {
                for (piece, count, first) in pieces {
                    write(piece.as_bytes(), count, first)?;
                }
                Ok(())
            })
        })
    }

    /// Appends the run that `fill` writes.
    fn add(
        &mut self,
        control: &Control,
        fill: impl FnOnce(Write1<'_>) -> Result<()>,
    ) -> Result<()> {
        let io = |error| Error::io("cannot write", &self.path)(error);
        (&self.file).seek(SeekFrom::Start(self.end)).map_err(io)?;
        let mut out = BufWriter::with_capacity(self.disk.buffer, &self.file);
        let mut records = 0;
        fill(&mut |piece, count, first| {
            records += 1;
            if records % STRIDE == 0 {
                control.check()?;
            }
            write_record(&mut out, piece, count, first).map_err(io)
        })?;
        out.flush().map_err(io)?;
        drop(out);
        let end = (&self.file).stream_position().map_err(io)?;
        self.runs.push(self.end..end);
        self.end = end;
        Ok(())
    }

    fn read(&self, run: &Range<u64>) -> Source<'_> {
        let part = Part {
            file: &self.file,
            at: run.start,
            end: run.end,
        };
        let input = BufReader::with_capacity(self.disk.buffer, part);
        Records::new(input, run.end - run.start, &self.path)
    }
}

/// A part of a file that others read elsewhere in turn with it.
struct Part<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.file.seek(SeekFrom::Start(self.at))?;
        let read = self.file.take(self.end - self.at).read(bytes)?;
        self.at += read as u64;
        Ok(read)
    }
}

type Source<'a> = Records<'a, BufReader<Part<'a>>>;

/// All distinct pieces in one run.
pub(super) struct Sorted {
    runs: Runs,
    pub extent: Extent,
}

impl Sorted {
    /// Adds up all runs of `parts`. Reports [`Stage::Join`].
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Interrupted`]; [`Error::Usage`] for counts that 64 bits do not hold.
    pub(super) fn new(mut parts: Vec<Runs>, disk: &Disk, control: &Control) -> Result<Self> {
        let bytes = parts.iter().map(|part| part.end).sum();
        loop {
            control.begin(Stage::Join, bytes);
            let sources: Vec<Source> = parts
                .iter()
                .flat_map(|part| part.runs.iter().map(|run| part.read(run)))
                .collect();
            let last = sources.len() <= FAN_IN;
            let (mut joined, mut extent) = (Runs::new(disk)?, Extent::default());
            let mut sources = sources.into_iter();
            while sources.len() > 0 {
                let group = sources.by_ref().take(FAN_IN).collect();
                joined.add(control, |write| {
                    merge(
                        group,
                        control,
                        |Record {
                             piece,
                             count,
                             first,
                         }| {
                            extent.add(piece);
                            write(piece, *count, *first)
                        },
                    )
                })?;
            }
            drop(sources);
            if last {
                return Ok(Self {
                    runs: joined,
                    extent,
                });
            }
            parts = vec![joined];
        }
    }

    /// Calls `each` with every piece, its count and its first position, in the order of their bytes.
    ///
    /// # Errors
    /// Those of `each`; [`Error::Io`], [`Error::Interrupted`].
    pub(super) fn for_each(
        &self,
        control: &Control,
        mut each: impl FnMut(&[u8], u64, u64) -> Result<()>,
    ) -> Result<()> {
        let (mut record, mut records) = (Record::default(), 0);
        for run in &self.runs.runs {
            let mut source = self.runs.read(run);
            while source.next(&mut record)? {
                records += 1;
                if records % STRIDE == 0 {
                    control.check()?;
                }
                each(&record.piece, record.count, record.first)?;
            }
        }
        Ok(())
    }
}

/// A run and the record of it that is next; the least comes first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Head {
    record: Record,
    source: usize,
}

/// Calls `each` with the pieces of all sources in the order of their bytes, equal ones added up.
fn merge(
    mut sources: Vec<Source<'_>>,
    control: &Control,
    mut each: impl FnMut(&Record) -> Result<()>,
) -> Result<()> {
    let mut heads = BinaryHeap::with_capacity(sources.len());
    for (source, records) in sources.iter_mut().enumerate() {
        let mut record = Record::default();
        if records.next(&mut record)? {
            heads.push(Reverse(Head { record, source }));
        }
    }
    let mut current = Record::default();
    let mut read = 0;
    while let Some(mut head) = heads.peek_mut() {
        let Head { record, source } = &mut head.0;
        if record.piece == current.piece {
            current.count = sum(current.count, record.count)?;
            current.first = current.first.min(record.first);
        } else {
            if current.count > 0 {
                each(&current)?;
            }
            std::mem::swap(&mut current, record);
        }
        let records = &mut sources[*source];
        let left = records.left;
        if !records.next(record)? {
            PeekMut::pop(head);
            control.check()?;
            continue;
        }
        read += left - records.left;
        if read > 1 << 16 {
            control.check()?;
            control.advance(read);
            read = 0;
        }
    }
    if current.count > 0 {
        each(&current)?;
    }
    Ok(())
}
