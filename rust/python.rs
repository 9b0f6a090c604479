//! The border: the only file that names pyo3 or numpy. Its signatures are `python/microgpt/_core.pyi`.
//!
//! Long work runs under [`supervised`]: on a thread of its own, while the calling thread waits without
//! the GIL and looks up every [`POLL`] to answer Ctrl-C and to report progress.

use crate::control::{Control, Stage};
use crate::count::{self, CountOptions, Counter, Counts};
use crate::error::{Error, Result};
use crate::formats::{gpt2, huggingface, tiktoken};
use crate::hash::hash_key;
use crate::kernels;
use crate::parts::TextSource;
use crate::pretokenize::{Pattern, unicode_version};
use crate::room::LARGE;
use crate::shards;
use crate::specials::{Names, SpecialRule};
use crate::tokenizer::{DecodeStream as Stream, Tokenizer as Core};
use crate::train::{Tie, TrainOptions, train};
use crate::transcode::push_utf8;
use numpy::ndarray::{ArrayView1, Axis, Slice};
use numpy::{
    Element, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadwriteArray1,
    PyUntypedArrayMethods,
};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyKeyboardInterrupt, PyOSError, PyTypeError};
use pyo3::ffi;
use pyo3::import_exception;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyInt, PyList, PyString};
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

import_exception!(microgpt.errors, UsageError);
import_exception!(microgpt.errors, DataError);

/// Bytes of text that are taken from an iterator before they are counted.
const TEXTS_BYTES: usize = 16 << 20;
/// How long the calling thread waits between two looks at signals and progress.
const POLL: Duration = Duration::from_millis(50);
/// Less text than this is encoded before anybody could press Ctrl-C.
const SUPERVISED_BYTES: usize = 4 << 20;
/// Ids decoded between two looks at signals.
const DECODE_CHUNK: usize = 1 << 18;

/// The Python exception that says what `error` says.
fn to_python(error: Error) -> PyErr {
    match error {
        Error::Usage(_) => UsageError::new_err(error.to_string()),
        Error::Format { .. } => DataError::new_err(error.to_string()),
        Error::Interrupted => PyKeyboardInterrupt::new_err(()),
        Error::Io {
            ref path,
            ref source,
            ..
        } => match source.raw_os_error() {
            Some(number) => {
                // Rust appends " (os error 2)", Python puts "[Errno 2]" before it.
                let said = source.to_string();
                let reason = said
                    .split(" (os error")
                    .next()
                    .unwrap_or_default()
                    .to_owned();
                PyOSError::new_err((number, reason, path.clone().into_os_string()))
            }
            None => PyOSError::new_err(error.to_string()),
        },
    }
}

/// The result of `work`, which runs on another thread and heeds `control`; the calling thread raises
/// what a signal handler or `progress(stage, done, total, pieces)` raises, once the work has stopped.
fn supervised<T: Send>(
    py: Python<'_>,
    control: &Control,
    progress: Option<&Bound<'_, PyAny>>,
    work: impl FnOnce() -> Result<T> + Send,
) -> PyResult<T> {
    let report = || -> PyResult<()> {
        py.check_signals()?;
        if let Some(progress) = progress {
            let (stage, done, total) = control.progress();
            progress.call1((stage.name(), done, total, control.pieces()))?;
        }
        Ok(())
    };
    let finished = AtomicBool::new(false);
    let waiting = std::thread::current();
    let (result, raised) = std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let result = work();
            finished.store(true, Relaxed);
            waiting.unpark();
            result
        });
        let mut raised = None;
        while !finished.load(Relaxed) && !worker.is_finished() {
            py.detach(|| std::thread::park_timeout(POLL));
            if raised.is_none()
                && let Err(error) = report()
            {
                control.stop();
                raised = Some(error);
            }
        }
        (py.detach(|| worker.join()), raised)
    });
    match (raised, result) {
        (Some(error), _) => Err(error),
        (None, Ok(Ok(result))) => report().map(|()| result),
        (None, Ok(Err(error))) => Err(to_python(error)),
        (None, Err(panic)) => std::panic::resume_unwind(panic),
    }
}

/// The result of work on `bytes` of text: supervised where it may last.
fn on_text<T: Send>(
    py: Python<'_>,
    bytes: usize,
    work: impl FnOnce(&Control) -> Result<T> + Send,
) -> PyResult<T> {
    let control = Control::new();
    if bytes < SUPERVISED_BYTES {
        py.detach(|| work(&control)).map_err(to_python)
    } else {
        supervised(py, &control, None, || work(&control))
    }
}

/// The bytes of a str, bytes, bytearray or memoryview; the last two, which may change under our
/// hands, are copied.
fn text_bytes<'a>(text: &'a Bound<'_, PyAny>) -> PyResult<Cow<'a, [u8]>> {
    if let Ok(text) = text.cast::<PyString>() {
        let utf8 = text
            .to_str()
            .map_err(|_| UsageError::new_err(LONE_SURROGATE))?;
        return Ok(Cow::Borrowed(utf8.as_bytes()));
    }
    if let Ok(text) = text.cast::<PyBytes>() {
        return Ok(Cow::Borrowed(text.as_bytes()));
    }
    match PyBuffer::<u8>::get(text) {
        Ok(buffer) => Ok(Cow::Owned(buffer.to_vec(text.py())?)),
        Err(_) => Err(PyTypeError::new_err(format!(
            "text is str or bytes, not {}",
            text.get_type().name()?
        ))),
    }
}

const LONE_SURROGATE: &str = "the text holds a lone surrogate, which UTF-8 cannot write; replace it with text.encode('utf-8', 'replace')";

/// A text that is there, or one that is made while it is encoded.
enum Text<'a> {
    Bytes(Cow<'a, [u8]>),
    Characters(Characters),
}

/// A str whose UTF-8 is made while it is encoded, several times quicker than CPython makes it and not
/// kept in the str.
struct Characters {
    text: Py<PyString>,
    length: usize,
    done: usize,
    codes: Vec<u32>,
}

