//! A file -> its documents, streamed: memory does not follow the length of a file or a document.
//!
//! Readers push what they find into a [`Sink`]. A document comes in as many slices as the reader
//! likes; a sink must not let their lengths show in what it makes of them.

use super::inputs::{Format, OnBinary, Source};
use crate::control::Control;
use crate::error::{Error, Result};
use memchr::{memchr, memmem};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Bytes read at a time; a block stays in the L2 cache while it is hashed, searched and copied.
const BLOCK_BYTES: usize = 256 << 10;
/// A file is binary when a zero byte is among its first so many (the rule that git uses, too).
const BINARY_PROBE_BYTES: usize = 8 << 10;
/// Bytes of a compressed file read at a time. Smaller than a block, so that plain files, which go
/// through the same reader, are read past its buffer.
const STORED_BYTES: usize = 64 << 10;
/// A JSON line must be in memory whole, so its length is bounded.
const LINE_LIMIT_BYTES: usize = 128 << 20;
/// Rows of a Parquet column decoded at a time.
const ROWS_AT_A_TIME: usize = 256;

/// Where the documents of one file after another arrive.
pub trait Sink {
    /// More text of the current document.
    ///
    /// # Errors
    /// Whatever ends the work; the reader hands it on.
    fn text(&mut self, text: &[u8]) -> Result<()>;

    /// The current document ends here (it may have been empty); the next may begin.
    ///
    /// # Errors
    /// Whatever ends the work; the reader hands it on.
    fn end_document(&mut self) -> Result<()>;

    /// So many more bytes of input, as stored, were read.
    fn read_bytes(&mut self, _bytes: u64) {}

    /// Whether no more documents are needed; the rest of the file is then left unread.
    fn is_satisfied(&self) -> bool {
        false
    }
}

/// How documents are found inside files: the part of the options that reads.
#[derive(Clone, Debug)]
pub struct Reading {
    /// What parts the documents of a text; empty: a file is one document. A line end directly after
    /// a separator belongs to it.
    pub separator: String,
    /// The key of a JSON line, or the column of a Parquet file, that holds a document's text.
    pub field: String,
}

/// What a file turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Read to its end (unless the sink was satisfied before).
    Read {
        /// SHA-256 of the file as stored, in hexadecimal; empty where none was asked for.
        sha256: String,
    },
    /// Binary, and left out.
    Skipped,
}

/// Pushes the documents of `source` into `sink`; with `hash`, also takes the file's SHA-256.
///
/// # Errors
/// [`Error::Io`] where the system refuses; [`Error::Format`] for damaged compression, a line that is
/// no JSON, a missing field or column, a binary file that was named; [`Error::Interrupted`].
pub fn read_documents(
    source: &Source,
    reading: &Reading,
    hash: bool,
    control: &Control,
    sink: &mut dyn Sink,
) -> Result<Outcome> {
    if source.format == Format::Parquet {
        return read_parquet(source, reading, hash, control, sink);
    }
    let mut input = Input::open(source, hash, control)?;
    if let Some(at) = input.zero_byte(source) {
        if source.binary == OnBinary::Skip {
            return Ok(Outcome::Skipped);
        }
        let what = format!(
            "looks binary (byte {at} is zero): name a text file (UTF-16 must be turned into UTF-8 \
             first), or read it as it is with `microgpt tokenize --format text`"
        );
        return Err(Error::format(&source.name, what));
    }
    match source.format {
        Format::Text => read_text(&mut input, reading, sink)?,
        _ => read_lines(&mut input, source, reading, sink)?,
    }
    Ok(Outcome::Read {
        sha256: input.finish()?,
    })
}

/// What [`read_documents`] would return, without looking at documents.
///
/// # Errors
/// [`Error::Io`]; [`Error::Format`] for damaged compression at the file's beginning;
/// [`Error::Interrupted`].
pub fn hash_file(source: &Source, control: &Control) -> Result<Outcome> {
    if source.binary == OnBinary::Skip
        && Input::open(source, false, control)?
            .zero_byte(source)
            .is_some()
    {
        return Ok(Outcome::Skipped);
    }
    let sha256 = hash_stored(source, control, |bytes| control.advance(bytes))?;
    Ok(Outcome::Read { sha256 })
}

