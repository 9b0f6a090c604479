//! Corpus -> distinct pieces with u64 counts.
//!
//! Text is read in chunks that end where the pattern provably cuts; each thread takes chunks and
//! counts into a table of its own, and tables are added up as their pieces are asked for. So
//! memory follows the distinct pieces, and what is counted depends on neither threads nor chunks.
//! Where memory is limited, tables that are full are written to disk as sorted runs, which are merged
//! at the end. Counts can be saved, and added up again with others.

mod chunks;
mod joined;
mod runs;
mod saved;
mod specials;
mod table;
#[cfg(test)]
mod tests;

use crate::control::{Control, Stage};
use crate::error::{Error, Result};
use crate::pretokenize::Pattern;
use chunks::{CHUNK, Chunk, Chunks, Cutter};
pub(crate) use joined::Extent;
use joined::Joined;
use runs::{Disk, Record, Runs, Sorted};
pub use saved::{Counted, agreed, save};
use specials::Specials;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use table::{Seeds, Table};

/// Texts that a thread takes at once, so that short ones cost it little.
const TEXTS_AT_ONCE: usize = 32;
/// The least memory that a thread can be given.
const LEAST_MEMORY: usize = 1 << 20;
/// Pieces read from count files between two looks at the stop flag.
const STRIDE: u64 = 1 << 12;

/// The distinct pieces of a corpus, each with its count and with where it was met first.
pub struct Counts {
    held: Held,
    text_bytes: u64,
}

enum Held {
    Memory(Joined),
    Disk(Sorted),
}

impl Counts {
    /// Counts given as they are: each piece as often as it says, first met in this order.
    ///
    /// # Errors
    /// [`Error::Usage`] where one piece is there more often than 64 bits can tell.
    pub fn from_pieces<'a>(pieces: impl IntoIterator<Item = (&'a [u8], u64)>) -> Result<Self> {
        let mut table = Table::new(Seeds::random(), usize::MAX);
        let mut text_bytes = 0;
        for (piece, count) in pieces {
            table.add_piece(piece, count, text_bytes, &Control::new())?;
            text_bytes += 1;
        }
        Ok(Self {
            held: Held::Memory(Joined::new(vec![table], &Control::new())?),
            text_bytes,
        })
    }

    /// Distinct pieces.
    pub fn len(&self) -> usize {
        self.shares().iter().map(|share| share.pieces).sum()
    }

    /// Whether there is no piece at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of text that were counted; positions lie below.
    pub fn text_bytes(&self) -> u64 {
        self.text_bytes
    }

    /// Calls `each` with every piece, its count, and the position at which it was met first; in no
    /// particular order.
    ///
    /// # Errors
    /// Those of `each`; [`Error::Io`] where counts lie on disk; [`Error::Interrupted`].
    pub fn for_each(
        &self,
        control: &Control,
        mut each: impl FnMut(&[u8], u64, u64) -> Result<()>,
    ) -> Result<()> {
        (0..self.shares().len()).try_for_each(|share| self.for_each_in(share, control, &mut each))
    }

    /// Shares in which the pieces come: as many as threads counted, or one from disk.
    pub(crate) fn shares(&self) -> &[Extent] {
        match &self.held {
            Held::Memory(joined) => joined.shares(),
            Held::Disk(sorted) => std::slice::from_ref(&sorted.extent),
        }
    }

    /// [`Counts::for_each`] in one share.
    pub(crate) fn for_each_in(
        &self,
        share: usize,
        control: &Control,
        each: impl FnMut(&[u8], u64, u64) -> Result<()>,
    ) -> Result<()> {
        match &self.held {
            Held::Memory(joined) => joined.for_each_in(share, control, each),
            Held::Disk(sorted) => sorted.for_each(control, each),
        }
    }
}

/// What one thread counted.
struct Part {
    table: Table,
    /// What did not fit into the table.
    runs: Option<Runs>,
    disk: Disk,
}

impl Part {
    fn of(table: Table, disk: &Disk) -> Self {
        let disk = disk.clone();
        Self {
            table,
            runs: None,
            disk,
        }
    }

    /// Empties the table onto disk.
    fn spill(&mut self, control: &Control) -> Result<()> {
        let runs = match &mut self.runs {
            Some(runs) => runs,
            none => none.insert(Runs::new(&self.disk)?),
        };
        runs.add_table(&mut self.table, control)
    }

    fn add(&mut self, record: &Record, position: u64, control: &Control) -> Result<()> {
        if self.table.is_full() {
            self.spill(control)?;
        }
        let Record {
            piece,
            count,
            first,
        } = record;
        self.table
            .add_piece(piece, *count, position + first, control)
    }