impl Characters {
    /// A large str that is not ASCII; `None` for any other (what is ASCII is its own UTF-8), and where a
    /// character has 16 bits in C.
    fn of(text: &Bound<'_, PyString>) -> PyResult<Option<Self>> {
        let length = text.len()?;
        if cfg!(windows)
            || length < TRANSCODED
            || text
                .call_method0(intern!(text.py(), "isascii"))?
                .is_truthy()?
        {
            return Ok(None);
        }
        Ok(Some(Self {
            text: text.clone().unbind(),
            length,
            done: 0,
            codes: vec![0; TRANSCODED],
        }))
    }
}

impl TextSource for Characters {
    fn read(&mut self, text: &mut Vec<u8>, wanted: usize) -> Result<bool> {
        Python::attach(|py| {
            while text.len() < wanted {
                if self.done == self.length {
                    return Ok(false);
                }
                let count = TRANSCODED.min(self.length - self.done);
                let (start, end) = (self.done as ffi::Py_ssize_t, (self.done + count) as _);
                // SAFETY: the text is a str, there is room for as many characters as the part has, and a
                // `wchar_t` of 32 bits is a code point.
                unsafe {
                    let part = ffi::PyUnicode_Substring(self.text.as_ptr(), start, end);
                    let part = Bound::from_owned_ptr_or_err(py, part)
                        .map_err(|error| Error::usage(format!("the text: {error}")))?;
                    let codes = self.codes.as_mut_ptr().cast();
                    ffi::PyUnicode_AsWideChar(part.as_ptr(), codes, count as ffi::Py_ssize_t);
                }
                self.done += count;
                if !push_utf8(&self.codes[..count], text) {
                    return Err(Error::usage(LONE_SURROGATE));
                }
            }
            Ok(true)
        })
    }
}

/// `None` for all special tokens, else those named.
fn rule(allowed: Option<Vec<String>>, refused: Option<Vec<String>>) -> SpecialRule {
    let names = |given: Option<Vec<String>>| match given {
        None => Names::All,
        Some(names) if names.is_empty() => Names::None,
        Some(names) => Names::Some(names),
    };
    SpecialRule {
        allowed: names(allowed),
        refused: names(refused),
    }
}

/// What is counted: an object with one of these sets of attributes.
#[derive(FromPyObject)]
enum Corpus {
    /// Documents of any format, as a dataset is made from them.
    Documents(Source),
    Files {
        files: Vec<PathBuf>,
    },
    /// Count files.
    Saved {
        counts: Vec<PathBuf>,
    },
    Texts {
        texts: Py<PyAny>,
    },
}

impl Corpus {
    /// What is to blame where there is nothing in it.
    fn name(&self) -> &Path {
        let (files, name) = match self {
            Self::Documents(_) => (None, "<documents>"),
            Self::Files { files } => (files.first(), "<files>"),
            Self::Saved { counts } => (counts.first(), "<counts>"),
            Self::Texts { .. } => (None, "<texts>"),
        };
        files.map_or(Path::new(name), PathBuf::as_path)
    }
}

/// How pieces are counted (`microgpt.text.tokenizer.Counting`).
#[derive(FromPyObject)]
struct Counting {
    pattern: String,
    special_tokens: Vec<String>,
    threads: Option<usize>,
    memory: Option<usize>,
}

/// What ends training, and how it decides (`microgpt.text.tokenizer.Goal`).
#[derive(FromPyObject)]
struct Goal {
    vocab_size: Option<usize>,
    epochs: Option<usize>,
    tie: String,
}

/// A count that has been checked before any text is read.
struct Count {
    pattern: Pattern,
    special_tokens: Vec<String>,
    options: CountOptions,
}

impl Count {
    /// Of a corpus, as asked for; count files say themselves how they were counted.
    fn new(corpus: &Corpus, counting: Counting) -> Result<Self> {
        let threads = counting.threads;
        let threads =
            threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, Into::into));
        let (pattern, special_tokens) = match corpus {
            Corpus::Saved { counts } => {
                let counted = count::agreed(counts)?;
                (counted.pattern, counted.special_tokens)
            }
            _ => (Pattern::named(&counting.pattern)?, counting.special_tokens),
        };
        Core::byte(&special_tokens)?;
        Ok(Self {
            pattern,
            special_tokens,
            options: CountOptions {
                threads,
                memory: counting.memory,
            },
        })
    }

    /// Counts a corpus; the calling thread holds the GIL.
    fn run<'a>(
        &'a self,
        py: Python<'_>,
        corpus: Corpus,
        control: &Control,
        progress: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Counter<'a>> {
        let counter = Counter::new(&self.pattern, &self.special_tokens, self.options);
        let mut counter = counter.map_err(to_python)?;
        match corpus {
            Corpus::Documents(source) => {
                let source = source.options()?;
                supervised(py, control, progress, || {
                    let mut count = |texts: &[&[u8]]| counter.add_texts(texts, control);
                    let (search, reading) = (&source.search, &source.reading);
                    shards::for_each_batch(search, reading, &self.pattern, control, &mut count)
                })?;
            }
            Corpus::Files { files } => {
                supervised(py, control, progress, || {
                    control.begin(Stage::Count, total_bytes(&files)?);
                    counter.add_files(&files, control)
                })?;
            }
            Corpus::Saved { counts } => {
                supervised(py, control, progress, || {
                    counter.add_saved(&counts, control)
                })?;
            }
            Corpus::Texts { texts } => {
                control.begin(Stage::Count, 0);
                for_each_texts(texts.bind(py), |texts| {
                    supervised(py, control, progress, || counter.add_texts(texts, control))
                })?;
            }
        }
        Ok(counter)
    }
}

fn total_bytes(files: &[PathBuf]) -> Result<u64> {
    if files.is_empty() {
        return Err(Error::usage("there is no file to count: name at least one"));
    }
    let bytes = |file: &PathBuf| {
        let found = file.metadata().map_err(Error::io("cannot read", file));
        Ok(found?.len())
    };
    files.iter().map(bytes).sum()
}

/// Takes texts from an iterator, some megabytes at a time.
fn for_each_texts(
    texts: &Bound<'_, PyAny>,
    mut each: impl FnMut(&[&[u8]]) -> PyResult<()>,
) -> PyResult<()> {
    let mut texts = texts.try_iter()?;
    let (mut held, mut ends) = (Vec::new(), Vec::new());
    loop {
        held.clear();
        ends.clear();
        while held.len() < TEXTS_BYTES
            && let Some(text) = texts.next()
        {
            held.extend_from_slice(&text_bytes(&text?)?);
            ends.push(held.len());
        }
        if ends.is_empty() {
            return Ok(());
        }
        let starts = std::iter::once(&0).chain(&ends);
        let batch: Vec<&[u8]> = starts
            .zip(&ends)
            .map(|(&start, &end)| &held[start..end])
            .collect();
        each(&batch)?;
    }
}

