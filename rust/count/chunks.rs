//! Files as chunks of text that can be cut into pieces apart from each other.

use super::specials::Specials;
use crate::error::{Error, Result};
use crate::pretokenize::Pattern;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Bytes in a chunk, about, where the text can be cut.
pub(super) const CHUNK: usize = 1 << 20;
/// Bytes read beyond that, in which a place to cut is looked for.
const MARGIN: usize = 64 << 10;

/// A stretch of text whose pieces are the same as in the whole.
pub(super) struct Chunk {
    pub text: Vec<u8>,
    /// The position of its first byte in the corpus.
    pub position: u64,
}

/// What decides where text may be cut.
#[derive(Clone, Copy)]
pub(super) struct Cutter<'a> {
    pub pattern: &'a Pattern,
    pub specials: &'a Specials,
}

impl Cutter<'_> {
    /// A place at or after `near` where a text that begins with `text` can be cut whatever follows.
    pub(super) fn cut(&self, text: &[u8], near: usize) -> Option<usize> {
        let (mut start, mut end) = (0, text.len());
        if !self.specials.is_empty() {
            // Every special token that begins before here lies whole in `text`.
            end = (text.len() + 1).checked_sub(self.specials.longest())?;
            while let Some(found) = self.specials.next(text, start) {
                if found.start >= end {
                    break;
                }
                start = found.end;
                if start >= near {
                    return Some(start);
                }
            }
        }
        let plain = text.get(start..end)?;
        self.pattern
            .safe_split(plain, near - start)
            .map(|at| start + at)
    }
}

/// Reads files one after the other; each is a text of its own.
pub(super) struct Chunks<'a> {
    cutter: Cutter<'a>,
    paths: std::slice::Iter<'a, PathBuf>,
    file: Option<(File, &'a Path)>,
    /// Read, but not handed out.
    pending: Vec<u8>,
    position: u64,
}

impl<'a> Chunks<'a> {
    pub(super) fn new(cutter: Cutter<'a>, paths: &'a [PathBuf], position: u64) -> Self {
        Self {
            cutter,
            paths: paths.iter(),
            file: None,
            pending: Vec::new(),
            position,
        }
    }

    /// The position after all that was handed out.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Ends the reading early.
    pub(super) fn stop(&mut self) {
        self.file = None;
        self.pending.clear();
        self.paths = [].iter();
    }

    /// The next chunk, in the memory of `used`; `None` at the end of the last file.
    pub(super) fn next(&mut self, used: Vec<u8>) -> Result<Option<Chunk>> {
        loop {
            match self.file.take() {
                Some((file, path)) => {
                    let end = self.read_chunk(file, path)?;
                    if end > 0 {
                        return Ok(Some(self.hand_out(end, used)));
                    }
                }
                None => match self.paths.next() {
                    Some(path) => {
                        let file = File::open(path).map_err(Error::io("cannot read", path))?;
                        self.file = Some((file, path));
                    }
                    None => return Ok(None),
                },
            }
        }
    }

    /// Reads until the pending text can be cut or the file ends; returns where to cut. Text that
    /// cannot be cut is read on in doubling steps.
    fn read_chunk(&mut self, mut file: File, path: &'a Path) -> Result<usize> {
        let mut near = CHUNK;
        loop {
            let wanted = near + MARGIN;
            let missing = wanted.saturating_sub(self.pending.len()) as u64;
            let read = (&mut file).take(missing).read_to_end(&mut self.pending);
            read.map_err(Error::io("cannot read", path))?;
            if self.pending.len() < wanted {
                return Ok(self.pending.len());
            }
            if let Some(end) = self.cutter.cut(&self.pending, near) {
                self.file = Some((file, path));
                return Ok(end);
            }
            near = wanted.max(near * 2);
        }
    }

    fn hand_out(&mut self, end: usize, mut used: Vec<u8>) -> Chunk {
        used.clear();
        used.extend_from_slice(&self.pending[end..]);
        self.pending.truncate(end);
        let text = std::mem::replace(&mut self.pending, used);
        let position = self.position;
        self.position += end as u64;
        Chunk { text, position }
    }
}
