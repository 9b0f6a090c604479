//! Text <-> ids.
//!
//! A [`Tokenizer`] is a vocabulary and a pattern, immutable and shared by threads. What encoding
//! remembers (the word cache, buffers) belongs to an [`Encoder`]: a thread takes one, encodes any
//! number of texts, and on drop leaves its memory to the next, so that calls after the first are warm.
//! The shelf on which they wait takes no lock that a `fork` could leave locked for good.
//!
//! Ids never depend on threads: large texts are cut only where the pattern says that no piece can
//! cross, and whole documents go to one thread each.

use crate::control::Control;
use crate::decode::Decoder;
use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::parallel::thread_count;
use crate::parts::{Parts, TextSource, part_bytes};
use crate::pretokenize::{Pattern, character_edge};
use crate::room::{LARGE, Room};
use crate::sink::{Count, Ids, Sink, Streamed};
use crate::specials::{Finders, SpecialRule};
use crate::vocab::Vocab;
use sha2::{Digest, Sha256};
use std::ops::Range;
use std::sync::{Mutex, OnceLock};

/// Encoders that wait for reuse.
const SHELF: usize = 16;

/// A vocabulary and a pattern: turns text into ids and back.
#[derive(Debug)]
pub struct Tokenizer {
    vocab: Vocab,
    pattern: Pattern,
    finders: Finders,
    shelf: [Mutex<Option<Box<Memory>>>; SHELF],
    fingerprint: OnceLock<String>,
    /// Made by the first call that decodes.
    decoder: OnceLock<Decoder>,
    pub(crate) room: Room,
}

/// A thread's hold on a tokenizer: encodes text after text with one word cache.
#[derive(Debug)]
pub struct Encoder<'t> {
    tokenizer: &'t Tokenizer,
    memory: Option<Box<Memory>>,
    /// Where pieces end.
    ends: Vec<usize>,
}

/// Texts, or the parts of one, in order.
pub(crate) trait Texts {
    /// How many there are, as far as is known.
    fn count(&self) -> usize;

    /// Hands on each, with where it begins in its whole.
    fn each(self, take: impl FnMut(&[u8], usize) -> Result<()>) -> Result<()>;
}

impl Texts for &[&[u8]] {
    fn count(&self) -> usize {
        self.len()
    }

    fn each(self, mut take: impl FnMut(&[u8], usize) -> Result<()>) -> Result<()> {
        self.iter().try_for_each(|text| take(text, 0))
    }
}

impl<S: TextSource> Texts for &mut Parts<'_, S> {
    fn count(&self) -> usize {
        0
    }

    fn each(self, mut take: impl FnMut(&[u8], usize) -> Result<()>) -> Result<()> {
        let mut used = Vec::new();
        while let Some(part) = self.next(used)? {
            take(&part.text, part.position)?;
            used = part.text;
        }
        Ok(())
    }
}

/// A stretch of text between special tokens, or one of those.
enum Stretch {
    Text(Range<usize>),
    Special(u32),
}

impl Tokenizer {
    /// A tokenizer of its parts.
    pub fn new(vocab: Vocab, pattern: Pattern) -> Self {
        let finders = Finders::new(vocab.specials());
        Self {
            vocab,
            pattern,
            finders,
            shelf: Default::default(),
            fingerprint: OnceLock::new(),
            decoder: OnceLock::new(),
            room: Room::default(),
        }
    }

    /// The byte tokenizer: id `b` is the byte `b`, then come the special tokens.
    ///
    /// # Errors
    /// [`Error::Usage`] where a special token is empty or given twice.
    pub fn byte(specials: &[String]) -> Result<Self> {
        Ok(Self::new(
            Vocab::from_merges(&[], specials)?,
            Pattern::named("none")?,
        ))
    }

    /// The tokenizer of trained merges: see [`Vocab::from_merges`].
    ///
    /// # Errors
    /// [`Error::Usage`] where the merges make no vocabulary.
    pub fn from_merges(
        merges: &[(u32, u32)],
        pattern: Pattern,
        specials: &[String],
    ) -> Result<Self> {
        Ok(Self::new(Vocab::from_merges(merges, specials)?, pattern))
    }

    /// Its tokens, merges and special tokens.
    pub fn vocab(&self) -> &Vocab {
        &self.vocab
    }

    /// How it cuts text into pieces.
    pub fn pattern(&self) -> &Pattern {
        &self.pattern
    }