fn require_text(counts: &Counts, name: &Path) -> Result<()> {
    if counts.is_empty() {
        return Err(Error::format(name, "there is no text here to train on"));
    }
    Ok(())
}

/// Characters of a str that are transcoded together; a shorter one is left to CPython.
const TRANSCODED: usize = 16 << 10;

/// Flat ids, and places in them or in their text.
type IdsAndOffsets<'py> = (Bound<'py, PyArray1<u32>>, Bound<'py, PyArray1<u64>>);

/// Text <-> ids; immutable.
#[pyclass(frozen, module = "microgpt._core")]
struct Tokenizer {
    core: Arc<Core>,
    integers: Integers,
    /// A hash of where the last text stood that was transcoded, and of its length: one that comes again
    /// is worth keeping, and another often takes the place of one that is gone.
    transcoded: AtomicU64,
}

/// The memory behind an array of ids.
#[pyclass(frozen, module = "microgpt._core")]
struct Lent {
    ids: Vec<u32>,
    /// The tokenizer, if it is still there.
    core: Weak<Core>,
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(core) = self.core.upgrade() {
            core.recycle(std::mem::take(&mut self.ids));
        }
    }
}

/// An int object for each id, made by the first call that returns lists: one reference costs less than
/// a new object an id.
type Integers = PyOnceLock<Vec<Py<PyInt>>>;

impl From<Core> for Tokenizer {
    fn from(core: Core) -> Self {
        Self {
            core: Arc::new(core),
            integers: PyOnceLock::new(),
            transcoded: AtomicU64::new(0),
        }
    }
}

impl Tokenizer {
    /// The ids of all texts, and where each text's begin.
    fn encode_texts(
        &self,
        py: Python<'_>,
        texts: &[Bound<'_, PyAny>],
        allowed: Option<Vec<String>>,
        refused: Option<Vec<String>>,
        threads: Option<usize>,
    ) -> PyResult<(Vec<u32>, Vec<u64>)> {
        let held = texts.iter().map(text_bytes).collect::<PyResult<Vec<_>>>()?;
        let texts: Vec<&[u8]> = held.iter().map(AsRef::as_ref).collect();
        let (rule, bytes) = (
            rule(allowed, refused),
            texts.iter().map(|text| text.len()).sum(),
        );
        on_text(py, bytes, |control| {
            self.core.encode_batch(&texts, &rule, threads, control)
        })
    }

    /// A text. The first call with a large str makes its UTF-8 part by part; from the second on the str
    /// keeps it, which takes as much memory again and no time.
    fn text<'a>(&self, text: &'a Bound<'_, PyAny>) -> PyResult<Text<'a>> {
        if let Ok(string) = text.cast::<PyString>()
            && let Some(characters) = Characters::of(string)?
            && let place = hash_key((string.as_ptr() as u128) << 64 | characters.length as u128)
            && self.transcoded.swap(place, Relaxed) != place
        {
            return Ok(Text::Characters(characters));
        }
        text_bytes(text).map(Text::Bytes)
    }

    /// The ids of one text.
    fn ids(
        &self,
        text: &Bound<'_, PyAny>,
        allowed: Option<Vec<String>>,
        refused: Option<Vec<String>>,
        threads: Option<usize>,
    ) -> PyResult<Vec<u32>> {
        let (py, core, rule) = (text.py(), &self.core, rule(allowed, refused));
        match self.text(text)? {
            Text::Bytes(text) => on_text(py, text.len(), |control| {
                core.encode(&text, &rule, threads, control)
            }),
            Text::Characters(text) => on_text(py, text.length, |control| {
                let bytes = text.length;
                core.encode_source(text, bytes, &rule, threads, control)
            }),
        }
    }

    /// Ids as an array whose memory, where it is large, comes back to the tokenizer in the end.
    fn array<'py>(&self, py: Python<'py>, ids: Vec<u32>) -> PyResult<Bound<'py, PyArray1<u32>>> {
        if ids.len() < LARGE {
            return Ok(PyArray1::from_vec(py, ids));
        }
        let core = Arc::downgrade(&self.core);
        let lent = Bound::new(py, Lent { ids, core })?;
        let view = ArrayView1::from(lent.get().ids.as_slice());
        // SAFETY: the array keeps `lent` alive, which never touches its ids before it is dropped.
        Ok(unsafe { PyArray1::borrow_from_array(&view, lent.clone().into_any()) })
    }

    fn list<'py>(&self, py: Python<'py>, ids: &[u32]) -> PyResult<Bound<'py, PyList>> {
        let integers = self.integers.get_or_try_init(py, || {
            let ids = 0..self.core.vocab().size() as u32;
            let integers = ids.map(|id| Ok(id.into_pyobject(py)?.unbind()));
            integers.collect::<PyResult<_>>()
        })?;
        PyList::new(py, ids.iter().map(|&id| integers[id as usize].bind(py)))
    }

    /// Makes one by long work.
    fn make(py: Python<'_>, work: impl FnOnce() -> Result<Core> + Send) -> PyResult<Self> {
        Ok(supervised(py, &Control::new(), None, work)?.into())
    }
}

#[pymethods]
impl Tokenizer {
    #[staticmethod]
    fn byte(special_tokens: Vec<String>) -> PyResult<Self> {
        Ok(Core::byte(&special_tokens).map_err(to_python)?.into())
    }

    #[staticmethod]
    fn from_merges(
        py: Python<'_>,
        merges: Vec<(u32, u32)>,
        pattern: &str,
        special_tokens: Vec<String>,
    ) -> PyResult<Self> {
        let pattern = Pattern::named(pattern).map_err(to_python)?;
        Self::make(py, || Core::from_merges(&merges, pattern, &special_tokens))
    }

