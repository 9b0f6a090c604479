//! One text or many on several threads.
//!
//! There is no pool: threads end with the call. Each takes the next part until none is left, and brings
//! the ids of what it has done to their place ([`Gathered`]).

use crate::control::Control;
use crate::error::Result;
use crate::gather::Gathered;
use crate::parts::{Part, Parts, TextSource};
use crate::sink::Ids;
use crate::specials::SpecialRule;
use crate::tokenizer::{Encoder, Tokenizer};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// Less text than this does not pay for a thread.
const BYTES_PER_THREAD: usize = 256 << 10;
/// A part of a large text that one thread takes at a time.
const LARGE_PART: usize = 256 << 10;

/// A thread that encodes parts of a text.
struct Worker<'t> {
    encoder: Encoder<'t>,
    /// The memory of the last part's text.
    text: Vec<u8>,
    /// That of parts' ids.
    free: Vec<Vec<u32>>,
}

impl<'t> Worker<'t> {
    fn new(tokenizer: &'t Tokenizer) -> Self {
        Self {
            encoder: tokenizer.encoder(),
            text: Vec::new(),
            free: Vec::new(),
        }
    }

    /// Hands on the ids of a part, which `work` appends to what it is given.
    fn encode<T>(
        &mut self,
        gathered: &Gathered,
        number: usize,
        work: impl FnOnce(&mut Encoder<'t>, &mut Ids<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut ids = self.free.pop().unwrap_or_default();
        let done = work(&mut self.encoder, &mut Ids(&mut ids))?;
        gathered.put(number, ids, &mut self.free);
        Ok(done)
    }
}

impl Tokenizer {
    /// [`Tokenizer::encode`] on so many threads.
    pub(crate) fn encode_on_threads(
        &self,
        text: &[u8],
        rule: &SpecialRule,
        threads: usize,
        control: &Control,
    ) -> Result<Vec<u32>> {
        let size = (text.len() / (threads * 4)).clamp(64 << 10, LARGE_PART);
        let parts = self.cut(text, rule, size);
        let gathered = Gathered::new(self.room.for_bytes(text.len()));
        in_parallel(
            threads.min(parts.len()),
            || Worker::new(self),
            numbered(parts.len()),
            |worker, job| {
                let (part, position) = (&text[parts[job].clone()], parts[job].start);
                worker.encode(&gathered, job, |encoder, ids| {
                    encoder.run(part, position, rule, control, ids)
                })
            },
        )?;
        Ok(self.fitted(gathered, text.len()))
    }

    /// The same of a text that comes in parts.
    pub(crate) fn encode_parts_on_threads(
        &self,
        parts: Parts<'_, impl TextSource>,
        bytes: usize,
        threads: usize,
        control: &Control,
    ) -> Result<Vec<u32>> {
        let rule = parts.rule;
        let parts = Mutex::new(parts);
        let gathered = Gathered::new(self.room.for_bytes(bytes));
        let lengths = in_parallel(
            threads,
            || Worker::new(self),
            |worker| {
                let mut parts = parts.lock().unwrap_or_else(PoisonError::into_inner);
                let part = parts.next(std::mem::take(&mut worker.text))?;
                Ok(part.map(|part| (part.number, part)))
            },
            |worker, part: Part| {
                worker.encode(&gathered, part.number, |encoder, ids| {
                    encoder.run(&part.text, part.position, rule, control, ids)
                })?;
                let length = part.text.len();
                worker.text = part.text;
                Ok(length)
            },
        )?;
        Ok(self.fitted(gathered, lengths.iter().sum()))
    }

    /// [`Tokenizer::encode_batch`] on so many threads.
    pub(crate) fn encode_batch_on_threads(
        &self,
        texts: &[&[u8]],
        rule: &SpecialRule,
        threads: usize,
        control: &Control,
    ) -> Result<(Vec<u32>, Vec<u64>)> {
        let bytes: usize = texts.iter().map(|text| text.len()).sum();
        let groups = group(texts, (bytes / (threads * 8)).max(16 << 10));
        let gathered = Gathered::new(self.room.for_bytes(bytes));
        let parts = in_parallel(
            threads.min(groups.len()),
            || Worker::new(self),
            numbered(groups.len()),
            |worker, job| {
                let texts = &texts[groups[job].clone()];
                worker.encode(&gathered, job, |encoder, ids| {
                    Ok(encoder.run_all(texts, rule, control, ids)?.0)
                })
            },
        )?;
        let mut offsets = Vec::with_capacity(texts.len() + 1);
        offsets.push(0);
        for ends in parts {
            let before = offsets[offsets.len() - 1];
            offsets.extend(ends.iter().map(|end| before + end));
        }
        Ok((self.fitted(gathered, bytes), offsets))
    }

    /// The ids of a text of so many bytes that threads have encoded.
    fn fitted(&self, gathered: Gathered, bytes: usize) -> Vec<u32> {
        let mut ids = gathered.finish();
        self.room.fit(bytes, &mut ids);
        ids
    }

    /// Cuts `text` into parts of about `size` bytes that have the ids of the whole.
    fn cut(&self, text: &[u8], rule: &SpecialRule, size: usize) -> Vec<Range<usize>> {
        let (mut parts, mut start, mut end) = (Vec::new(), 0, size);
        while end < text.len() {
            if let Some(cut) = self.safe_cut(&text[start..end], rule) {
                parts.push(start..start + cut);
                start += cut;
                end = start + size;
            } else {
                end += end - start;
            }
        }
        parts.push(start..text.len());
        parts
    }
}

/// How many threads a text of so many bytes pays for, up to what is asked for.
pub(crate) fn thread_count(threads: Option<usize>, bytes: usize) -> usize {
    let most =
        threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, Into::into));
    most.min(bytes / BYTES_PER_THREAD + 1).max(1)
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

/// Jobs 0, 1, ... for [`in_parallel`].
fn numbered<Tool>(jobs: usize) -> impl Fn(&mut Tool) -> Result<Option<(usize, usize)>> + Sync {
    let next = AtomicUsize::new(0);
    move |_| {
        let job = next.fetch_add(1, Relaxed);
        Ok((job < jobs).then_some((job, job)))
    }
}

/// The results of jobs in order. Each thread makes one tool and takes the `next` job, which comes with its
/// number, until none is left or one fails; the calling thread is one of them. Of several errors that of
/// the first job counts.
fn in_parallel<Tool, Job, T: Send>(
    threads: usize,
    tool: impl Fn() -> Tool + Sync,
    next: impl Fn(&mut Tool) -> Result<Option<(usize, Job)>> + Sync,
    work: impl Fn(&mut Tool, Job) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let failed = AtomicBool::new(false);
    let run = || {
        let (mut tool, mut done) = (tool(), Vec::new());
        while !failed.load(Relaxed) {
            let (number, result) = match next(&mut tool) {
                Ok(None) => break,
                Ok(Some((number, job))) => (number, work(&mut tool, job)),
                // Jobs taken before it come first.
                Err(error) => (usize::MAX, Err(error)),
            };
            if result.is_err() {
                failed.store(true, Relaxed);
            }
            done.push((number, result));
        }
        done
    };
    let mut done = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(run)).collect();
        let mut done = run();
        for other in others {
            done.extend(
                other
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            );
        }
        done
    });
    done.sort_unstable_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}