    /// `"byte"` or `"bpe"`.
    pub fn kind(&self) -> &'static str {
        if self.vocab.is_bytes() { "byte" } else { "bpe" }
    }

    /// A SHA-256, in hexadecimal, of all that decides ids: equal for tokenizers that encode and decode
    /// alike, whatever file they came from.
    pub fn fingerprint(&self) -> &str {
        self.fingerprint.get_or_init(|| {
            let mut hash = Sha256::new();
            hash.update(b"microgpt-tokenizer-1\0");
            // Where ids are bytes, it does not matter how text is cut.
            if !self.vocab.is_bytes() {
                hash.update(self.pattern.regex().as_bytes());
            }
            hash.update([0]);
            self.vocab.digest(&mut hash);
            hash.finalize()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect()
        })
    }

    /// An encoder for one thread, warm where an earlier one left its memory.
    pub fn encoder(&self) -> Encoder<'_> {
        let kept = self
            .shelf
            .iter()
            .find_map(|place| place.try_lock().ok()?.take());
        let memory = kept.unwrap_or_else(Memory::new);
        Encoder {
            tokenizer: self,
            memory: Some(memory),
            ends: Vec::new(),
        }
    }

    /// The pieces that the pattern cuts `text` into.
    ///
    /// # Errors
    /// [`Error::Usage`] where a user's regex gives up.
    pub fn split<'a>(&self, text: &'a [u8]) -> Result<Vec<&'a [u8]>> {
        let (mut pieces, mut ends, mut start) = (Vec::new(), Vec::new(), 0);
        let mut scanner = self.pattern.scanner(text);
        while scanner.fill(&mut ends)? {
            for &end in &ends {
                pieces.push(&text[start..end]);
                start = end;
            }
        }
        Ok(pieces)
    }

    /// The ids of one text, on up to `threads` threads (`None`: as many as there are cores and the
    /// text's size pays for).
    ///
    /// # Errors
    /// [`Error::Usage`] where the text spells a refused special token or a user's regex gives up;
    /// [`Error::Interrupted`].
    pub fn encode(
        &self,
        text: &[u8],
        rule: &SpecialRule,
        threads: Option<usize>,
        control: &Control,
    ) -> Result<Vec<u32>> {
        let threads = thread_count(threads, text.len());
        if threads == 1 {
            return Ok(self.encoder().encode_texts(&[text], rule, control)?.0);
        }
        self.encode_on_threads(text, rule, threads, control)
    }

    /// The ids of a text of about so many bytes that is made while it is encoded, as [`Tokenizer::encode`]
    /// gives them.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`], and what the source says.
    pub fn encode_source(
        &self,
        source: impl TextSource,
        bytes: usize,
        rule: &SpecialRule,
        threads: Option<usize>,
        control: &Control,
    ) -> Result<Vec<u32>> {
        let parts = Parts::new(self, rule, source, part_bytes(bytes));
        self.encode_parts(parts, bytes, thread_count(threads, bytes), control)
    }

    /// The ids of a text of about so many bytes that comes in parts, each thread taking the next.
    pub(crate) fn encode_parts(
        &self,
        mut parts: Parts<'_, impl TextSource>,
        bytes: usize,
        threads: usize,
        control: &Control,
    ) -> Result<Vec<u32>> {
        let rule = parts.rule;
        if threads == 1 {
            let mut encoder = self.encoder();
            return Ok(encoder.encode_all(bytes, &mut parts, rule, control)?.0);
        }
        self.encode_parts_on_threads(parts, bytes, threads, control)
    }

    /// Takes the memory of a result that nobody needs any longer, for one to come; of one, and 128
    /// MiB at most.
    pub fn recycle(&self, ids: Vec<u32>) {
        self.room.keep(ids);
    }

    /// The ids of many texts, one after the other, and the place in them at which each text begins,
    /// with one more for the end.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_batch(
        &self,
        texts: &[&[u8]],
        rule: &SpecialRule,
        threads: Option<usize>,
        control: &Control,
    ) -> Result<(Vec<u32>, Vec<u64>)> {
        let bytes = texts.iter().map(|text| text.len()).sum();
        let threads = thread_count(threads, bytes);
        if threads == 1 {
            let (ids, ends) = self.encoder().encode_texts(texts, rule, control)?;
            return Ok((ids, [0].into_iter().chain(ends).collect()));
        }
        self.encode_batch_on_threads(texts, rule, threads, control)
    }

    /// How many ids `text` has.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn count(&self, text: &[u8], rule: &SpecialRule, control: &Control) -> Result<usize> {
        let mut count = Count(0);
        self.encoder().run(text, 0, rule, control, &mut count)?;
        Ok(count.0)
    }

    /// How many ids a text of about so many bytes has that is made while it is encoded.
    ///
    /// # Errors
    /// As [`Tokenizer::encode_source`].
    pub fn count_source(
        &self,
        source: impl TextSource,
        bytes: usize,
        rule: &SpecialRule,
        control: &Control,
    ) -> Result<usize> {
        let mut count = Count(0);
        let mut parts = Parts::new(self, rule, source, part_bytes(bytes));
        let mut encoder = self.encoder();
        encoder.run_all(&mut parts, rule, control, &mut count)?;
        Ok(count.0)
    }

    /// The byte at which each of `ids` begins, with one more for the end. Where a user's regex leaves
    /// text out, offsets are those of the text that remains.
    pub fn offsets(&self, ids: &[u32]) -> Vec<u64> {
        let lengths = ids
            .iter()
            .map(|&id| self.vocab.tokens().get(id).len() as u64);
        let mut end = 0;
        [0].into_iter()
            .chain(lengths.map(|length| {
                end += length;
                end
            }))
            .collect()
    }

    /// Appends the bytes that `ids` stand for.
    ///
    /// # Errors
    /// [`Error::Usage`] where an id has no token.
    pub fn decode_into(&self, ids: &[u32], out: &mut Vec<u8>) -> Result<()> {
        let tokens = self.vocab.tokens();
        let decoder = self.decoder.get_or_init(|| Decoder::new(tokens));
        decoder
            .decode(tokens, ids, out)
            .map_err(|id| self.no_token(id.into()))
    }

    /// The bytes of one token.
    ///
    /// # Errors
    /// [`Error::Usage`] where the id has no token.
    #[inline]
    pub fn token(&self, id: u32) -> Result<&[u8]> {
        let token = self.vocab.tokens().get(id);
        if token.is_empty() {
            Err(self.no_token(i64::from(id)))
        } else {
            Ok(token)
        }
    }

    /// The error about an id without a token.
    #[cold]
    pub fn no_token(&self, id: i64) -> Error {
        let size = self.vocab.size();
        let limit = if (0..size as i64).contains(&id) {
            "it is a gap in"
        } else {
            "ids lie below"
        };
        Error::usage(format!(
            "id {id} has no token: {limit} this vocabulary's {size}"
        ))
    }

    /// The ordinary ids, ascending, that no text gives: merging their bytes ends in other tokens.
    ///
    /// # Errors
    /// [`Error::Usage`] where a user's regex gives up.
    pub fn unreachable(&self) -> Result<Vec<u32>> {
        let mut unreachable = Vec::new();
        for id in self.vocab.unformed() {
            let is_piece = || Ok(self.split(self.vocab.tokens().get(id))?.len() == 1);
            if !self.vocab.whole_pieces() || !is_piece()? {
                unreachable.push(id);
            }
        }
        Ok(unreachable)
    }

    /// A place late in `text`, not its beginning, where the two parts have the ids of the whole, whatever
    /// follows; `None` where none is known.
    pub(crate) fn safe_cut(&self, text: &[u8], rule: &SpecialRule) -> Option<usize> {
        let finder = self.finders.choose(self.vocab.specials(), rule).ok()?;
        // A special token whose end is yet to come must not be cut either.
        let seen = &text[..text.len().saturating_sub(finder.longest())];
        let cut = if self.vocab.is_bytes() {
            // Any place would do for the ids; half a character would look ill-formed to others.
            character_edge(seen)
        } else {
            self.pattern.late_split(seen)?
        };
        Some(finder.clear_of(text, cut)).filter(|&cut| cut > 0)
    }

    /// Hands on, in order, the stretches of `text`, which begins at `position` of the whole, and the
    /// special tokens between them.
    fn stretches(
        &self,
        text: &[u8],
        position: usize,
        rule: &SpecialRule,
        mut take: impl FnMut(Stretch) -> Result<()>,
    ) -> Result<()> {
        let specials = self.vocab.specials();
        let finder = self.finders.choose(specials, rule)?;
        let mut start = 0;
        while let Some((place, found)) = finder.next(text, start) {
            let special = &specials[place];
            if !rule.allows(special) {
                return Err(Error::usage(format!(
                    "the text spells the special token {:?} at byte {}; name it in allowed_special to encode it as id {}, or pass disallowed_special=() to encode it as plain text",
                    special.text,
                    position + found.start,
                    special.id
                )));
            }
            if found.start > start {
                take(Stretch::Text(start..found.start))?;
            }
            take(Stretch::Special(special.id))?;
            start = found.end;
        }
        if start < text.len() {
            take(Stretch::Text(start..text.len()))?;
        }
        Ok(())
    }
}