    #[staticmethod]
    fn train(
        py: Python<'_>,
        corpus: Corpus,
        counting: Counting,
        goal: Goal,
        progress: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let (name, memory) = (corpus.name().to_owned(), counting.memory);
        let count = Count::new(&corpus, counting).map_err(to_python)?;
        let options = TrainOptions {
            vocab_size: goal.vocab_size,
            epochs: goal.epochs,
            tie: Tie::named(&goal.tie).map_err(to_python)?,
            special_count: count.special_tokens.len(),
            memory,
            threads: count.options.threads,
        };
        options.check().map_err(to_python)?;
        let control = Control::new();
        let counter = count.run(py, corpus, &control, progress)?;
        let core = supervised(py, &control, progress, || {
            let counts = counter.finish(&control)?;
            require_text(&counts, &name)?;
            let merges = train(counts, &options, &control)?;
            let Count {
                pattern,
                special_tokens,
                ..
            } = &count;
            Core::from_merges(&merges.pairs, pattern.clone(), special_tokens)
        })?;
        Ok(core.into())
    }

    #[staticmethod]
    fn load_huggingface(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        Self::make(py, || huggingface::load(&path))
    }

    #[staticmethod]
    fn load_json(py: Python<'_>, json: &str) -> PyResult<Self> {
        Self::make(py, || {
            huggingface::from_bytes(json.as_bytes(), Path::new("<memory>"))
        })
    }

    #[staticmethod]
    fn load_tiktoken(
        py: Python<'_>,
        path: PathBuf,
        pattern: &str,
        special_tokens: Option<Vec<(String, u32)>>,
    ) -> PyResult<Self> {
        let pattern = Pattern::named(pattern).map_err(to_python)?;
        Self::make(py, || tiktoken::load(&path, pattern, special_tokens))
    }

    #[staticmethod]
    fn load_gpt2(py: Python<'_>, vocab: PathBuf, merges: PathBuf) -> PyResult<Self> {
        Self::make(py, || gpt2::load(&vocab, &merges))
    }

    fn save_huggingface(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        py.detach(|| huggingface::save(&self.core, &path))
            .map_err(to_python)
    }

    fn save_tiktoken(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        py.detach(|| tiktoken::save(&self.core, &path))
            .map_err(to_python)
    }

    fn save_gpt2(&self, py: Python<'_>, vocab: PathBuf, merges: PathBuf) -> PyResult<()> {
        py.detach(|| gpt2::save(&self.core, &vocab, &merges))
            .map_err(to_python)
    }

    fn to_json(&self, py: Python<'_>) -> PyResult<String> {
        py.detach(|| {
            huggingface::require_plain_merges(&self.core, Path::new("<memory>"))?;
            Ok(huggingface::to_json(&self.core))
        })
        .map_err(to_python)
    }

    fn encode<'py>(
        &self,
        py: Python<'py>,
        text: &Bound<'py, PyAny>,
        allowed: Option<Vec<String>>,
        refused: Option<Vec<String>>,
        threads: Option<usize>,
    ) -> PyResult<Bound<'py, PyArray1<u32>>> {
        self.array(py, self.ids(text, allowed, refused, threads)?)
    }

    fn encode_with_offsets<'py>(
        &self,
        py: Python<'py>,
        text: &Bound<'py, PyAny>,
        allowed: Option<Vec<String>>,
        refused: Option<Vec<String>>,
        threads: Option<usize>,
    ) -> PyResult<IdsAndOffsets<'py>> {
        let ids = self.ids(text, allowed, refused, threads)?;
        let offsets = py.detach(|| self.core.offsets(&ids));
        Ok((self.array(py, ids)?, PyArray1::from_vec(py, offsets)))
    }

    fn encode_batch<'py>(
        &self,
        py: Python<'py>,
        texts: Vec<Bound<'py, PyAny>>,
        allowed: Option<Vec<String>>,
        refused: Option<Vec<String>>,
        threads: Option<usize>,
    ) -> PyResult<IdsAndOffsets<'py>> {
        let (ids, offsets) = self.encode_texts(py, &texts, allowed, refused, threads)?;
        Ok((self.array(py, ids)?, PyArray1::from_vec(py, offsets)))
    }

    fn encode_to_list<'py>(
        &self,
        py: Python<'py>,
        text: &Bound<'py, PyAny>,
        allowed: Option<Vec<String>>,
        refused: Option<Vec<String>>,
        threads: Option<usize>,
    ) -> PyResult<Bound<'py, PyList>> {
        let ids = self.ids(text, allowed, refused, threads)?;
        let list = self.list(py, &ids);
        self.core.recycle(ids);
        list
    }

    fn encode_batch_to_lists<'py>(
        &self,
        py: Python<'py>,
        texts: Vec<Bound<'py, PyAny>>,
        allowed: Option<Vec<String>>,
        refused: Option<Vec<String>>,
        threads: Option<usize>,
    ) -> PyResult<Vec<Bound<'py, PyList>>> {
        let (ids, offsets) = self.encode_texts(py, &texts, allowed, refused, threads)?;
        let list = |ends: &[u64]| self.list(py, &ids[ends[0] as usize..ends[1] as usize]);
        let lists = offsets.windows(2).map(list).collect();
        self.core.recycle(ids);
        lists
    }

    fn count(
        &self,
        py: Python<'_>,
        text: &Bound<'_, PyAny>,
        allowed: Option<Vec<String>>,
        refused: Option<Vec<String>>,
    ) -> PyResult<usize> {
        let (text, rule) = (self.text(text)?, rule(allowed, refused));
        match text {
            Text::Bytes(text) => on_text(py, text.len(), |control| {
                self.core.count(&text, &rule, control)
            }),
            Text::Characters(text) => on_text(py, text.length, |control| {
                let bytes = text.length;
                self.core.count_source(text, bytes, &rule, control)
            }),
        }
    }

    fn split<'py>(
        &self,
        py: Python<'py>,
        text: &Bound<'py, PyAny>,
    ) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        let text = text_bytes(text)?;
        let pieces = py.detach(|| self.core.split(&text)).map_err(to_python)?;
        let mut list = Vec::with_capacity(pieces.len());
        for some in pieces.chunks(DECODE_CHUNK) {
            py.check_signals()?;
            list.extend(some.iter().map(|piece| PyBytes::new(py, piece)));
        }
        Ok(list)
    }

    fn decode_bytes<'py>(
        &self,
        py: Python<'py>,
        ids: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &decode(py, &self.core, ids)?))
    }

    /// The text of ids, `errors` as `bytes.decode` has it.
    fn decode<'py>(
        &self,
        py: Python<'py>,
        ids: &Bound<'py, PyAny>,
        errors: &str,
    ) -> PyResult<Bound<'py, PyAny>> {
        let bytes = decode(py, &self.core, ids)?;
        match std::str::from_utf8(&bytes) {
            Ok(text) => Ok(PyString::new(py, text).into_any()),
            Err(_) => PyBytes::new(py, &bytes).call_method1("decode", ("utf-8", errors)),
        }
    }

    fn decode_stream(&self) -> DecodeStream {
        DecodeStream {
            tokenizer: self.core.clone(),
            stream: Mutex::default(),
        }
    }

    fn token_bytes<'py>(&self, py: Python<'py>, id: i64) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, token(&self.core, id)?))
    }

    fn token_id(&self, token: &Bound<'_, PyAny>) -> PyResult<Option<u32>> {
        Ok(self.core.vocab().id(&text_bytes(token)?))
    }

    /// The bytes of every id, None for a gap.
    fn tokens<'py>(&self, py: Python<'py>) -> Vec<Option<Bound<'py, PyBytes>>> {
        let tokens = self.core.vocab().tokens();
        (0..tokens.len() as u32)
            .map(|id| tokens.get(id))
            .map(|token| (!token.is_empty()).then(|| PyBytes::new(py, token)))
            .collect()
    }

    fn unreachable_ids<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<u32>>> {
        let ids = py.detach(|| self.core.unreachable()).map_err(to_python)?;
        Ok(PyArray1::from_vec(py, ids))
    }

    #[getter]
    fn vocab_size(&self) -> usize {
        self.core.vocab().size()
    }

    #[getter]
    fn kind(&self) -> &str {
        self.core.kind()
    }

    #[getter]
    fn pattern(&self) -> &str {
        match self.core.pattern().name() {
            "custom" => self.core.pattern().regex(),
            name => name,
        }
    }

    #[getter]
    fn special_tokens<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let specials = PyDict::new(py);
        for special in self.core.vocab().specials() {
            specials.set_item(&special.text, special.id)?;
        }
        Ok(specials)
    }

    #[getter]
    fn end_of_text_id(&self) -> Option<u32> {
        self.core.vocab().end_of_text()
    }

    #[getter]
    fn merges<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<u32>>> {
        let merges = self.core.vocab().merges();
        let flat = merges
            .iter()
            .flat_map(|&(left, right)| [left, right])
            .collect();
        PyArray1::from_vec(py, flat).reshape([merges.len(), 2])
    }

    #[getter]
    fn fingerprint(&self, py: Python<'_>) -> &str {
        py.detach(|| self.core.fingerprint())
    }
}

