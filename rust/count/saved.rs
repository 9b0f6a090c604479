//! Count files: the counts of one part of a corpus, to be added up with those of others.
//!
//! A line of JSON that says what was counted and how, records in the order of their pieces' bytes,
//! and the SHA-256 of all that. `docs/formats.md` has the details.

use super::Counts;
use super::runs::{Record, Records, write_record};
use crate::control::Control;
use crate::error::{Error, Result};
use crate::formats::write_atomically;
use crate::pretokenize::{Pattern, unicode_version};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

const FORMAT: &str = "microgpt-counts";
const VERSION: u64 = 1;
/// Bytes of the longest first line.
const LONGEST_HEADER: u64 = 16 << 20;
const HASH_BYTES: u64 = 32;
const BUFFER: usize = 1 << 20;

/// What every version's first line has.
#[derive(Default, Deserialize)]
struct Kind {
    format: String,
    version: u64,
}

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    format: String,
    version: u64,
    unicode: String,
    pattern: String,
    special_tokens: Vec<String>,
    text_bytes: u64,
    pieces: u64,
}

/// How text was counted, the same in all count files that are added up.
#[derive(Clone, Debug)]
pub struct Counted {
    /// What cut the text into pieces.
    pub pattern: Pattern,
    /// What cut it before, and was not counted.
    pub special_tokens: Vec<String>,
    /// Bytes of text, in all files together.
    pub text_bytes: u64,
}

/// Saves counts, whole or not at all.
///
/// # Errors
/// [`Error::Io`], [`Error::Interrupted`].
pub fn save(
    counts: &Counts,
    pattern: &Pattern,
    special_tokens: &[String],
    path: &Path,
    control: &Control,
) -> Result<()> {
    let header = Header {
        format: FORMAT.to_owned(),
        version: VERSION,
        unicode: unicode_version().to_string(),
        pattern: pattern.regex().to_owned(),
        special_tokens: special_tokens.to_owned(),
        text_bytes: counts.text_bytes(),
        pieces: counts.len() as u64,
    };
    let io = |error| Error::io("cannot write", path)(error);
    write_atomically(path, |file| {
        let mut out = BufWriter::with_capacity(BUFFER, Hashing::new(file, u64::MAX));
        serde_json::to_writer(&mut out, &header).map_err(|error| io(error.into()))?;
        out.write_all(b"\n").map_err(io)?;
        counts.for_each(control, |piece, count, first| {
            write_record(&mut out, piece, count, first).map_err(io)
        })?;
        let Hashing { inner, hash, .. } = out.into_inner().map_err(|error| io(error.into()))?;
        inner.write_all(&hash.finalize()).map_err(io)
    })
}

/// How the text of these files was counted.
///
/// # Errors
/// [`Error::Usage`] where they do not agree, or none is given; [`Error::Format`] for what is no count
/// file of this version; [`Error::Io`].
pub fn agreed(paths: &[PathBuf]) -> Result<Counted> {
    let Some(one) = paths.first() else {
        return Err(Error::usage("there is no count file: name at least one"));
    };
    let expected = open(one)?.header;
    let (mut text_bytes, mut patterns) = (0_u64, Vec::new());
    for path in paths {
        let header = open(path)?.header;
        let differs = |what: &str, found: &str, wanted: &str| {
            let (one, path) = (one.display(), path.display());
            Err(Error::usage(format!(
                "{path} was counted with {what} {found}, but {one} with {wanted}: count both alike"
            )))
        };
        if header.pattern != expected.pattern {
            for regex in [&header.pattern, &expected.pattern] {
                let pattern = Pattern::from_regex(regex)?;
                let own = pattern.name() == "custom";
                patterns.push(if own { pattern.regex() } else { pattern.name() }.to_owned());
            }
            return differs("pattern", &patterns[0], &patterns[1]);
        }
        if header.special_tokens != expected.special_tokens {
            let list = |tokens: &[String]| match tokens {
                [] => "none".to_owned(),
                tokens => tokens.join(" "),
            };
            let (found, wanted) = (list(&header.special_tokens), list(&expected.special_tokens));
            return differs("special tokens", &found, &wanted);
        }
        text_bytes = text_bytes.checked_add(header.text_bytes).ok_or_else(|| {
            Error::format(
                path,
                "is no count file: its text has more bytes than 64 bits count",
            )
        })?;
    }
    Ok(Counted {
        pattern: Pattern::from_regex(&expected.pattern)?,
        special_tokens: expected.special_tokens,
        text_bytes,
    })
}