impl Encoder<'_> {
    /// Appends the ids of `text`, in which special tokens are plain text.
    ///
    /// # Errors
    /// [`Error::Usage`] where a user's regex gives up.
    pub fn encode_into(&mut self, text: &[u8], out: &mut Vec<u32>) -> Result<()> {
        self.encode_with(text, &SpecialRule::PLAIN, &Control::new(), out)
    }

    /// Appends the ids of `text`; on an error `out` is as long as before.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_with(
        &mut self,
        text: &[u8],
        rule: &SpecialRule,
        control: &Control,
        out: &mut Vec<u32>,
    ) -> Result<()> {
        let before = out.len();
        let result = self.run(text, 0, rule, control, &mut Ids(out));
        if result.is_err() {
            out.truncate(before);
        }
        result
    }

    /// The ids of all texts, and the place in them at which each text ends.
    fn encode_texts(
        &mut self,
        texts: &[&[u8]],
        rule: &SpecialRule,
        control: &Control,
    ) -> Result<(Vec<u32>, Vec<u64>)> {
        let bytes = texts.iter().map(|text| text.len()).sum();
        self.encode_all(bytes, texts, rule, control)
    }

    /// The same of texts of about so many bytes in all.
    fn encode_all(
        &mut self,
        bytes: usize,
        texts: impl Texts,
        rule: &SpecialRule,
        control: &Control,
    ) -> Result<(Vec<u32>, Vec<u64>)> {
        let room = &self.tokenizer.room;
        let mut ids = room.for_bytes(bytes);
        let (ends, bytes) = if ids.capacity() < LARGE {
            self.run_all(texts, rule, control, &mut Ids(&mut ids))?
        } else {
            let mut sink = Streamed::new(&mut ids);
            let done = self.run_all(texts, rule, control, &mut sink)?;
            sink.finish();
            done
        };
        room.fit(bytes, &mut ids);
        Ok((ids, ends))
    }

    /// Encodes all texts; the length of `sink` after each, and the bytes that they had.
    pub(crate) fn run_all(
        &mut self,
        texts: impl Texts,
        rule: &SpecialRule,
        control: &Control,
        sink: &mut impl Sink,
    ) -> Result<(Vec<u64>, usize)> {
        let (mut ends, mut bytes) = (Vec::with_capacity(texts.count()), 0);
        texts.each(|text, position| {
            self.run(text, position, rule, control, sink)?;
            ends.push(sink.len() as u64);
            bytes += text.len();
            Ok(())
        })?;
        Ok((ends, bytes))
    }

    /// Encodes `text`, which begins at `position` of a whole.
    pub(crate) fn run(
        &mut self,
        text: &[u8],
        position: usize,
        rule: &SpecialRule,
        control: &Control,
        sink: &mut impl Sink,
    ) -> Result<()> {
        self.tokenizer.stretches(text, position, rule, |stretch| {
            match stretch {
                Stretch::Text(range) => self.pieces(&text[range], control, sink)?,
                Stretch::Special(id) => sink.many([id].into_iter()),
            }
            Ok(())
        })
    }

    /// Encodes a stretch without special tokens.
    fn pieces(&mut self, text: &[u8], control: &Control, sink: &mut impl Sink) -> Result<()> {
        let tokenizer = self.tokenizer;
        let Some(memory) = self.memory.as_deref_mut() else {
            return Ok(());
        };
        if tokenizer.vocab.is_bytes() {
            sink.many(text.iter().map(|&byte| byte.into()));
            return Ok(());
        }
        let mut scanner = tokenizer.pattern.scanner(text);
        let (mut start, mut ends) = (0, std::mem::take(&mut self.ends));
        while scanner.fill(&mut ends)? {
            start = memory.encode(&tokenizer.vocab, text, start, &ends, control, sink)?;
        }
        self.ends = ends;
        Ok(())
    }
}

impl Drop for Encoder<'_> {
    fn drop(&mut self) {
        for place in &self.tokenizer.shelf {
            if let Ok(mut place) = place.try_lock()
                && place.is_none()
            {
                *place = self.memory.take();
                return;
            }
        }
    }
}

/// Decodes id by id into text that never ends inside a character.
#[derive(Debug, Default)]
pub struct DecodeStream {
    /// At most three bytes that begin a character.
    pending: Vec<u8>,
}

impl DecodeStream {
    /// The text that `token` completes; bytes that belong to no character give U+FFFD, as decoding
    /// the whole would.
    pub fn push(&mut self, token: &[u8]) -> String {
        self.pending.extend_from_slice(token);
        let (mut text, mut done) = (String::new(), 0);
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            done += chunk.valid().len();
            let rest = &self.pending[done..];
            if rest.is_empty() || std::str::from_utf8(rest).is_err_and(|e| e.error_len().is_none())
            {
                break;
            }
            text.push(char::REPLACEMENT_CHARACTER);
            done += chunk.invalid().len();
        }
        self.pending.drain(..done);
        text
    }

    /// What remains when no id follows: nothing, or U+FFFD for a character that was never finished.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        text
    }
}
