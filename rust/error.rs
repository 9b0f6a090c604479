//! One error type; each variant is one sentence that names the value, the limit and the way out.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

/// What can go wrong, by who has to act on it.
#[derive(Debug)]
pub enum Error {
    /// An argument that cannot be honoured; the text is the whole sentence.
    Usage(String),
    /// A file whose content is not what its name or its header claims.
    Format {
        /// The file, or `<memory>` for bytes that came from none.
        path: PathBuf,
        /// What is wrong with it, and where.
        what: String,
    },
    /// The operating system refused.
    Io {
        /// What was being done, as in "cannot write".
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The caller asked to stop (Ctrl-C); nothing half-written is left behind.
    Interrupted,
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An [`Error::Usage`] from its sentence.
    pub fn usage(sentence: impl Into<String>) -> Self {
        Self::Usage(sentence.into())
    }

    /// An [`Error::Format`] about `path`.
    pub fn format(path: impl AsRef<Path>, what: impl Into<String>) -> Self {
        Self::Format {
            path: path.as_ref().to_owned(),
            what: what.into(),
        }
    }

    /// Turns an `io::Error` into an [`Error::Io`] about `path`: `.map_err(Error::io("cannot read", path))`.
    pub fn io(doing: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io {
            doing,
            path,
            source,
        }
    }
}

/// A sentence without the middle of what it quotes, where that is longer than anybody reads.
fn shortened(sentence: &str) -> Cow<'_, str> {
    const SHOWN: usize = 300;
    let nth = |place| sentence.char_indices().nth(place).map(|(at, _)| at);
    let from_end = |place| sentence.char_indices().nth_back(place).map(|(at, _)| at);
    match (nth(2 * SHOWN), nth(SHOWN), from_end(SHOWN - 1)) {
        (Some(_), Some(head), Some(tail)) => {
            format!("{} ... {}", &sentence[..head], &sentence[tail..]).into()
        }
        _ => sentence.into(),
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(sentence) => f.write_str(&shortened(sentence)),
            Self::Format { path, what } => write!(f, "{}: {}", path.display(), shortened(what)),
            Self::Io {
                doing,
                path,
                source,
            } => write!(f, "{doing} {}: {source}", path.display()),
            Self::Interrupted => f.write_str("interrupted"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
