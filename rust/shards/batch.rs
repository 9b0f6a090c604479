//! Documents -> jobs: about a megabyte of text each, cut so that encoding the jobs one by one gives
//! the ids of encoding each document whole.
//!
//! Jobs follow from the content and the options alone: not from threads, nor from how the reader's
//! blocks happen to fall. So a resumed write sees the same jobs again and can pass over those that
//! were written.

use super::read::Sink;
use super::split::{Side, Split, tail_start};
use crate::error::Result;
use crate::pretokenize::character_edge;

/// A job holds so much text, a longer document being cut.
const JOB_BYTES: usize = 1 << 20;
/// Text without a safe place to cut is held together up to this length, and then cut anyway.
const UNCUT_BYTES: usize = 4 << 20;

/// Text to encode.
#[derive(Debug, Default)]
pub struct Job {
    /// Number of the job, from 0.
    pub sequence: u64,
    /// Parts of documents, end to end.
    pub text: Vec<u8>,
    /// Their ends and sides.
    pub parts: Vec<Part>,
    /// Bytes of input, as stored, that were read for this job.
    pub read_bytes: u64,
}

/// A document, or a part of one, in a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where it ends in the job's text; it begins where the part before ends.
    pub end: usize,
    /// Where its ids go.
    pub side: Side,
    /// Whether it is the beginning of what this side gets of the document.
    pub begins: bool,
    /// Which input file it is from.
    pub source: usize,
}

/// Documents and text bytes of one side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Documents, or tails of documents.
    pub documents: u64,
    /// Bytes of their text.
    pub text_bytes: u64,
}

/// Takes finished jobs, and gives an empty one for the next.
pub type Deliver<'a> = dyn FnMut(Job) -> Result<Job> + 'a;

/// Where text can be cut: the last place in it that the tokenizer proves safe.
pub type SafeCut<'a> = dyn Fn(&[u8]) -> Option<usize> + 'a;

/// Gathers documents into jobs.
pub struct Batcher<'a> {
    split: &'a Split,
    safe_cut: &'a SafeCut<'a>,
    deliver: &'a mut Deliver<'a>,
    job: Job,
    document: Document,
    /// Documents with text so far.
    ordinal: usize,
    /// The input file being read.
    pub source: usize,
    /// Documents without any text.
    pub empty_documents: u64,
    /// What training gets.
    pub train: Tally,
    /// What validation gets.
    pub valid: Tally,
}

/// The document that is arriving.
#[derive(Default)]
struct Document {
    /// Where its part in the current job begins.
    start: usize,
    /// Bytes of it in parts before.
    before: u64,
    side: Option<Side>,
    /// Whether its side got a part of it already.
    begun: bool,
    /// Where its tail may begin, and how many bytes to search for a line start.
    tail: Option<(u64, u64)>,
    /// No safe cut is before this length of the job.
    uncut: usize,
}

impl<'a> Batcher<'a> {
    /// A batcher that hands its jobs to `deliver`.
    pub fn new(
        split: &'a Split,
        safe_cut: &'a SafeCut<'a>,
        deliver: &'a mut Deliver<'a>,
        job: Job,
    ) -> Self {
        let document = Document {
            tail: split.tail(0),
            ..Document::default()
        };
        Self {
            split,
            safe_cut,
            deliver,
            job,
            document,
            ordinal: 0,
            source: 0,
            empty_documents: 0,
            train: Tally::default(),
            valid: Tally::default(),
        }
    }

    /// Delivers the last job.
    ///
    /// # Errors
    /// Those of the receiver.
    pub fn finish(&mut self) -> Result<()> {
        self.deliver_before(self.job.text.len())
    }

    /// The length of the job at which something is to be decided.
    fn next_stop(&self) -> usize {
        let limit = JOB_BYTES.max(self.document.uncut);
        let Some((first, search)) = self.document.tail else {
            return limit;
        };
        // In this job's positions; the byte before tells whether a line starts there.
        let window = self.in_job(first - 1)..self.in_job(first + search);
        if limit < window.start {
            limit
        } else {
            window.end
        }
    }