    /// Counts the pieces of a text between its special tokens.
    fn count_text(
        &mut self,
        cutter: &Cutter,
        text: &[u8],
        position: u64,
        control: &Control,
    ) -> Result<()> {
        let mut ends = Vec::new();
        let (mut start, known) = (0, self.table.len());
        while start < text.len() {
            let special = cutter.specials.next(text, start);
            let special = special.unwrap_or(text.len()..text.len());
            let plain = &text[start..special.start];
            let mut scanner = cutter.pattern.scanner(plain);
            let mut from = 0;
            while scanner.fill(&mut ends)? {
                control.check()?;
                let mut rest = &ends[..];
                while !rest.is_empty() {
                    let base = position + start as u64;
                    let counted = self.table.count(plain, from, rest, base, control)?;
                    from = rest[..counted].last().copied().unwrap_or(from);
                    rest = &rest[counted..];
                    if self.table.is_full() {
                        self.spill(control)?;
                    }
                }
            }
            start = special.end;
        }
        control.advance(text.len() as u64);
        control.advance_pieces(self.table.len().saturating_sub(known) as u64);
        Ok(())
    }
}

/// All pieces of `parts`, in the order of their bytes.
fn sorted(mut parts: Vec<Part>, disk: &Disk, control: &Control) -> Result<Sorted> {
    on_threads(&mut parts, |part| part.spill(control))?;
    let runs = parts.into_iter().filter_map(|part| part.runs).collect();
    Sorted::new(runs, disk, control)
}

/// How a [`Counter`] works; what it counts does not depend on it.
#[derive(Clone, Copy, Debug)]
pub struct CountOptions {
    /// Threads that count.
    pub threads: usize,
    /// Bytes that tables may take, all together; more is kept on disk.
    pub memory: Option<usize>,
}

/// Counts pieces with several threads, text after text.
pub struct Counter<'p> {
    pattern: &'p Pattern,
    specials: Specials,
    /// One a thread.
    parts: Vec<Part>,
    position: u64,
    memory: Option<usize>,
    disk: Disk,
}

impl<'p> Counter<'p> {
    /// Nothing counted yet. Where text spells one of `specials` it is cut, and they are not counted.
    ///
    /// # Errors
    /// [`Error::Usage`] for special tokens too long to look for, no thread, or too little memory.
    pub fn new(pattern: &'p Pattern, specials: &[String], options: CountOptions) -> Result<Self> {
        let CountOptions { threads, memory } = options;
        if threads == 0 {
            return Err(Error::usage("threads is 0, but counting takes at least 1"));
        }
        if let Some(memory) = memory
            && memory / threads < LEAST_MEMORY
        {
            return Err(Error::usage(format!(
                "memory is {memory} bytes, but {threads} threads take at least {} MiB",
                (threads * LEAST_MEMORY) >> 20
            )));
        }
        let (seeds, disk) = (Seeds::random(), Disk::new(memory));
        let limit = memory.map_or(usize::MAX, |memory| memory / threads);
        let parts = (0..threads).map(|_| Part::of(Table::new(seeds, limit), &disk));
        Ok(Self {
            pattern,
            specials: Specials::new(specials)?,
            parts: parts.collect(),
            position: 0,
            memory,
            disk,
        })
    }

    /// Bytes of text counted so far.
    pub fn text_bytes(&self) -> u64 {
        self.position
    }

    /// Counts files, each a text of its own, reading a megabyte or so a thread at a time. Advances
    /// `control` by bytes.
    ///
    /// # Errors
    /// [`Error::Io`] where one cannot be read, [`Error::Usage`] where a custom pattern gives up on
    /// one, [`Error::Interrupted`].
    pub fn add_files(&mut self, paths: &[PathBuf], control: &Control) -> Result<()> {
        let Self {
            pattern,
            specials,
            parts,
            ..
        } = self;
        let cutter = Cutter { pattern, specials };
        let chunks = Mutex::new(Chunks::new(cutter, paths, self.position));
        let next = |used| lock(&chunks).next(used);
        on_threads(parts, |part| {
            let mut work = || {
                let mut chunk = next(Vec::new())?;
                while let Some(Chunk { text, position }) = chunk {
                    part.count_text(&cutter, &text, position, control)?;
                    chunk = next(text)?;
                }
                Ok(())
            };
            work().inspect_err(|_| lock(&chunks).stop())
        })?;
        self.position = lock(&chunks).position();
        Ok(())
    }

    /// Counts texts that are in memory, each apart from the others. Advances `control` by bytes.
    ///
    /// # Errors
    /// [`Error::Usage`] where a custom pattern gives up on one, [`Error::Interrupted`].
    pub fn add_texts(&mut self, texts: &[&[u8]], control: &Control) -> Result<()> {
        let Self {
            pattern,
            specials,
            parts,
            position,
            ..
        } = self;
        let cutter = Cutter { pattern, specials };
        let mut work = Vec::with_capacity(texts.len());
        for text in texts {
            share_out(text, &cutter, position, &mut work);
        }
        let taken = AtomicUsize::new(0);
        on_threads(parts, |part| {
            let mut share = || {
                loop {
                    let from = taken.fetch_add(TEXTS_AT_ONCE, Relaxed);
                    let Some(work) = work.get(from..) else {
                        return Ok(());
                    };
                    for &(text, position) in work.iter().take(TEXTS_AT_ONCE) {
                        part.count_text(&cutter, text, position, control)?;
                    }
                }
            };
            share().inspect_err(|_| taken.store(work.len(), Relaxed))
        })
    }