/// A count file of which the first line has been read.
pub(super) struct Saved<'a> {
    header: Header,
    records: Records<'a, BufReader<Hashing<File>>>,
    path: &'a Path,
    pieces: u64,
}

/// Opens a count file and checks what its first line says.
///
/// # Errors
/// [`Error::Format`], [`Error::Io`].
pub(super) fn open(path: &Path) -> Result<Saved<'_>> {
    let io = |error| Error::io("cannot read", path)(error);
    let file = File::open(path).map_err(io)?;
    let bytes = file.metadata().map_err(io)?.len();
    let hashed = bytes.saturating_sub(HASH_BYTES);
    let mut input = BufReader::with_capacity(BUFFER, Hashing::new(file, hashed));
    let mut line = Vec::new();
    let taken = (&mut input)
        .take(LONGEST_HEADER.min(hashed))
        .read_until(b'\n', &mut line);
    taken.map_err(io)?;
    let kind: Kind = serde_json::from_slice(&line).unwrap_or_default();
    if kind.format != FORMAT {
        return Err(Error::format(
            path,
            "is no count file; microgpt tokenize --count-only makes one from text",
        ));
    }
    if kind.version != VERSION {
        let version = kind.version;
        let what = format!(
            "is a count file of version {version}, but only {VERSION} can be read: count again"
        );
        return Err(Error::format(path, what));
    }
    let header: Header = serde_json::from_slice(&line)
        .map_err(|error| Error::format(path, format!("has a broken first line: {error}")))?;
    let unicode = unicode_version().to_string();
    if header.unicode != unicode {
        let what = format!(
            "was counted by Unicode {}, but this is {unicode}: count again",
            header.unicode
        );
        return Err(Error::format(path, what));
    }
    let left = hashed - line.len() as u64;
    Ok(Saved {
        header,
        records: Records::new(input, left, path),
        path,
        pieces: 0,
    })
}

impl Saved<'_> {
    /// Bytes of text that were counted.
    pub(super) fn text_bytes(&self) -> u64 {
        self.header.text_bytes
    }

    /// Bytes of records not read yet.
    pub(super) fn left(&self) -> u64 {
        self.records.left()
    }

    /// Reads the next record; false at the end, once the file is found whole.
    ///
    /// # Errors
    /// [`Error::Format`] where it is damaged, [`Error::Io`].
    pub(super) fn next(&mut self, record: &mut Record) -> Result<bool> {
        if !self.records.next(record)? {
            return self.check_end().map(|()| false);
        }
        self.pieces += 1;
        if record.first >= self.header.text_bytes {
            let what = "is damaged: a piece begins behind the end of the text";
            return Err(Error::format(self.path, what));
        }
        Ok(true)
    }

    fn check_end(&mut self) -> Result<()> {
        let Header { pieces, .. } = self.header;
        if self.pieces != pieces {
            let what = format!("is damaged: it has {} of its {pieces} pieces", self.pieces);
            return Err(Error::format(self.path, what));
        }
        let mut told = [0; HASH_BYTES as usize];
        let input = self.records.input();
        input
            .read_exact(&mut told)
            .map_err(Error::io("cannot read", self.path))?;
        if input.get_ref().hash.clone().finalize()[..] != told {
            let what = "is damaged: its SHA-256 is not the one at its end; count again";
            return Err(Error::format(self.path, what));
        }
        Ok(())
    }
}

/// Hashes the first `left` bytes of what goes through it.
struct Hashing<T> {
    inner: T,
    hash: Sha256,
    left: u64,
}

impl<T> Hashing<T> {
    fn new(inner: T, left: u64) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
            left,
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        let hashed = self.left.min(bytes.len() as u64);
        self.hash.update(&bytes[..hashed as usize]);
        self.left -= hashed;
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(bytes)?;
        self.update(&bytes[..read]);
        Ok(read)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
