//! What the user named -> the files to read, in a fixed order.
//!
//! A name is a file, a folder, a pattern (see [`Glob`]) or `-`. Folders are searched all the way
//! down, hidden entries and linked folders left out; what is found is sorted by path.

use super::glob::Glob;
use crate::error::{Error, Result};
use std::fs;
use std::path::{Component, Path, PathBuf};

/// How a file's bytes hold documents. Compression (gzip, zstd) is told by content and is no format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text, documents parted by a separator.
    Text,
    /// A JSON object a line.
    Jsonl,
    /// A column of a Parquet file.
    Parquet,
}

/// The name of standard input.
pub const STANDARD_INPUT: &str = "-";

const COMPRESSED: [&str; 3] = ["gz", "zst", "zstd"];
const TEXT_EXTENSIONS: [&str; 3] = ["txt", "text", "md"];

impl Format {
    /// Reads the option: `auto` is `None`.
    ///
    /// # Errors
    /// [`Error::Usage`] for another word.
    pub fn parse(word: &str) -> Result<Option<Self>> {
        Ok(Some(match word {
            "auto" => return Ok(None),
            "text" => Self::Text,
            "jsonl" => Self::Jsonl,
            "parquet" => Self::Parquet,
            _ => {
                return Err(Error::usage(format!(
                    "format is {word:?}, but must be auto, text, jsonl or parquet"
                )));
            }
        }))
    }

    /// The format that a file's name tells, without the extension of a compression; `None` where it
    /// tells nothing, which is read as text.
    fn by_name(path: &Path) -> Option<Self> {
        let mut extension = lower_extension(path)?;
        if COMPRESSED.contains(&extension.as_str()) {
            extension = lower_extension(Path::new(path.file_stem()?))?;
        }
        match extension.as_str() {
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            "parquet" => Some(Self::Parquet),
            known if TEXT_EXTENSIONS.contains(&known) => Some(Self::Text),
            _ => None,
        }
    }
}

fn lower_extension(path: &Path) -> Option<String> {
    Some(path.extension()?.to_str()?.to_ascii_lowercase())
}

/// A file to read.
#[derive(Clone, Debug)]
pub struct Source {
    /// What messages and the manifest call it: its path with `/` between folders, or `-`.
    pub name: String,
    /// Where its bytes are.
    pub path: PathBuf,
    /// How they hold documents.
    pub format: Format,
    /// Length as stored.
    pub bytes: u64,
    /// A binary file is an error where the user named it, and skipped where a search found it.
    /// None: the user gave the format, so whatever is in the file is read.
    pub binary: OnBinary,
}

/// What to do with a file that looks binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnBinary {
    /// Refuse it with a sentence.
    Refuse,
    /// Leave it out, with a note.
    Skip,
    /// Read it.
    Read,
}

/// Which files to read: the part of the options that finds them.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// Files, folders, patterns, `-`; read in this order.
    pub names: Vec<PathBuf>,
    /// Patterns that files found in folders must match one of; none: known extensions.
    pub include: Vec<String>,
    /// Read every file as this; `None`: as its name tells.
    pub format: Option<Format>,
    /// The file that holds what standard input gave, for the name `-`.
    pub standard_input: Option<PathBuf>,
}

impl Search {
    /// The files, in the order in which they are read.
    ///
    /// # Errors
    /// [`Error::Usage`] where nothing was named, [`Error::Io`] for what does not exist or cannot be
    /// listed, [`Error::Format`] for a folder or a pattern without a matching file.
    pub fn files(&self) -> Result<Vec<Source>> {
        if self.names.is_empty() {
            return Err(Error::usage(
                "no input is named: give a file, a folder or -",
            ));
        }
        let mut sources = Vec::new();
        for name in &self.names {
            if name.as_os_str() == STANDARD_INPUT {
                let file = self.standard_input.as_ref().ok_or_else(|| {
                    Error::usage("standard input cannot be read here: save it in a file first")
                })?;
                let mut source = self.source(file, OnBinary::Refuse)?;
                source.name = STANDARD_INPUT.to_owned();
                source.format = self.format.unwrap_or(Format::Text);
                sources.push(source);
            } else if name.is_dir() {
                self.search_folder(name, &mut sources)?;
            } else if !name.exists() && Glob::is_pattern(&name.to_string_lossy()) {
                self.expand_pattern(name, &mut sources)?;
            } else {
                sources.push(self.source(name, OnBinary::Refuse)?);
            }
        }
        Ok(sources)
    }