    /// Adds up count files, as if the texts that they count came now, in this order. Reports
    /// [`Stage::Join`].
    ///
    /// # Errors
    /// [`Error::Format`] where one is no whole count file, [`Error::Io`]; [`Error::Usage`] where counts
    /// add up to more than 64 bits hold; [`Error::Interrupted`].
    pub fn add_saved(&mut self, paths: &[PathBuf], control: &Control) -> Result<()> {
        let (mut bytes, mut work) = (0, Vec::with_capacity(paths.len()));
        for path in paths {
            let saved = saved::open(path)?;
            bytes += saved.left();
            work.push((path, self.position));
            let end = self.position.checked_add(saved.text_bytes());
            self.position =
                end.ok_or_else(|| Error::format(path, "claims more text than there is"))?;
        }
        control.begin(Stage::Join, bytes);
        let taken = AtomicUsize::new(0);
        on_threads(&mut self.parts, |part| {
            let mut share = || {
                while let Some(&(path, position)) = work.get(taken.fetch_add(1, Relaxed)) {
                    let mut saved = saved::open(path)?;
                    let (mut record, mut left, mut records) = (Record::default(), saved.left(), 0);
                    while saved.next(&mut record)? {
                        part.add(&record, position, control)?;
                        records += 1;
                        if records % STRIDE == 0 {
                            control.check()?;
                            control.advance(left - saved.left());
                            left = saved.left();
                        }
                    }
                    control.advance(left);
                }
                Ok(())
            };
            share().inspect_err(|_| taken.store(work.len(), Relaxed))
        })
    }

    /// Joins what the threads counted: in memory where that fits, else on disk.
    ///
    /// # Errors
    /// [`Error::Interrupted`]; [`Error::Io`] where there is too much for memory; [`Error::Usage`]
    /// where counts add up to more than 64 bits hold.
    pub fn finish(self, control: &Control) -> Result<Counts> {
        control.check()?;
        let Self {
            parts,
            position: text_bytes,
            memory,
            disk,
            ..
        } = self;
        // Laying them out for training takes as much again.
        let bytes: usize = parts.iter().map(|part| part.table.bytes()).sum();
        let fits = memory.is_none_or(|memory| bytes <= memory / 2);
        let held = if !fits || parts.iter().any(|part| part.runs.is_some()) {
            Held::Disk(sorted(parts, &disk, control)?)
        } else {
            let tables = parts.into_iter().map(|part| part.table).collect();
            Held::Memory(Joined::new(tables, control)?)
        };
        let counts = Counts { held, text_bytes };
        control.set_pieces(counts.len() as u64);
        Ok(counts)
    }

    /// The same in the order of the pieces' bytes, as count files have them.
    ///
    /// # Errors
    /// As [`Counter::finish`].
    pub fn finish_sorted(self, control: &Control) -> Result<Counts> {
        let Self {
            parts,
            position: text_bytes,
            disk,
            ..
        } = self;
        let held = Held::Disk(sorted(parts, &disk, control)?);
        let counts = Counts { held, text_bytes };
        control.set_pieces(counts.len() as u64);
        Ok(counts)
    }
}

/// Cuts a long text into chunks; `position` advances to its end.
fn share_out<'t>(
    mut text: &'t [u8],
    cutter: &Cutter,
    position: &mut u64,
    work: &mut Vec<(&'t [u8], u64)>,
) {
    while !text.is_empty() {
        let cut = if text.len() > CHUNK {
            cutter.cut(text, CHUNK)
        } else {
            None
        };
        let (chunk, rest) = text.split_at(cut.unwrap_or(text.len()));
        work.push((chunk, *position));
        *position += chunk.len() as u64;
        text = rest;
    }
}

/// Runs `work` on each of `parts` at the same time, the first on this thread; returns the first
/// error that is not a consequence of another.
pub(crate) fn on_threads<T: Send>(
    parts: &mut [T],
    work: impl Fn(&mut T) -> Result<()> + Sync,
) -> Result<()> {
    let Some((own, others)) = parts.split_first_mut() else {
        return Ok(());
    };
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> = others
            .iter_mut()
            .map(|part| scope.spawn(move || work(part)))
            .collect();
        let mut result = work(own);
        for thread in threads {
            let other = thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            result = result.and(other);
        }
        result
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