/// The ids in a list of ints, which NumPy takes long to read; None where an item is anything else.
#[pyfunction]
fn listed_ids<'py>(list: &Bound<'py, PyList>) -> Option<Bound<'py, PyArray1<u32>>> {
    let id = |item: Bound<'py, PyAny>| item.cast_exact::<PyInt>().ok()?.extract::<u32>().ok();
    let ids = list.iter().map(id).collect::<Option<Vec<u32>>>()?;
    Some(PyArray1::from_vec(list.py(), ids))
}

/// The bytes of `ids`, a one-dimensional integer array.
fn decode(py: Python<'_>, core: &Core, ids: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    if let Ok(ids) = ids.extract::<PyReadonlyArray1<'_, u32>>() {
        return decode_array(py, core, &ids, i64::from);
    }
    if let Ok(ids) = ids.extract::<PyReadonlyArray1<'_, u16>>() {
        return decode_array(py, core, &ids, i64::from);
    }
    if let Ok(ids) = ids.extract::<PyReadonlyArray1<'_, i64>>() {
        return decode_array(py, core, &ids, |id| id);
    }
    Err(PyTypeError::new_err(
        "ids are a one-dimensional array of uint16, uint32 or int64",
    ))
}

/// Decodes chunk by chunk: the array, which other threads may write, is read with the GIL held, and
/// the bytes are joined without it.
fn decode_array<T: Element + Copy>(
    py: Python<'_>,
    core: &Core,
    ids: &PyReadonlyArray1<'_, T>,
    widen: impl Fn(T) -> i64,
) -> PyResult<Vec<u8>> {
    let mut bytes = Vec::with_capacity(ids.len() * 5);
    let (view, mut chunk) = (ids.as_array(), Vec::new());
    for start in (0..ids.len()).step_by(DECODE_CHUNK) {
        chunk.clear();
        chunk.reserve(DECODE_CHUNK);
        let end = ids.len().min(start + DECODE_CHUNK);
        for &id in view.slice_axis(Axis(0), Slice::from(start..end)) {
            let id = widen(id);
            chunk.push(u32::try_from(id).map_err(|_| to_python(core.no_token(id)))?);
        }
        py.detach(|| core.decode_into(&chunk, &mut bytes))
            .map_err(to_python)?;
        py.check_signals()?;
    }
    Ok(bytes)
}

/// The bytes of one id.
fn token(core: &Core, id: i64) -> PyResult<&[u8]> {
    let found = u32::try_from(id)
        .map_err(|_| core.no_token(id))
        .and_then(|id| core.token(id));
    found.map_err(to_python)
}

/// Ids in, text out, never half a character.
#[pyclass(frozen, module = "microgpt._core")]
struct DecodeStream {
    tokenizer: Arc<Core>,
    stream: Mutex<Stream>,
}

#[pymethods]
impl DecodeStream {
    fn push(&self, id: i64) -> PyResult<String> {
        let token = token(&self.tokenizer, id)?;
        Ok(self
            .stream
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(token))
    }

    fn finish(&self) -> String {
        self.stream
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .finish()
    }
}

/// What a dataset is read from: an object with these attributes (`microgpt.data.prepare.Source`).
#[derive(FromPyObject)]
struct Source {
    inputs: Vec<PathBuf>,
    include: Vec<String>,
    format: String,
    separator: String,
    field: String,
    valid_fraction: Option<f64>,
    seed: u64,
    special_tokens: Vec<String>,
    standard_input: Option<PathBuf>,
}