    fn source(&self, path: &Path, binary: OnBinary) -> Result<Source> {
        let facts = fs::metadata(path).map_err(Error::io("cannot read", path))?;
        if !facts.is_file() {
            let what = "is neither a file nor a folder: pipe its content in, and name - as input";
            return Err(Error::format(path, what));
        }
        Ok(Source {
            name: slashed(path),
            path: path.to_owned(),
            format: self
                .format
                .or_else(|| Format::by_name(path))
                .unwrap_or(Format::Text),
            bytes: facts.len(),
            binary: if self.format.is_some() {
                OnBinary::Read
            } else {
                binary
            },
        })
    }

    fn search_folder(&self, folder: &Path, sources: &mut Vec<Source>) -> Result<()> {
        let globs: Vec<Glob> = self
            .include
            .iter()
            .map(|pattern| Glob::new(pattern))
            .collect();
        let wanted = |path: &Path| {
            if globs.is_empty() {
                return Format::by_name(path).is_some();
            }
            let inside = slashed(path.strip_prefix(folder).unwrap_or(path));
            globs.iter().any(|glob| glob.matches(&inside))
        };
        let found = files_under(folder, &wanted)?;
        if found.is_empty() {
            return Err(Error::format(folder, self.nothing_found()));
        }
        for path in found {
            sources.push(self.source(&path, OnBinary::Skip)?);
        }
        Ok(())
    }

    fn nothing_found(&self) -> String {
        if self.include.is_empty() {
            "has no file that ends in .txt, .md, .jsonl, .ndjson or .parquet (.gz or .zst may \
             follow): say which files to read, as in --include '*.py'"
                .to_owned()
        } else {
            format!(
                "has no file that matches --include {}",
                self.include.join(", ")
            )
        }
    }

    fn expand_pattern(&self, pattern: &Path, sources: &mut Vec<Source>) -> Result<()> {
        let is_plain = |part: &Component| !Glob::is_pattern(&part.as_os_str().to_string_lossy());
        let root: PathBuf = pattern.components().take_while(is_plain).collect();
        let rest: PathBuf = pattern.components().skip_while(is_plain).collect();
        // A leading slash binds the pattern to the whole path below the root.
        let glob = Glob::new(&format!("/{}", slashed(&rest)));
        let start = if root.as_os_str().is_empty() {
            Path::new(".")
        } else {
            &root
        };
        let inside =
            |path: &Path| format!("/{}", slashed(path.strip_prefix(start).unwrap_or(path)));
        let found = if start.is_dir() {
            files_under(start, &|path| glob.matches(&inside(path)))?
        } else {
            Vec::new()
        };
        if found.is_empty() {
            return Err(Error::format(pattern, "no file matches this pattern"));
        }
        for path in found {
            let path = if root.as_os_str().is_empty() {
                path.strip_prefix(start).unwrap_or(&path).to_owned()
            } else {
                path
            };
            sources.push(self.source(&path, OnBinary::Skip)?);
        }
        Ok(())
    }
}

