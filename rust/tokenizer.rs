//! Text <-> ids.
//!
//! A [`Tokenizer`] is a vocabulary and a pattern, immutable and shared by threads. What encoding
//! remembers (the word cache, buffers) belongs to an [`Encoder`]: a thread takes one, encodes any
//! number of texts, and on drop leaves its memory to the next, so that calls after the first are warm.
//! The shelf on which they wait takes no lock that a `fork` could leave locked for good.
//!
//! Ids never depend on threads: large texts are cut only where the pattern says that no piece can
//! cross, and whole documents go to one thread each.

use crate::cache::{INLINE, LISTED_IDS, WordCache, key, key_of, prefer_huge_pages};
use crate::control::Control;
use crate::decode::Decoder;
#[cfg(target_arch = "x86_64")]
use crate::encode::is_wide;
use crate::encode::{Scratch, merge};
use crate::error::{Error, Result};
use crate::pretokenize::Pattern;
use crate::specials::{Finders, SpecialRule};
use crate::vocab::Vocab;
use sha2::{Digest, Sha256};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock};

/// Pieces looked up together: the cache line of each is on its way while the others are keyed.
const TOGETHER: usize = 64;
/// Keys from here on are of pieces that are too long for one: no set holds them, and their low half
/// is the hash that finds their record.
const LONG: u128 = 0xFF << 120;
/// Less text than this does not pay for a thread.
const BYTES_PER_THREAD: usize = 256 << 10;
/// A part of a large text that one thread takes at a time.
const LARGE_PART: usize = 1 << 20;
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
}

/// What an encoder remembers between texts.
#[derive(Debug)]
struct Memory {
    cache: WordCache,
    scratch: Scratch,
    symbols: Vec<u32>,
    ends: Vec<usize>,
    /// Key and place in the cache of the pieces that are looked up together.
    places: Vec<(u128, usize)>,
}

/// A thread's hold on a tokenizer: encodes text after text with one word cache.
#[derive(Debug)]
pub struct Encoder<'t> {
    tokenizer: &'t Tokenizer,
    memory: Option<Box<Memory>>,
}

/// Receives ids, or only counts them.
trait Sink {
    /// Where the next ids go. The loop over pieces keeps it in a register.
    type Cursor: Copy;

    /// Makes room for `pieces` calls of [`Sink::few`].
    fn open(&mut self, pieces: usize) -> Self::Cursor;

    /// Takes the first `count <= N <= LISTED_IDS` ids.
    ///
    /// # Safety
    /// Since the last [`Sink::open`] there were fewer calls than it made room for.
    unsafe fn few<const N: usize>(cursor: &mut Self::Cursor, ids: &[u32; N], count: usize);

    /// Keeps what went in since [`Sink::open`], up to `cursor`.
    fn close(&mut self, cursor: Self::Cursor);

    /// Takes any number of ids.
    fn many(&mut self, ids: impl ExactSizeIterator<Item = u32>);
}

/// Appends ids to a vector.
struct Ids<'a>(&'a mut Vec<u32>);

impl Sink for Ids<'_> {
    type Cursor = *mut u32;

    #[inline(always)]
    fn open(&mut self, pieces: usize) -> *mut u32 {
        self.0.reserve(pieces * LISTED_IDS);
        self.0.spare_capacity_mut().as_mut_ptr().cast()
    }

    #[inline(always)]
    unsafe fn few<const N: usize>(cursor: &mut *mut u32, ids: &[u32; N], count: usize) {
        // SAFETY: `open` reserved `LISTED_IDS` places a call, and no call goes on by more.
        unsafe {
            cursor.cast::<[u32; N]>().write_unaligned(*ids);
            *cursor = cursor.add(count);
        }
    }

    #[inline(always)]
    fn close(&mut self, cursor: *mut u32) {
        // SAFETY: `cursor` came from `open` and went on past ids that were written.
        unsafe {
            let filled = cursor.offset_from_unsigned(self.0.as_ptr());
            self.0.set_len(filled);
        }
    }

    fn many(&mut self, ids: impl ExactSizeIterator<Item = u32>) {
        self.0.extend(ids);
    }
}

/// Counts ids.
struct Count(usize);

impl Sink for Count {
    type Cursor = usize;

    #[inline(always)]
    fn open(&mut self, _: usize) -> usize {
        self.0
    }