impl Source {
    fn options(self) -> PyResult<shards::Options> {
        Ok(shards::Options {
            search: shards::Search {
                names: self.inputs,
                include: self.include,
                format: shards::Format::parse(&self.format).map_err(to_python)?,
                standard_input: self.standard_input,
            },
            reading: shards::Reading {
                separator: self.separator,
                field: self.field,
            },
            split: shards::SplitOptions {
                fraction: self.valid_fraction,
                seed: self.seed,
            },
            special_tokens: self.special_tokens,
            shard_tokens: shards::SHARD_TOKENS,
            threads: None,
        })
    }
}

#[pyfunction]
#[pyo3(signature = (tokenizer, folder, source, *, shard_tokens, threads, progress))]
fn write_dataset(
    tokenizer: &Bound<'_, Tokenizer>,
    folder: PathBuf,
    source: Source,
    shard_tokens: u64,
    threads: Option<usize>,
    progress: Option<&Bound<'_, PyAny>>,
) -> PyResult<String> {
    let py = tokenizer.py();
    let options = shards::Options {
        shard_tokens,
        threads,
        ..source.options()?
    };
    let core = &*tokenizer.get().core;
    let control = Control::new();
    let manifest = supervised(py, &control, progress, || {
        let encoder = shards::DocumentEncoder::new(core, &options.special_tokens);
        shards::write_dataset(&encoder, &folder, &options, &control)
    })?;
    Ok(manifest.to_json())
}

/// Saves the counts of a corpus; returns its distinct pieces and its bytes.
#[pyfunction]
fn save_counts(
    py: Python<'_>,
    corpus: Corpus,
    counting: Counting,
    path: PathBuf,
    progress: Option<&Bound<'_, PyAny>>,
) -> PyResult<(usize, u64)> {
    let name = corpus.name().to_owned();
    let count = Count::new(&corpus, counting).map_err(to_python)?;
    let control = Control::new();
    let counter = count.run(py, corpus, &control, progress)?;
    supervised(py, &control, progress, || {
        let counts = counter.finish_sorted(&control)?;
        require_text(&counts, &name)?;
        let Count {
            pattern,
            special_tokens,
            ..
        } = &count;
        count::save(&counts, pattern, special_tokens, &path, &control)?;
        Ok((counts.len(), counts.text_bytes()))
    })
}

/// Bytes of text that count files stand for, all together.
#[pyfunction]
fn counted_bytes(py: Python<'_>, counts: Vec<PathBuf>) -> PyResult<u64> {
    let counted = py.detach(|| count::agreed(&counts)).map_err(to_python)?;
    Ok(counted.text_bytes)
}

#[pyfunction]
#[pyo3(signature = (source, *, progress))]
fn input_fingerprint(
    py: Python<'_>,
    source: Source,
    progress: Option<&Bound<'_, PyAny>>,
) -> PyResult<String> {
    let (options, control) = (source.options()?, Control::new());
    supervised(py, &control, progress, || {
        shards::input_fingerprint(&options, &control)
    })
}

#[pyfunction]
fn list_inputs(py: Python<'_>, source: Source) -> PyResult<Vec<(PathBuf, u64)>> {
    let options = source.options()?;
    let files = py.detach(|| options.search.files()).map_err(to_python)?;
    let facts = files.into_iter().map(|file| (file.path, file.bytes));
    Ok(facts.collect())
}

#[pyfunction]
fn survey_inputs(py: Python<'_>, source: Source) -> PyResult<(u64, bool, usize)> {
    let (options, control) = (source.options()?, Control::new());
    let found = supervised(py, &control, None, || {
        shards::survey(&options.search, &options.reading, &control)
    })?;
    Ok((
        found.text_bytes,
        found.several_documents,
        found.distinct_bytes,
    ))
}

#[pyfunction]
#[pyo3(signature = (folder, *, progress))]
fn verify_dataset(
    py: Python<'_>,
    folder: PathBuf,
    progress: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let control = Control::new();
    supervised(py, &control, progress, || {
        shards::verify_dataset(&folder, &control)
    })
}

/// The version of Unicode whose letters, numbers and white space the patterns know.
#[pyfunction(name = "unicode_version")]
fn unicode() -> String {
    unicode_version().to_string()
}

// The kernels of `model/fused.py` and of Muon: flat arrays, written in place, without the GIL.
// `Matrix` arrays are float32, or uint16 that are the bits of bfloat16; all of a call are of one kind.

type In<'py> = PyReadonlyArray1<'py, f32>;
type Out<'py> = PyReadwriteArray1<'py, f32>;
type Matrix<'a, 'py> = &'a Bound<'py, PyAny>;
type Pair<'a> = (&'a [f32], &'a [f32]);
/// The first position that each position sees.
type FirstSeen<'py> = PyReadonlyArray1<'py, u32>;

fn sequences<'a>(
    length: usize,
    first_seen: Option<&'a FirstSeen<'_>>,
) -> PyResult<kernels::Sequences<'a>> {
    let first_seen = first_seen.map(|seen| seen.as_slice()).transpose()?;
    Ok(kernels::Sequences { length, first_seen })
}

fn numbers<'py, E: Element>(array: Matrix<'_, 'py>) -> PyResult<PyReadonlyArray1<'py, E>> {
    Ok(array.cast::<PyArray1<E>>()?.try_readonly()?)
}

fn room<'py, E: Element>(array: Matrix<'_, 'py>) -> PyResult<PyReadwriteArray1<'py, E>> {
    Ok(array.cast::<PyArray1<E>>()?.try_readwrite()?)
}

/// `$body` with `$kind` for the kind of numbers that `$array` holds.
macro_rules! by_kind {
    ($array:expr, $kind:ident => $body:block) => {
        if $array.cast::<PyArray1<f32>>().is_ok() {
            type $kind = f32;
            $body
        } else {
            type $kind = u16;
            $body
        }
    };
}