fn hash_stored(source: &Source, control: &Control, advance: impl Fn(u64)) -> Result<String> {
    let mut file = Metered::open(source, true, control)?;
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        match file.read(&mut block) {
            Ok(0) => return Ok(file.digest()),
            Ok(length) => advance(length as u64),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(file.explain(error)),
        }
    }
}

/// A file that counts and hashes what is read of it, and stops when asked to.
struct Metered<'a> {
    file: File,
    source: &'a Source,
    control: &'a Control,
    hasher: Option<Sha256>,
    unreported: u64,
    failed: bool,
}

impl<'a> Metered<'a> {
    fn open(source: &'a Source, hash: bool, control: &'a Control) -> Result<Self> {
        let file = File::open(&source.path).map_err(Error::io("cannot read", &source.name))?;
        let hasher = hash.then(Sha256::new);
        Ok(Self {
            file,
            source,
            control,
            hasher,
            unreported: 0,
            failed: false,
        })
    }

    fn digest(self) -> String {
        self.hasher
            .map(|hasher| hex(&hasher.finalize()))
            .unwrap_or_default()
    }

    /// Tells the system's errors from those of a decoder above.
    fn explain(&self, error: io::Error) -> Error {
        if self.control.check().is_err() {
            return Error::Interrupted;
        }
        if self.failed {
            return Error::io("cannot read", &self.source.name)(error);
        }
        let reason = if error.kind() == io::ErrorKind::UnexpectedEof {
            "it ends too early".to_owned()
        } else {
            error.to_string()
        };
        Error::format(
            &self.source.name,
            format!("the compressed data is damaged or cut short ({reason}): fetch it again"),
        )
    }
}

impl Read for Metered<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.control.check().is_err() {
            return Err(io::Error::other("interrupted"));
        }
        let length = self.file.read(buffer).inspect_err(|error| {
            self.failed = error.kind() != io::ErrorKind::Interrupted;
        })?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..length]);
        }
        self.unreported += length as u64;
        Ok(length)
    }
}

/// The bytes of a file, decompressed where its first bytes say so.
enum Decoded<'a> {
    Plain(BufReader<Metered<'a>>),
    Gzip(Box<flate2::bufread::MultiGzDecoder<BufReader<Metered<'a>>>>),
    Zstd(zstd::stream::read::Decoder<'static, BufReader<Metered<'a>>>),
}

impl<'a> Decoded<'a> {
    fn new(mut reader: BufReader<Metered<'a>>) -> io::Result<Self> {
        let head = reader.fill_buf()?;
        Ok(if head.starts_with(&[0x1f, 0x8b]) {
            Self::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(reader)))
        } else if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            Self::Zstd(zstd::stream::read::Decoder::with_buffer(reader)?)
        } else {
            Self::Plain(reader)
        })
    }

    fn stored(&mut self) -> &mut BufReader<Metered<'a>> {
        match self {
            Self::Plain(reader) => reader,
            Self::Gzip(decoder) => decoder.get_mut(),
            Self::Zstd(decoder) => decoder.get_mut(),
        }
    }

    fn into_stored(self) -> BufReader<Metered<'a>> {
        match self {
            Self::Plain(reader) => reader,
            Self::Gzip(decoder) => decoder.into_inner(),
            Self::Zstd(decoder) => decoder.finish(),
        }
    }
}

impl Read for Decoded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(reader) => reader.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

/// Decoded bytes, a block at a time; a parser may leave the end of a block for the next.
struct Input<'a> {
    decoded: Decoded<'a>,
    block: Vec<u8>,
    filled: usize,
    ended: bool,
}

impl<'a> Input<'a> {
    /// Opens the file with its first block read, a byte order mark dropped.
    fn open(source: &'a Source, hash: bool, control: &'a Control) -> Result<Self> {
        let metered = Metered::open(source, hash, control)?;
        let mut reader = BufReader::with_capacity(STORED_BYTES, metered);
        if let Err(error) = reader.fill_buf() {
            return Err(reader.get_ref().explain(error));
        }
        let decoded = Decoded::new(reader).map_err(Error::io("cannot decompress", &source.name))?;
        let mut input = Self {
            decoded,
            block: vec![0; BLOCK_BYTES],
            filled: 0,
            ended: false,
        };
        while input.filled < BINARY_PROBE_BYTES && !input.ended {
            input.fill()?;
        }
        if input.block[..input.filled].starts_with("\u{feff}".as_bytes()) {
            input.leave(3);
        }
        Ok(input)
    }