    #[inline(always)]
    unsafe fn few<const N: usize>(cursor: &mut usize, _: &[u32; N], count: usize) {
        *cursor += count;
    }

    #[inline(always)]
    fn close(&mut self, cursor: usize) {
        self.0 = cursor;
    }

    fn many(&mut self, ids: impl ExactSizeIterator<Item = u32>) {
        self.0 += ids.len();
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
        let memory = kept.unwrap_or_else(|| {
            Box::new(Memory {
                cache: WordCache::new(),
                scratch: Scratch::default(),
                symbols: Vec::new(),
                ends: Vec::new(),
                places: Vec::new(),
            })
        });
        Encoder {
            tokenizer: self,
            memory: Some(memory),
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
            let mut ids = Vec::with_capacity(text.len() / 4 + 16);
            prefer_huge_pages(&ids);
            self.encoder().encode_with(text, rule, control, &mut ids)?;
            return Ok(ids);
        }
        let stretches = self.cut(
            text,
            rule,
            (text.len() / (threads * 4)).clamp(64 << 10, LARGE_PART),
        )?;
        let parts = in_parallel(
            threads,
            stretches.len(),
            || self.encoder(),
            |encoder, job| {
                let mut ids = Vec::new();
                match &stretches[job] {
                    Stretch::Special(id) => ids.push(*id),
                    Stretch::Text(range) => {
                        ids.reserve(range.len() / 4 + 16);
                        encoder.pieces(&text[range.clone()], control, &mut Ids(&mut ids))?;
                    }
                }
                Ok(ids)
            },
        )?;
        Ok(joined(&parts))
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
        let groups = group(
            texts,
            if threads == 1 {
                usize::MAX
            } else {
                (bytes / (threads * 8)).max(16 << 10)
            },
        );
        let parts = in_parallel(
            threads,
            groups.len(),
            || self.encoder(),
            |encoder, job| {
                let texts = &texts[groups[job].clone()];
                let mut ids =
                    Vec::with_capacity(texts.iter().map(|text| text.len()).sum::<usize>() / 4 + 16);
                let mut ends = Vec::with_capacity(texts.len());
                for text in texts {
                    encoder.encode_with(text, rule, control, &mut ids)?;
                    ends.push(ids.len() as u64);
                }
                Ok((ids, ends))
            },
        )?;
        let mut offsets = Vec::with_capacity(texts.len() + 1);
        offsets.push(0);
        let mut before = 0;
        for (ids, ends) in &parts {
            offsets.extend(ends.iter().map(|end| before + end));
            before += ids.len() as u64;
        }
        let mut parts: Vec<Vec<u32>> = parts.into_iter().map(|(ids, _)| ids).collect();
        let ids = if parts.len() == 1 {
            parts.swap_remove(0)
        } else {
            joined(&parts)
        };
        Ok((ids, offsets))
    }

    /// How many ids `text` has.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn count(&self, text: &[u8], rule: &SpecialRule, control: &Control) -> Result<usize> {
        let mut count = Count(0);
        self.encoder().run(text, rule, control, &mut count)?;
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

    /// Cuts `text` at special tokens, and what lies between into parts of about `size` bytes.
    fn cut(&self, text: &[u8], rule: &SpecialRule, size: usize) -> Result<Vec<Stretch>> {
        let mut stretches = Vec::new();
        self.stretches(text, rule, |stretch| {
            match stretch {
                Stretch::Special(_) => stretches.push(stretch),
                Stretch::Text(range) => {
                    let (part, mut start) = (&text[range.clone()], 0);
                    while part.len() - start > size * 2 {
                        let Some(cut) = self.pattern.safe_split(part, start + size) else {
                            break;
                        };
                        if cut <= start || cut >= part.len() {
                            break;
                        }
                        stretches.push(Stretch::Text(range.start + start..range.start + cut));
                        start = cut;
                    }
                    stretches.push(Stretch::Text(range.start + start..range.end));
                }
            }
            Ok(())
        })?;
        Ok(stretches)
    }

    /// Hands on, in order, the stretches of `text` and the special tokens between them.
    fn stretches(
        &self,
        text: &[u8],
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
                    special.text, found.start, special.id
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
        let result = self.run(text, rule, control, &mut Ids(out));
        if result.is_err() {
            out.truncate(before);
        }
        result
    }