#[pyfunction]
#[allow(clippy::too_many_arguments)]
fn add_norm(
    py: Python<'_>,
    x: In<'_>,
    branch: Option<Matrix<'_, '_>>,
    gain: In<'_>,
    eps: f32,
    mut sum: Out<'_>,
    y: Matrix<'_, '_>,
    mut scale: Out<'_>,
    threads: usize,
) -> PyResult<()> {
    let (x, gain) = (x.as_slice()?, gain.as_slice()?);
    let (sum, scale) = (sum.as_slice_mut()?, scale.as_slice_mut()?);
    by_kind!(y, E => {
        let branch = branch.map(|branch| numbers::<E>(branch)).transpose()?;
        let branch = branch
            .as_ref()
            .map(|branch| branch.as_slice())
            .transpose()?;
        let mut y = room::<E>(y)?;
        let y = y.as_slice_mut()?;
        py.detach(|| kernels::add_norm(x, branch, gain, eps, sum, y, scale, threads));
        Ok(())
    })
}

#[pyfunction]
#[allow(clippy::too_many_arguments)]
fn norm_back(
    py: Python<'_>,
    slope: Matrix<'_, '_>,
    x: In<'_>,
    gain: In<'_>,
    scale: In<'_>,
    mut x_slope: Out<'_>,
    copy: Option<Matrix<'_, '_>>,
    mut gain_slope: Out<'_>,
    threads: usize,
) -> PyResult<()> {
    let (x, gain, scale) = (x.as_slice()?, gain.as_slice()?, scale.as_slice()?);
    let (x_slope, gain_slope) = (x_slope.as_slice_mut()?, gain_slope.as_slice_mut()?);
    by_kind!(slope, E => {
        let slope = numbers::<E>(slope)?;
        let slope = slope.as_slice()?;
        let mut copy = copy.map(|copy| room::<E>(copy)).transpose()?;
        let copy = match &mut copy {
            Some(copy) => copy.as_slice_mut()?,
            None => &mut [],
        };
        py.detach(|| {
            kernels::norm_back(slope, x, gain, scale, x_slope, copy, gain_slope, threads);
        });
        Ok(())
    })
}

/// What falls out by a key, and the share that does.
fn dropout((key, share): (u64, f32)) -> kernels::Dropout {
    kernels::Dropout {
        key,
        first_row: 0,
        share,
    }
}

#[pyfunction]
fn drop_out(
    py: Python<'_>,
    spec: (u64, f32),
    x: Matrix<'_, '_>,
    width: usize,
    threads: usize,
) -> PyResult<()> {
    by_kind!(x, E => {
        let mut x = room::<E>(x)?;
        let x = x.as_slice_mut()?;
        py.detach(|| kernels::drop_out(dropout(spec), x, width, threads));
        Ok(())
    })
}

/// What [`kernels::Mix`] says, with arrays that Python holds.
#[derive(FromPyObject)]
struct MixSpec<'py> {
    length: usize,
    taps: In<'py>,
    width: usize,
    first_seen: Option<FirstSeen<'py>>,
}

impl MixSpec<'_> {
    fn borrowed(&self) -> PyResult<kernels::Mix<'_>> {
        Ok(kernels::Mix {
            sequences: sequences(self.length, self.first_seen.as_ref())?,
            taps: self.taps.as_slice()?,
            width: self.width,
        })
    }
}

#[pyfunction]
fn mix(
    py: Python<'_>,
    spec: MixSpec<'_>,
    x: Matrix<'_, '_>,
    y: Matrix<'_, '_>,
    threads: usize,
) -> PyResult<()> {
    let spec = spec.borrowed()?;
    by_kind!(x, E => {
        let (x, mut y) = (numbers::<E>(x)?, room::<E>(y)?);
        let (x, y) = (x.as_slice()?, y.as_slice_mut()?);
        py.detach(|| kernels::mix(&spec, x, y, threads));
        Ok(())
    })
}

#[pyfunction]
fn mix_back(
    py: Python<'_>,
    spec: MixSpec<'_>,
    x: Matrix<'_, '_>,
    slope: Matrix<'_, '_>,
    mut taps_slope: Out<'_>,
    threads: usize,
) -> PyResult<()> {
    let (spec, taps_slope) = (spec.borrowed()?, taps_slope.as_slice_mut()?);
    by_kind!(x, E => {
        let (x, mut slope) = (numbers::<E>(x)?, room::<E>(slope)?);
        let (x, slope) = (x.as_slice()?, slope.as_slice_mut()?);
        py.detach(|| kernels::mix_back(&spec, x, slope, taps_slope, threads));
        Ok(())
    })
}

/// What [`kernels::Attention`] says, with arrays that Python holds.
#[derive(FromPyObject)]
struct AttentionSpec<'py> {
    length: usize,
    queries: usize,
    keys: usize,
    width: usize,
    gains: Option<(In<'py>, In<'py>)>,
    eps: f32,
    rotation: Option<(In<'py>, In<'py>)>,
    scale: f32,
    first_seen: Option<FirstSeen<'py>>,
    dropout: Option<(u64, f32)>,
}

impl AttentionSpec<'_> {
    fn borrowed(&self) -> PyResult<kernels::Attention<'_>> {
        fn slices<'a>(pair: Option<&'a (In<'_>, In<'_>)>) -> PyResult<Option<Pair<'a>>> {
            pair.map(|(a, b)| Ok((a.as_slice()?, b.as_slice()?)))
                .transpose()
        }
        Ok(kernels::Attention {
            sequences: sequences(self.length, self.first_seen.as_ref())?,
            queries: self.queries,
            keys: self.keys,
            width: self.width,
            gains: slices(self.gains.as_ref())?,
            eps: self.eps,
            rotation: slices(self.rotation.as_ref())?,
            scale: self.scale,
            dropout: self.dropout.map(dropout),
        })
    }
}

#[pyfunction]
fn attention(
    py: Python<'_>,
    spec: AttentionSpec<'_>,
    qkv: Matrix<'_, '_>,
    y: Matrix<'_, '_>,
    mut log_sums: Out<'_>,
    threads: usize,
) -> PyResult<()> {
    let (spec, log_sums) = (spec.borrowed()?, log_sums.as_slice_mut()?);
    by_kind!(qkv, E => {
        let (qkv, mut y) = (numbers::<E>(qkv)?, room::<E>(y)?);
        let (qkv, y) = (qkv.as_slice()?, y.as_slice_mut()?);
        py.detach(|| kernels::attention(&spec, qkv, y, log_sums, threads));
        Ok(())
    })
}