    /// The place of the zero byte that makes a text file a binary one.
    fn zero_byte(&self, source: &Source) -> Option<usize> {
        if source.format != Format::Text || source.binary == OnBinary::Read {
            return None;
        }
        memchr(0, &self.block[..self.filled.min(BINARY_PROBE_BYTES)])
    }

    /// Reads more behind what is there; makes room where the block is full.
    fn fill(&mut self) -> Result<()> {
        if self.filled == self.block.len() {
            self.block.resize(self.block.len() * 2, 0);
        }
        match self.decoded.read(&mut self.block[self.filled..]) {
            Ok(0) => self.ended = true,
            Ok(length) => self.filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(self.decoded.stored().get_ref().explain(error)),
        }
        Ok(())
    }

    /// Drops the first `used` bytes.
    fn leave(&mut self, used: usize) {
        self.block.copy_within(used..self.filled, 0);
        self.filled -= used;
    }

    /// Tells the sink how much was read of the file since the last call.
    fn report(&mut self, sink: &mut dyn Sink) {
        sink.read_bytes(std::mem::take(
            &mut self.decoded.stored().get_mut().unreported,
        ));
    }

    /// Reads what may follow the last compressed frame, so that the hash covers the whole file.
    fn finish(self) -> Result<String> {
        let mut reader = self.decoded.into_stored();
        if reader.get_ref().hasher.is_some()
            && let Err(error) = io::copy(&mut reader, &mut io::sink())
        {
            return Err(reader.get_ref().explain(error));
        }
        Ok(reader.into_inner().digest())
    }
}

fn read_text(input: &mut Input, reading: &Reading, sink: &mut dyn Sink) -> Result<()> {
    let mut splitter = Splitter::new(reading.separator.as_bytes());
    loop {
        let used = splitter.feed(&input.block[..input.filled], input.ended, sink)?;
        input.leave(used);
        input.report(sink);
        if input.ended || sink.is_satisfied() {
            return sink.end_document();
        }
        input.fill()?;
    }
}

/// Finds separators across the edges of blocks.
struct Splitter<'a> {
    finder: memmem::Finder<'a>,
    after_separator: bool,
}

impl<'a> Splitter<'a> {
    fn new(separator: &'a [u8]) -> Self {
        Self {
            finder: memmem::Finder::new(separator),
            after_separator: false,
        }
    }

    /// Consumes what can be decided of `data`; returns how many bytes. `last`: nothing follows.
    fn feed(&mut self, data: &[u8], last: bool, sink: &mut dyn Sink) -> Result<usize> {
        let length = self.finder.needle().len();
        if length == 0 {
            sink.text(data)?;
            return Ok(data.len());
        }
        let mut at = 0;
        loop {
            if self.after_separator {
                match line_end(&data[at..], last) {
                    Some(bytes) => at += bytes,
                    None => return Ok(at),
                }
                self.after_separator = false;
            }
            let Some(offset) = self.finder.find(&data[at..]) else {
                // The end of the block may be the beginning of a separator.
                let kept = if last { 0 } else { length - 1 };
                let end = data.len().saturating_sub(kept).max(at);
                sink.text(&data[at..end])?;
                return Ok(end);
            };
            sink.text(&data[at..at + offset])?;
            sink.end_document()?;
            at += offset + length;
            self.after_separator = true;
        }
    }
}

/// The length of the line end that `data` begins with (0: none), `None` where more must be seen.
fn line_end(data: &[u8], last: bool) -> Option<usize> {
    match data {
        [b'\n', ..] => Some(1),
        [b'\r', b'\n', ..] => Some(2),
        [] | [b'\r'] if !last => None,
        _ => Some(0),
    }
}

