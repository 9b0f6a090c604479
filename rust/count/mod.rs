//! Corpus -> distinct pieces with u64 counts.
//!
//! Text is read in chunks that end where the pattern provably cuts; each thread takes chunks and
//! counts into a table of its own, and at the end each thread adds up one share of all tables. So
//! memory follows the distinct pieces, and what is counted depends on neither threads nor chunks.

mod chunks;
mod specials;
mod table;
#[cfg(test)]
mod tests;

use crate::control::Control;
use crate::error::{Error, Result};
use crate::pretokenize::Pattern;
use chunks::{CHUNK, Chunk, Chunks, Cutter};
use specials::Specials;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use table::{Seeds, Table};

/// Texts that a thread takes at once, so that short ones cost it little.
const TEXTS_AT_ONCE: usize = 32;

/// The distinct pieces of a corpus, each with its count and with where it was met first.
pub struct Counts {
    /// No piece is in two of them.
    tables: Vec<Table>,
}

impl Counts {
    /// Counts given as they are: each piece as often as it says, first met in this order.
    pub fn from_pieces<'a>(pieces: impl IntoIterator<Item = (&'a [u8], u64)>) -> Self {
        let mut table = Table::new(Seeds::random());
        for (first, (piece, count)) in pieces.into_iter().enumerate() {
            table.add_piece(piece, count, first as u64);
        }
        Self {
            tables: vec![table],
        }
    }

    /// Distinct pieces.
    pub fn len(&self) -> usize {
        self.tables.iter().map(Table::len).sum()
    }

    /// Whether there is no piece at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls `each` with every piece and its count, in no particular order.
    pub fn for_each(&self, mut each: impl FnMut(&[u8], u64)) {
        for table in &self.tables {
            table.for_each(|piece, count, _| each(piece.as_bytes(), count));
        }
    }

    /// The same in the order in which the corpus has them first.
    pub fn for_each_in_order(&self, mut each: impl FnMut(&[u8], u64)) {
        let mut pieces = Vec::with_capacity(self.len());
        for table in &self.tables {
            table.for_each(|piece, count, first| pieces.push((first, piece, count)));
        }
        pieces.sort_unstable_by_key(|&(first, ..)| first);
        for (_, piece, count) in pieces {
            each(piece.as_bytes(), count);
        }
    }
}

/// Counts pieces with several threads, text after text.
pub struct Counter<'p> {
    pattern: &'p Pattern,
    specials: Specials,
    /// One a thread.
    tables: Vec<Table>,
    position: u64,
}

impl<'p> Counter<'p> {
    /// Nothing counted yet. Where text spells one of `specials` it is cut, and they are not counted.
    ///
    /// # Errors
    /// [`Error::Usage`] for special tokens too long to look for, or no thread.
    pub fn new(pattern: &'p Pattern, specials: &[String], threads: usize) -> Result<Self> {
        if threads == 0 {
            return Err(Error::usage("threads is 0, but counting takes at least 1"));
        }
        let seeds = Seeds::random();
        let tables = (0..threads).map(|_| Table::new(seeds)).collect();
        Ok(Self {
            pattern,
            specials: Specials::new(specials)?,
            tables,
            position: 0,
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
            tables,
            position,
        } = self;
        let cutter = Cutter { pattern, specials };
        let chunks = Mutex::new(Chunks::new(cutter, paths, *position));
        let next = |used| lock(&chunks).next(used);
        on_threads(tables, |table| {
            let mut work = || {
                let mut chunk = next(Vec::new())?;
                while let Some(Chunk { text, position }) = chunk {
                    count_text(table, pattern, specials, &text, position, control)?;
                    chunk = next(text)?;
                }
                Ok(())
            };
            work().inspect_err(|_| lock(&chunks).stop())
        })?;
        *position = lock(&chunks).position();
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
            tables,
            position,
        } = self;
        let mut work = Vec::with_capacity(texts.len());
        for text in texts {
            let cutter = Cutter { pattern, specials };
            share_out(text, &cutter, position, &mut work);
        }
        let taken = AtomicUsize::new(0);
        on_threads(tables, |table| {
            let mut share = || {
                loop {
                    let from = taken.fetch_add(TEXTS_AT_ONCE, Relaxed);
                    let Some(work) = work.get(from..) else {
                        return Ok(());
                    };
                    for &(text, position) in work.iter().take(TEXTS_AT_ONCE) {
                        count_text(table, pattern, specials, text, position, control)?;
                    }
                }
            };
            share().inspect_err(|_| taken.store(work.len(), Relaxed))
        })
    }

    /// Joins what the threads counted.
    ///
    /// # Errors
    /// [`Error::Interrupted`].
    pub fn finish(mut self, control: &Control) -> Result<Counts> {
        control.check()?;
        if self.tables.len() > 1 {
            let parts = self.tables;
            let shares = parts.len() as u64;
            let mut whole: Vec<_> = (0..shares).map(|share| (share, parts[0].fresh())).collect();
            on_threads(&mut whole, |(share, table)| {
                parts
                    .iter()
                    .for_each(|part| table.absorb(part, *share, shares));
                control.check()
            })?;
            self.tables = whole.into_iter().map(|(_, table)| table).collect();
        }
        Ok(Counts {
            tables: self.tables,
        })
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

/// Counts the pieces of a text between its special tokens.
fn count_text(
    table: &mut Table,
    pattern: &Pattern,
    specials: &Specials,
    text: &[u8],
    position: u64,
    control: &Control,
) -> Result<()> {
    let mut ends = Vec::new();
    let mut start = 0;
    while start < text.len() {
        let special = specials.next(text, start).unwrap_or(text.len()..text.len());
        let plain = &text[start..special.start];
        let mut scanner = pattern.scanner(plain);
        let mut counted = 0;
        while scanner.fill(&mut ends)? {
            control.check()?;
            table.count(plain, counted, &ends, position + start as u64);
            counted = ends.last().copied().unwrap_or(counted);
        }
        start = special.end;
    }
    control.advance(text.len() as u64);
    Ok(())
}

/// Runs `work` on each of `parts` at the same time, the first on this thread; returns the first
/// error that is not a consequence of another.
fn on_threads<T: Send>(parts: &mut [T], work: impl Fn(&mut T) -> Result<()> + Sync) -> Result<()> {
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