/// The files below `folder` that are wanted, sorted by path.
fn files_under(folder: &Path, wanted: &dyn Fn(&Path) -> bool) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(current) = folders.pop() {
        let entries = fs::read_dir(&current).map_err(Error::io("cannot list", &current))?;
        for entry in entries {
            let entry = entry.map_err(Error::io("cannot list", &current))?;
            if entry.file_name().to_string_lossy().starts_with('.') {
                continue;
            }
            let path = entry.path();
            let kind = entry.file_type().map_err(Error::io("cannot read", &path))?;
            if kind.is_dir() {
                folders.push(path);
            } else if path.is_file() && wanted(&path) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The path with `/` between its parts on every system; what is no UTF-8 is replaced.
fn slashed(path: &Path) -> String {
    let text = path.to_string_lossy();
    if std::path::MAIN_SEPARATOR == '/' {
        text.into_owned()
    } else {
        text.replace(std::path::MAIN_SEPARATOR, "/")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shards::testing::Scratch;

    fn names(search: &Search, scratch: &Scratch) -> Vec<String> {
        let prefix = format!("{}/", slashed(scratch.path()));
        search
            .files()
            .unwrap()
            .iter()
            .map(|s| s.name.replace(&prefix, ""))
            .collect()
    }

    fn tree() -> Scratch {
        let scratch = Scratch::new();
        for file in [
            "b.txt",
            "a/z.txt",
            "a/b.jsonl.gz",
            "a.txt",
            "x.py",
            "a/x.py",
            ".git/c.txt",
        ] {
            scratch.write(file, b"text");
        }
        scratch
    }

    #[test]
    fn folder_gives_known_extensions_sorted_and_no_hidden_files() {
        let scratch = tree();
        let search = Search {
            names: vec![scratch.path().to_owned()],
            ..Search::default()
        };
        assert_eq!(
            names(&search, &scratch),
            ["a/b.jsonl.gz", "a/z.txt", "a.txt", "b.txt"]
        );
        assert_eq!(search.files().unwrap()[0].format, Format::Jsonl);
    }

    #[test]
    fn include_chooses_files_in_folders_and_reads_them_as_text() {
        let scratch = tree();
        let search = Search {
            names: vec![scratch.path().to_owned()],
            include: vec!["*.py".to_owned()],
            ..Search::default()
        };
        assert_eq!(names(&search, &scratch), ["a/x.py", "x.py"]);
        assert_eq!(search.files().unwrap()[0].format, Format::Text);
    }

    #[test]
    fn pattern_is_expanded_below_its_plain_part() {
        let scratch = tree();
        for (pattern, expected) in [
            ("*.txt", vec!["a.txt", "b.txt"]),
            ("**/*.txt", vec!["a/z.txt", "a.txt", "b.txt"]),
            ("a/*", vec!["a/b.jsonl.gz", "a/x.py", "a/z.txt"]),
        ] {
            let search = Search {
                names: vec![scratch.path().join(pattern)],
                ..Search::default()
            };
            assert_eq!(names(&search, &scratch), expected, "{pattern}");
        }
    }

    #[test]
    fn what_is_not_there_is_named() {
        let scratch = tree();
        for (name, sentence) in [
            ("gone.txt", "cannot read"),
            ("*.rs", "no file matches this pattern"),
            ("gone/*.rs", "no file matches this pattern"),
        ] {
            let search = Search {
                names: vec![scratch.path().join(name)],
                ..Search::default()
            };
            let error = search.files().unwrap_err().to_string();
            assert!(error.contains(sentence) && error.contains(name), "{error}");
        }
        let none = Search::default().files().unwrap_err().to_string();
        assert_eq!(none, "no input is named: give a file, a folder or -");
    }

    #[test]
    fn folder_without_matching_files_says_what_was_looked_for() {
        let scratch = Scratch::new();
        scratch.write("x.py", b"");
        let mut search = Search {
            names: vec![scratch.path().to_owned()],
            ..Search::default()
        };
        let error = search.files().unwrap_err().to_string();
        assert!(error.contains("ends in .txt, .md, .jsonl"), "{error}");
        search.include = vec!["*.rs".to_owned()];
        let error = search.files().unwrap_err().to_string();
        assert!(
            error.ends_with("has no file that matches --include *.rs"),
            "{error}"
        );
    }
}