fn read_lines(
    input: &mut Input,
    source: &Source,
    reading: &Reading,
    sink: &mut dyn Sink,
) -> Result<()> {
    let mut number = 0;
    let mut searched = 0;
    loop {
        let mut at = 0;
        while let Some(length) = memchr(b'\n', &input.block[at.max(searched)..input.filled]) {
            let end = at.max(searched) + length;
            number += 1;
            push_line(&input.block[at..end], number, source, reading, sink)?;
            at = end + 1;
            if sink.is_satisfied() {
                return Ok(());
            }
        }
        if input.ended {
            input.report(sink);
            return push_line(
                &input.block[at..input.filled],
                number + 1,
                source,
                reading,
                sink,
            );
        }
        input.leave(at);
        searched = input.filled;
        if searched > LINE_LIMIT_BYTES {
            let what = format!(
                "line {} is longer than {} MiB: give each document a line of its own",
                number + 1,
                LINE_LIMIT_BYTES >> 20
            );
            return Err(Error::format(&source.name, what));
        }
        input.report(sink);
        input.fill()?;
    }
}

fn push_line(
    line: &[u8],
    number: u64,
    source: &Source,
    reading: &Reading,
    sink: &mut dyn Sink,
) -> Result<()> {
    if line.trim_ascii().is_empty() {
        return Ok(());
    }
    let wrong = |what: String| Error::format(format!("{}:{number}", source.name), what);
    let mut json = serde_json::Deserializer::from_slice(line);
    let found = FieldOf(&reading.field).deserialize(&mut json);
    match found.and_then(|found| json.end().map(|()| found)) {
        Ok(Some(text)) => {
            sink.text(text.as_bytes())?;
            sink.end_document()
        }
        Ok(None) => Err(wrong(format!(
            "no field {:?}, but {}: name the one that holds the text with --field",
            reading.field,
            keys_of(line)
        ))),
        Err(error) if error.is_data() && line.trim_ascii_start().starts_with(b"{") => {
            Err(wrong(format!("the field {:?} is no string", reading.field)))
        }
        Err(error) if error.is_data() => Err(wrong("a line must be a JSON object".to_owned())),
        Err(error) => Err(wrong(format!("no JSON ({error})"))),
    }
}

/// The keys of a JSON object, for a message.
fn keys_of(line: &[u8]) -> String {
    let object: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(line).unwrap_or_default();
    let keys: Vec<&str> = object.keys().take(8).map(String::as_str).collect();
    if keys.is_empty() {
        "an empty object".to_owned()
    } else {
        keys.join(", ")
    }
}

/// Takes one string field of a JSON object and passes over the others.
struct FieldOf<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for FieldOf<'_> {
    type Value = Option<Cow<'de, str>>;

    fn deserialize<D: Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> std::result::Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

#[derive(serde::Deserialize)]
struct Borrowed<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Visitor<'de> for FieldOf<'_> {
    type Value = Option<Cow<'de, str>>;