#[pyfunction]
#[allow(clippy::too_many_arguments)]
fn attention_back(
    py: Python<'_>,
    spec: AttentionSpec<'_>,
    slope: Matrix<'_, '_>,
    qkv: Matrix<'_, '_>,
    log_sums: In<'_>,
    qkv_slope: Matrix<'_, '_>,
    mut gain_slopes: Out<'_>,
    threads: usize,
) -> PyResult<()> {
    let (spec, log_sums) = (spec.borrowed()?, log_sums.as_slice()?);
    let gain_slopes = gain_slopes.as_slice_mut()?;
    by_kind!(qkv, E => {
        let (slope, qkv, mut out) = (numbers::<E>(slope)?, numbers::<E>(qkv)?, room::<E>(qkv_slope)?);
        let (slope, qkv, out) = (slope.as_slice()?, qkv.as_slice()?, out.as_slice_mut()?);
        py.detach(|| {
            kernels::attention_back(&spec, slope, qkv, log_sums, out, gain_slopes, threads);
        });
        Ok(())
    })
}

/// The activation of a configuration's name.
fn activation(name: &str) -> PyResult<kernels::Activation> {
    match name {
        "swiglu" => Ok(kernels::Activation::SwiGlu),
        "squared_relu" => Ok(kernels::Activation::SquaredRelu),
        _ => Err(UsageError::new_err(format!("no kernel for {name}"))),
    }
}

#[pyfunction]
fn activate(
    py: Python<'_>,
    kind: &str,
    x: Matrix<'_, '_>,
    width: usize,
    y: Matrix<'_, '_>,
    threads: usize,
) -> PyResult<()> {
    let kind = activation(kind)?;
    by_kind!(x, E => {
        let (x, mut y) = (numbers::<E>(x)?, room::<E>(y)?);
        let (x, y) = (x.as_slice()?, y.as_slice_mut()?);
        py.detach(|| kernels::activate(kind, x, width, y, threads));
        Ok(())
    })
}

#[pyfunction]
fn activate_back(
    py: Python<'_>,
    kind: &str,
    slope: Matrix<'_, '_>,
    width: usize,
    x: Matrix<'_, '_>,
    threads: usize,
) -> PyResult<()> {
    let kind = activation(kind)?;
    by_kind!(x, E => {
        let (slope, mut x) = (numbers::<E>(slope)?, room::<E>(x)?);
        let (slope, x) = (slope.as_slice()?, x.as_slice_mut()?);
        py.detach(|| kernels::activate_back(kind, slope, width, x, threads));
        Ok(())
    })
}

#[pyfunction]
fn cross_entropy(
    py: Python<'_>,
    logits: Matrix<'_, '_>,
    targets: PyReadonlyArray1<'_, i64>,
    softcap: Option<f32>,
    factor: f32,
    threads: usize,
) -> PyResult<f64> {
    let targets = targets.as_slice()?;
    by_kind!(logits, E => {
        let mut logits = room::<E>(logits)?;
        let logits = logits.as_slice_mut()?;
        Ok(py.detach(|| kernels::cross_entropy(logits, targets, softcap, factor, threads)))
    })
}

#[pyfunction]
fn muon_direction(
    py: Python<'_>,
    gradient: In<'_>,
    unit: bool,
    mut momentum: Out<'_>,
    share: f32,
    direction: Matrix<'_, '_>,
    threads: usize,
) -> PyResult<()> {
    let (gradient, momentum) = (gradient.as_slice()?, momentum.as_slice_mut()?);
    by_kind!(direction, E => {
        let mut direction = room::<E>(direction)?;
        let direction = direction.as_slice_mut()?;
        py.detach(|| kernels::muon_direction(gradient, unit, momentum, share, direction, threads));
        Ok(())
    })
}

#[pyfunction]
fn muon_apply(
    py: Python<'_>,
    mut weights: Out<'_>,
    update: Matrix<'_, '_>,
    keep: f32,
    rate: f32,
    threads: usize,
) -> PyResult<()> {
    let weights = weights.as_slice_mut()?;
    by_kind!(update, E => {
        let update = numbers::<E>(update)?;
        let update = update.as_slice()?;
        py.detach(|| kernels::muon_apply(weights, update, keep, rate, threads));
        Ok(())
    })
}

/// Adds the kernels to the module.
fn add_kernels(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(add_norm, module)?)?;
    module.add_function(wrap_pyfunction!(norm_back, module)?)?;
    module.add_function(wrap_pyfunction!(drop_out, module)?)?;
    module.add_function(wrap_pyfunction!(mix, module)?)?;
    module.add_function(wrap_pyfunction!(mix_back, module)?)?;
    module.add_function(wrap_pyfunction!(attention, module)?)?;
    module.add_function(wrap_pyfunction!(attention_back, module)?)?;
    module.add_function(wrap_pyfunction!(activate, module)?)?;
    module.add_function(wrap_pyfunction!(activate_back, module)?)?;
    module.add_function(wrap_pyfunction!(cross_entropy, module)?)?;
    module.add_function(wrap_pyfunction!(muon_direction, module)?)?;
    module.add_function(wrap_pyfunction!(muon_apply, module)?)
}

/// The extension module `microgpt._core`.
#[pymodule(gil_used = false)]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("MAX_HEAD_WIDTH", kernels::MAX_WIDTH)?;
    module.add_class::<Tokenizer>()?;
    module.add_class::<DecodeStream>()?;
    module.add_function(wrap_pyfunction!(unicode, module)?)?;
    module.add_function(wrap_pyfunction!(listed_ids, module)?)?;
    module.add_function(wrap_pyfunction!(write_dataset, module)?)?;
    module.add_function(wrap_pyfunction!(save_counts, module)?)?;
    module.add_function(wrap_pyfunction!(counted_bytes, module)?)?;
    module.add_function(wrap_pyfunction!(input_fingerprint, module)?)?;
    module.add_function(wrap_pyfunction!(list_inputs, module)?)?;
    module.add_function(wrap_pyfunction!(survey_inputs, module)?)?;
    module.add_function(wrap_pyfunction!(verify_dataset, module)?)?;
    add_kernels(module)?;
    Ok(())
}