    fn in_job(&self, position: u64) -> usize {
        self.document.start + (position - self.document.before) as usize
    }

    /// Decides what is due at this length of the job.
    fn stop(&mut self) -> Result<()> {
        if let Some((first, search)) = self.document.tail
            && self.job.text.len() == self.in_job(first + search)
        {
            return self.begin_tail(first);
        }
        if self.document.start > 0 {
            return self.deliver_before(self.document.start);
        }
        if let Some(cut) = (self.safe_cut)(&self.job.text).filter(|&cut| cut > 0) {
            return self.cut(cut);
        }
        if self.job.text.len() < UNCUT_BYTES {
            self.document.uncut = (self.job.text.len() * 2).min(UNCUT_BYTES);
            return Ok(());
        }
        self.cut(edge(&self.job.text))
    }

    /// Ends the training part of the document; the rest of it is for validation.
    fn begin_tail(&mut self, first: u64) -> Result<()> {
        let before = self.in_job(first - 1);
        let end = before + tail_start(&self.job.text[before..]);
        self.document.tail = None;
        self.close_part(end);
        self.document.side = Some(Side::Valid);
        self.document.begun = false;
        Ok(())
    }

    /// Ends a job in the middle of a document.
    fn cut(&mut self, end: usize) -> Result<()> {
        self.close_part(end);
        self.deliver_before(end)
    }

    /// Makes the text of the document up to `end` a part.
    fn close_part(&mut self, end: usize) {
        let start = self.document.start;
        if end == start {
            return;
        }
        let split = self.split;
        let head = &self.job.text[start..];
        let side = *self.document.side.get_or_insert_with(|| split.side(head));
        let begins = !std::mem::replace(&mut self.document.begun, true);
        self.job.parts.push(Part {
            end,
            side,
            begins,
            source: self.source,
        });
        let tally = if side == Side::Train {
            &mut self.train
        } else {
            &mut self.valid
        };
        tally.documents += u64::from(begins);
        tally.text_bytes += (end - start) as u64;
        self.document.before += (end - start) as u64;
        self.document.start = end;
    }

    /// Delivers the first `end` bytes, all of them in parts, and keeps the rest for the next job.
    fn deliver_before(&mut self, end: usize) -> Result<()> {
        if end == 0 {
            return Ok(());
        }
        let mut full = std::mem::take(&mut self.job);
        let rest = full.text.split_off(end);
        let sequence = full.sequence + 1;
        self.job = (self.deliver)(full)?;
        self.job.sequence = sequence;
        self.job.text.clear();
        self.job.text.extend_from_slice(&rest);
        self.job.parts.clear();
        self.job.read_bytes = 0;
        self.document.start -= end;
        self.document.uncut = 0;
        Ok(())
    }
}

impl Sink for Batcher<'_> {
    fn text(&mut self, mut text: &[u8]) -> Result<()> {
        while !text.is_empty() {
            let room = self.next_stop().saturating_sub(self.job.text.len());
            if room == 0 {
                self.stop()?;
                continue;
            }
            let (now, later) = text.split_at(room.min(text.len()));
            self.job.text.extend_from_slice(now);
            text = later;
        }
        Ok(())
    }

    fn end_document(&mut self) -> Result<()> {
        self.close_part(self.job.text.len());
        if self.document.before == 0 {
            self.empty_documents += 1;
        } else {
            self.ordinal += 1;
        }
        self.document = Document {
            start: self.job.text.len(),
            tail: self.split.tail(self.ordinal),
            ..Document::default()
        };
        Ok(())
    }

    fn read_bytes(&mut self, bytes: u64) {
        self.job.read_bytes += bytes;
    }
}

/// Where text without a safe cut is cut: at the last line start of its second half, else at
/// the end of the last whole character.
fn edge(text: &[u8]) -> usize {
    let half = text.len() / 2;
    if let Some(line_end) = memchr::memrchr(b'\n', &text[half..text.len() - 1]) {
        return half + line_end + 1;
    }
    character_edge(text)
}