    fn expecting(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(
        self,
        mut map: A,
    ) -> std::result::Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(Borrowed(key)) = map.next_key()? {
            if key == self.0 {
                let Borrowed(text) = map.next_value()?;
                found = Some(text);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

fn read_parquet(
    source: &Source,
    reading: &Reading,
    hash: bool,
    control: &Control,
    sink: &mut dyn Sink,
) -> Result<Outcome> {
    // Parquet is read at random, so its hash takes a pass of its own; the rows count as progress.
    let sha256 = if hash {
        hash_stored(source, control, |_| ())?
    } else {
        String::new()
    };
    let file = File::open(&source.path).map_err(Error::io("cannot read", &source.name))?;
    let damaged = |error: ParquetError| {
        Error::format(&source.name, format!("cannot be read as Parquet ({error})"))
    };
    // The library indexes into what a damaged file claims; that must not end the program.
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let file = SerializedFileReader::new(file).map_err(damaged)?;
        let column = text_column(&file, source, reading)?;
        for group in 0..file.num_row_groups() {
            let group = file.get_row_group(group).map_err(damaged)?;
            let reader = group.get_column_reader(column).map_err(damaged)?;
            let ColumnReader::ByteArrayColumnReader(mut reader) = reader else {
                return Err(damaged(ParquetError::General(
                    "its schema changes".to_owned(),
                )));
            };
            while push_rows(&mut reader, damaged, sink)? > 0 {
                control.check()?;
                if sink.is_satisfied() {
                    return Ok(());
                }
            }
            sink.read_bytes(source.bytes / file.num_row_groups() as u64);
        }
        sink.read_bytes(source.bytes % file.num_row_groups().max(1) as u64);
        Ok(())
    }));
    match outcome {
        Ok(result) => result.map(|()| Outcome::Read { sha256 }),
        Err(_) => Err(damaged(ParquetError::General(
            "its pages contradict each other".to_owned(),
        ))),
    }
}

/// The index of the column that holds the text.
fn text_column(
    file: &SerializedFileReader<File>,
    source: &Source,
    reading: &Reading,
) -> Result<usize> {
    let schema = file.metadata().file_metadata().schema_descr();
    let Some(index) = schema
        .columns()
        .iter()
        .position(|c| c.path().string() == reading.field)
    else {
        let names: Vec<String> = schema
            .columns()
            .iter()
            .take(8)
            .map(|c| c.path().string())
            .collect();
        let what = format!(
            "no column {:?}, but {}: name the one that holds the text with --field",
            reading.field,
            names.join(", ")
        );
        return Err(Error::format(&source.name, what));
    };
    let column = schema.column(index);
    if column.physical_type() != parquet::basic::Type::BYTE_ARRAY || column.max_rep_level() > 0 {
        let what = format!(
            "the column {:?} must hold one string or binary a row",
            reading.field
        );
        return Err(Error::format(&source.name, what));
    }
    Ok(index)
}

/// Pushes the next rows, a document each; returns how many rows there were. A null is no document.
fn push_rows(
    reader: &mut ColumnReaderImpl<ByteArrayType>,
    damaged: impl Fn(ParquetError) -> Error,
    sink: &mut dyn Sink,
) -> Result<usize> {
    let mut levels = Vec::with_capacity(ROWS_AT_A_TIME);
    let mut rows: Vec<ByteArray> = Vec::with_capacity(ROWS_AT_A_TIME);
    let (records, _, _) = reader
        .read_records(ROWS_AT_A_TIME, Some(&mut levels), None, &mut rows)
        .map_err(damaged)?;
    for row in &rows {
        sink.text(row.data())?;
        sink.end_document()?;
    }
    Ok(records)
}

/// Bytes in hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| char::from(DIGITS[usize::from(value)]);
    bytes
        .iter()
        .flat_map(|&byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shards::inputs::Search;
    use crate::shards::testing::Scratch;
    use std::io::Write;
    use std::sync::Arc;

    /// Keeps every document.
    #[derive(Default)]
    struct Kept {
        documents: Vec<Vec<u8>>,
        current: Vec<u8>,
        read_bytes: u64,
    }

    impl Sink for Kept {
        fn text(&mut self, text: &[u8]) -> Result<()> {
            self.current.extend_from_slice(text);
            Ok(())
        }

        fn end_document(&mut self) -> Result<()> {
            self.documents.push(std::mem::take(&mut self.current));
            Ok(())
        }

        fn read_bytes(&mut self, bytes: u64) {
            self.read_bytes += bytes;
        }
    }

    fn reading() -> Reading {
        Reading {
            separator: "<|endoftext|>".to_owned(),
            field: "text".to_owned(),
        }
    }

    fn read(name: &str, content: &[u8]) -> Result<Vec<Vec<u8>>> {
        let scratch = Scratch::new();
        let names = vec![scratch.write(name, content)];
        let sources = Search {
            names,
            ..Search::default()
        }
        .files()?;
        let mut kept = Kept::default();
        let control = Control::new();
        let outcome = read_documents(&sources[0], &reading(), true, &control, &mut kept)?;
        assert_eq!(
            outcome,
            Outcome::Read {
                sha256: hex(&Sha256::digest(content))
            }
        );
        assert_eq!(
            kept.read_bytes,
            content.len() as u64,
            "all bytes are reported"
        );
        Ok(kept.documents)
    }

    fn error_of(name: &str, content: &[u8]) -> String {
        let error = read(name, content).unwrap_err().to_string();
        error
            .rsplit_once('/')
            .map(|(_, rest)| rest.to_owned())
            .unwrap_or(error)
    }

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn parquet(column: &str, rows: &[Option<&str>]) -> Vec<u8> {
        use parquet::file::writer::SerializedFileWriter;
        let schema = format!("message m {{ optional int64 id; optional binary {column} (UTF8); }}");
        let schema = parquet::schema::parser::parse_message_type(&schema).unwrap();
        let mut bytes = Vec::new();
        let mut writer =
            SerializedFileWriter::new(&mut bytes, Arc::new(schema), Arc::default()).unwrap();
        for rows in rows.chunks(300) {
            let mut group = writer.next_row_group().unwrap();
            let mut ids = group.next_column().unwrap().unwrap();
            let levels = vec![0; rows.len()];
            ids.typed::<parquet::data_type::Int64Type>()
                .write_batch(&[], Some(&levels), None)
                .unwrap();
            ids.close().unwrap();
            let mut texts = group.next_column().unwrap().unwrap();
            let levels: Vec<i16> = rows.iter().map(|row| i16::from(row.is_some())).collect();
            let values: Vec<ByteArray> = rows.iter().flatten().map(|&row| row.into()).collect();
            texts
                .typed::<ByteArrayType>()
                .write_batch(&values, Some(&levels), None)
                .unwrap();
            texts.close().unwrap();
            group.close().unwrap();
        }
        writer.close().unwrap();
        bytes
    }

    #[test]
    fn separator_parts_documents_and_takes_its_line_end_along() {
        let text = "one\n<|endoftext|>\ntwo<|endoftext|>\r\n\nthree<|endoftext|>";
        let expected: [&[u8]; 4] = [b"one\n", b"two", b"\nthree", b""];
        assert_eq!(read("a.txt", text.as_bytes()).unwrap(), expected);
    }

    #[test]
    fn blocks_of_any_length_give_the_same_documents() {
        let text = b"ab<>\n<>\r\n<<>>\r<\n>c<>";
        let whole = split_in_blocks(text, text.len());
        assert_eq!(whole, [b"ab".as_slice(), b"", b"<", b">\r<\n>c", b""]);
        for length in 1..text.len() {
            assert_eq!(split_in_blocks(text, length), whole, "blocks of {length}");
        }
    }

    fn split_in_blocks(text: &[u8], length: usize) -> Vec<Vec<u8>> {
        let (mut splitter, mut kept, mut left) =
            (Splitter::new(b"<>"), Kept::default(), Vec::new());
        for block in text.chunks(length) {
            left.extend_from_slice(block);
            let used = splitter.feed(&left, false, &mut kept).unwrap();
            left.drain(..used);
        }
        assert!(left.len() < 2, "only a possible beginning is kept back");
        splitter.feed(&left, true, &mut kept).unwrap();
        kept.end_document().unwrap();
        kept.documents
    }

    #[test]
    fn byte_order_mark_is_dropped() {
        assert_eq!(read("a.txt", "\u{feff}text".as_bytes()).unwrap(), [b"text"]);
    }

    #[test]
    fn compression_is_told_by_content() {
        let long = "line of text\n".repeat(100_000);
        for name in ["a.txt.gz", "a.txt"] {
            assert_eq!(
                read(name, &gzip(long.as_bytes())).unwrap(),
                [long.as_bytes()]
            );
        }
        let zstd = zstd::encode_all(long.as_bytes(), 1).unwrap();
        assert_eq!(read("a.txt.zst", &zstd).unwrap(), [long.as_bytes()]);
        let two_members = [gzip(b"one "), gzip(b"two")].concat();
        assert_eq!(read("a.gz", &two_members).unwrap(), [b"one two"]);
    }

    #[test]
    fn torn_compression_is_named() {
        let text: Vec<u8> = (0..100_000_u32)
            .flat_map(|n| n.wrapping_mul(n).to_le_bytes())
            .collect();
        let damaged = "a.txt: the compressed data is damaged or cut short";
        let gzip = gzip(&text);
        let zstd = zstd::encode_all(text.as_slice(), 1).unwrap();
        for torn in [
            &gzip[..gzip.len() / 2],
            &gzip[..gzip.len() - 1],
            &zstd[..zstd.len() - 1],
        ] {
            let scratch = Scratch::new();
            let names = vec![scratch.write("a.txt", torn)];
            let search = Search {
                names,
                format: Some(Format::Text),
                ..Search::default()
            };
            let control = Control::new();
            let mut kept = Kept::default();
            let source = &search.files().unwrap()[0];
            let error = read_documents(source, &reading(), false, &control, &mut kept);
            let error = error.unwrap_err().to_string();
            assert!(error.contains(damaged), "{error}");
        }
    }

    #[test]
    fn json_lines_give_their_field() {
        let lines = b"{\"text\": \"a\\n\\u00e9\", \"id\": [1, {}]}\n\n {\"id\": 0, \"text\": \"\"}\r\n{\"text\":\"z\"}";
        let expected: [&[u8]; 3] = ["a\né".as_bytes(), b"", b"z"];
        assert_eq!(read("a.jsonl", lines).unwrap(), expected);
        assert_eq!(read("a.jsonl.gz", &gzip(lines)).unwrap(), expected);
    }

    #[test]
    fn json_line_longer_than_a_block_is_whole() {
        let long = "x".repeat(3 * BLOCK_BYTES);
        let line = format!("{{\"text\": \"{long}\"}}\n{{\"text\": \"y\"}}\n");
        assert_eq!(
            read("a.jsonl", line.as_bytes()).unwrap(),
            [long.as_bytes(), b"y"]
        );
    }

    #[test]
    fn wrong_json_lines_are_named_by_file_and_line() {
        for (lines, expected) in [
            (
                "{\"text\": \"a\"}\nnonsense",
                "a.jsonl:2: no JSON (expected ident at line 1 column 2)",
            ),
            (
                "{\"text\": \"a\"} x",
                "a.jsonl:1: no JSON (trailing characters at line 1 column 15)",
            ),
            ("\n[1]", "a.jsonl:2: a line must be a JSON object"),
            (
                "{\"text\": 3}",
                "a.jsonl:1: the field \"text\" is no string",
            ),
            (
                "{\"text\": null}",
                "a.jsonl:1: the field \"text\" is no string",
            ),
            (
                "{\"body\": \"\", \"id\": 1}",
                "a.jsonl:1: no field \"text\", but body, id: name the one that holds the text with \
                 --field",
            ),
            (
                "{}",
                "a.jsonl:1: no field \"text\", but an empty object: name the one that holds the text with --field",
            ),
        ] {
            assert_eq!(error_of("a.jsonl", lines.as_bytes()), expected);
        }
    }

    #[test]
    fn parquet_gives_its_column_without_nulls() {
        let texts: Vec<String> = (0..700).map(|n| format!("row {n}")).collect();
        let rows: Vec<Option<&str>> = texts
            .iter()
            .enumerate()
            .map(|(n, text)| (n % 3 > 0).then_some(text.as_str()))
            .collect();
        let expected: Vec<&[u8]> = rows.iter().flatten().map(|text| text.as_bytes()).collect();
        assert_eq!(
            read("a.parquet", &parquet("text", &rows)).unwrap(),
            expected
        );
    }

    #[test]
    fn wrong_parquet_is_refused_in_a_sentence() {
        let sound = parquet("body", &[Some("a")]);
        assert_eq!(
            error_of("a.parquet", &sound),
            "a.parquet: no column \"text\", but id, body: name the one that holds the text with --field"
        );
        let mut number = parquet("text", &[Some("a")]);
        assert!(
            error_of("a.parquet", &number[..20]).contains("a.parquet: cannot be read as Parquet")
        );
        for at in 0..number.len() {
            // Damage of any byte ends in documents or a sentence.
            number[at] ^= 0x55;
            let _ = read("a.parquet", &number);
            number[at] ^= 0x55;
        }
    }

    #[test]
    fn binary_file_is_refused_where_it_was_named_and_left_out_where_it_was_found() {
        let scratch = Scratch::new();
        let file = scratch.write("a.txt", b"PNG\0\0");
        let outcome = |names, format| {
            let source = &Search {
                names,
                format,
                ..Search::default()
            }
            .files()
            .unwrap()[0];
            let mut kept = Kept::default();
            read_documents(source, &reading(), true, &Control::new(), &mut kept)
                .map(|outcome| (outcome == Outcome::Skipped, kept.documents.len()))
        };
        let error = outcome(vec![file.clone()], None).unwrap_err().to_string();
        assert!(
            error.contains("a.txt: looks binary (byte 3 is zero)"),
            "{error}"
        );
        assert_eq!(
            outcome(vec![scratch.path().to_owned()], None).unwrap(),
            (true, 0)
        );
        assert_eq!(outcome(vec![file], Some(Format::Text)).unwrap(), (false, 1));
    }
}