    fn run(
        &mut self,
        text: &[u8],
        rule: &SpecialRule,
        control: &Control,
        sink: &mut impl Sink,
    ) -> Result<()> {
        self.tokenizer.stretches(text, rule, |stretch| {
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
        let mut start = 0;
        let mut ends = std::mem::take(&mut memory.ends);
        while scanner.fill(&mut ends)? {
            for ends in ends.chunks(TOGETHER) {
                start = memory.together(&tokenizer.vocab, text, start, ends, sink)?;
            }
            control.check()?;
        }
        memory.ends = ends;
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

impl Memory {
    /// Encodes up to [`TOGETHER`] pieces, the first of which begins at `start`; returns the last end.
    fn together(
        &mut self,
        vocab: &Vocab,
        text: &[u8],
        start: usize,
        ends: &[usize],
        sink: &mut impl Sink,
    ) -> Result<usize> {
        #[cfg(target_arch = "x86_64")]
        if is_wide() {
            // SAFETY: the processor has the features that the function is compiled for.
            return unsafe { self.together_wide(vocab, text, start, ends, sink) };
        }
        self.look_up::<false, _>(vocab, text, start, ends, sink)
    }

    /// [`Memory::look_up`] for AVX2, which compares two keys at once, and BMI2.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn together_wide(
        &mut self,
        vocab: &Vocab,
        text: &[u8],
        start: usize,
        ends: &[usize],
        sink: &mut impl Sink,
    ) -> Result<usize> {
        self.look_up::<true, _>(vocab, text, start, ends, sink)
    }

    #[inline(always)]
    fn look_up<const WIDE: bool, S: Sink>(
        &mut self,
        vocab: &Vocab,
        text: &[u8],
        start: usize,
        ends: &[usize],
        sink: &mut S,
    ) -> Result<usize> {
        let (Some(&last), count) = (ends.last(), ends.len()) else {
            return Ok(start);
        };
        // Out of the way of what needs all of `self`; an array here would be zeroed every time.
        let mut places = std::mem::take(&mut self.places);
        if places.len() < count {
            places.resize(TOGETHER.max(count), (0, 0));
        }
        let found = &mut places[..count];
        // Far from the end of the text no piece needs to ask whether sixteen bytes can be read.
        let long = if last + 16 <= text.len() {
            let key = |from: usize, length: usize| {
                debug_assert!(from + 16 <= text.len());
                // SAFETY: `from + 16 <= last + 16 <= text.len()`.
                key_of(unsafe { *text.as_ptr().add(from).cast() }, length)
            };
            self.approach(text, start, ends, found, key)
        } else {
            self.approach_at_end(text, start, ends, found)
        };
        if long {
            for (key, _) in found.iter().filter(|(key, _)| *key >= LONG) {
                self.cache.approach_record(*key as u64);
            }
        }
        let mut cursor = sink.open(count);
        let mut quick = self.cache.quick();
        for (place, &(key, at)) in found.iter().enumerate() {
            let known = quick.few::<WIDE>(at, key);
            if let Some((ids, count)) = known
                && count <= 4
            {
                // SAFETY: one call a piece.
                unsafe { S::few(&mut cursor, &ids, count) };
            } else if let Some((ids, count)) = known.and_then(|few| self.cache.listed(few.0)) {
                // SAFETY: one call a piece.
                unsafe { S::few(&mut cursor, ids, count) };
            } else {
                let from = if place == 0 { start } else { ends[place - 1] };
                sink.close(cursor);
                self.other(vocab, &text[from..ends[place]], key, sink)?;
                cursor = sink.open(count - place - 1);
                quick = self.cache.quick();
            }
        }
        sink.close(cursor);
        self.places = places;
        Ok(last)
    }

    /// [`Memory::approach`] where the text ends before sixteen bytes of each piece could be read.
    #[cold]
    #[inline(never)]
    fn approach_at_end(
        &self,
        text: &[u8],
        start: usize,
        ends: &[usize],
        found: &mut [(u128, usize)],
    ) -> bool {
        let key = |from: usize, length: usize| key(text, from, from + length);
        self.approach(text, start, ends, found, key)
    }

    /// Leaves for each piece its key and its place in the cache, which is then on its way; whether
    /// some piece is long. `key` is given a start and a length.
    #[inline(always)]
    fn approach(
        &self,
        text: &[u8],
        start: usize,
        ends: &[usize],
        found: &mut [(u128, usize)],
        key: impl Fn(usize, usize) -> u128,
    ) -> bool {
        let (mut from, mut long) = (start, false);
        let quick = self.cache.quick();
        for (found, &end) in found.iter_mut().zip(ends) {
            *found = if end - from <= INLINE {
                let key = key(from, end - from);
                (key, quick.approach(key))
            } else {
                long = true;
                self.cache.approach_long(LONG, &text[from..end])
            };
            from = end;
        }
        long
    }

    /// A piece whose ids are not in its set: from elsewhere in the cache, or made and remembered.
    #[inline(never)]
    fn other(
        &mut self,
        vocab: &Vocab,
        piece: &[u8],
        key: u128,
        sink: &mut impl Sink,
    ) -> Result<()> {
        if key >= LONG {
            if let Some(ids) = self.cache.many(key as u64, piece) {
                sink.many(ids.iter().map(|id| u32::from_le_bytes(*id)));
                return Ok(());
            }
        } else if let Some((ids, count)) = self.cache.few_anywhere(key) {
            if count <= 4 {
                sink.many(ids[..count].iter().copied());
                return Ok(());
            }
            if let Some((ids, count)) = self.cache.listed(ids) {
                sink.many(ids[..count].iter().copied());
                return Ok(());
            }
        }
        self.make(vocab, piece, key)?;
        if key >= LONG {
            self.cache.insert_long(key as u64, piece, &self.symbols);
        } else {
            let seeds = vocab.short_tokens();
            self.cache.insert(key, &self.symbols, seeds);
        }
        sink.many(self.symbols.iter().copied());
        Ok(())
    }

    /// Leaves the ids of a piece in `symbols`.
    fn make(&mut self, vocab: &Vocab, piece: &[u8], key: u128) -> Result<()> {
        if piece.len() >= u32::MAX as usize {
            return Err(Error::usage(format!(
                "a piece of {} bytes without a split point is too long: the limit is 4 GiB",
                piece.len()
            )));
        }
        self.symbols.clear();
        if let Some(id) = vocab.whole(piece, (key < LONG).then_some(key)) {
            self.symbols.push(id);
            return Ok(());
        }
        merge(&vocab.table, piece, &mut self.scratch, &mut self.symbols);
        for symbol in &mut self.symbols {
            *symbol = vocab.ids()[*symbol as usize];
        }
        Ok(())
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

fn thread_count(threads: Option<usize>, bytes: usize) -> usize {
    let most =
        threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, Into::into));
    most.min(bytes / BYTES_PER_THREAD + 1).max(1)
}

/// All ids in one vector.
fn joined(parts: &[Vec<u32>]) -> Vec<u32> {
    let mut ids = Vec::with_capacity(parts.iter().map(Vec::len).sum());
    prefer_huge_pages(&ids);
    parts.iter().for_each(|part| ids.extend_from_slice(part));
    ids
}

/// Ranges of consecutive texts of about `size` bytes each.
fn group(texts: &[&[u8]], size: usize) -> Vec<Range<usize>> {
    let (mut groups, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (place, text) in texts.iter().enumerate() {
        bytes += text.len();
        if bytes >= size {
            groups.push(start..place + 1);
            (start, bytes) = (place + 1, 0);
        }
    }
    if start < texts.len() || groups.is_empty() {
        groups.push(start..texts.len());
    }
    groups
}

/// The results of `jobs` jobs in order. Each thread makes one tool and takes the next job until none
/// is left or one fails; the calling thread is one of them.
fn in_parallel<Tool, T: Send>(
    threads: usize,
    jobs: usize,
    tool: impl Fn() -> Tool + Sync,
    work: impl Fn(&mut Tool, usize) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let next = AtomicUsize::new(0);
    let run = || -> Result<Vec<(usize, T)>> {
        let (mut tool, mut done) = (tool(), Vec::new());
        loop {
            let job = next.fetch_add(1, Relaxed);
            if job >= jobs {
                return Ok(done);
            }
            let result = work(&mut tool, job);
            if result.is_err() {
                next.store(jobs, Relaxed);
            }
            done.push((job, result?));
        }
    };
    let mut done = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads.min(jobs)).map(|_| scope.spawn(run)).collect();
        let mut results = vec![run()];
        for other in others {
            results.push(
                other
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            );
        }
        results.into_iter().collect::<Result<Vec<_>>>()
    })?
    .into_iter()
    .flatten()
    .collect::<Vec<_>>();
    done.sort_unstable_by_key(|(job, _)| *job);
    Ok(done.into_iter().map(|(_, result)| result).collect())
}
