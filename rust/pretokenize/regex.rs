//! A user's own regex.
//!
//! Without look-around, back-references and possessive quantifiers it runs on `regex-automata` in
//! linear time. So does one whose only look-around is the ending `\s+(?!\S)|\s+` (or `|\s`) of
//! the published patterns: the last alternative is compiled as `\s+` alone, and a match of it that
//! text follows gives its last character back when it has others. Anything else runs on
//! `fancy-regex`, where a search that needs more than a million steps ends in an error.
//!
//! Text that no match covers becomes pieces of its own, so nothing is lost. An empty match is
//! passed over. Each byte that belongs to no well-formed character is matched as U+FFFD.

use crate::error::{Error, Result};
use regex_automata::{Input, PatternID, meta};
use std::borrow::Cow;
use std::ops::Range;

const REPLACEMENT: &str = "\u{FFFD}";
const TAILS: [&str; 2] = [r"|\s+(?!\S)|\s+", r"|\s+(?!\S)|\s"];

/// A compiled regex.
#[derive(Debug)]
pub struct Custom {
    source: String,
    engine: Engine,
}

#[derive(Debug)]
enum Engine {
    /// With `Some`, matches of that one are white space to shorten.
    Linear(meta::Regex, Option<PatternID>),
    Backtracking(Box<fancy_regex::Regex>),
}

impl Custom {
    /// Compiles the regex.
    ///
    /// # Errors
    /// `Usage` where it does not parse or is too large.
    pub fn new(source: &str) -> Result<Self> {
        if let Some(engine) = linear(source) {
            return Ok(Self {
                source: source.to_owned(),
                engine,
            });
        }
        let refused = |e| Error::usage(format!("the pattern '{source}' is no regex: {e}"));
        let regex = fancy_regex::Regex::new(source).map_err(refused)?;
        let engine = Engine::Backtracking(Box::new(regex));
        Ok(Self {
            source: source.to_owned(),
            engine,
        })
    }

    /// The regex as it was given.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether it runs in linear time.
    #[cfg(test)]
    pub fn is_linear(&self) -> bool {
        matches!(self.engine, Engine::Linear(..))
    }

    /// The matches in the text, from its beginning.
    pub fn matches<'a>(&'a self, text: &'a [u8]) -> Matches<'a> {
        let (text, replaced) = well_formed(text);
        Matches {
            regex: self,
            text,
            replaced,
            begun: 0,
            searched: 0,
        }
    }

    /// The first match at or after `from`.
    fn find(&self, text: &str, from: usize) -> Result<Option<Range<usize>>> {
        match &self.engine {
            Engine::Linear(regex, white) => {
                let found = regex.search(&Input::new(text).range(from..));
                Ok(found.map(|found| match white {
                    Some(white) if found.pattern() == *white => shortened(text, found.range()),
                    _ => found.range(),
                }))
            }
            Engine::Backtracking(regex) => match regex.find_from_pos(text, from) {
                Ok(found) => Ok(found.map(|found| found.range())),
                Err(error) => Err(Error::usage(format!(
                    "the pattern '{}' gave up on the text behind byte {from}: {error}; \
                     write it without look-around, so that it needs no backtracking",
                    self.source
                ))),
            },
        }
    }
}

/// A run of white space without its last character, if it has others and text follows it.
fn shortened(text: &str, run: Range<usize>) -> Range<usize> {
    let last = text[run.clone()]
        .char_indices()
        .next_back()
        .map_or(0, |(at, _)| at);
    if run.end == text.len() || last == 0 {
        run
    } else {
        run.start..run.start + last
    }
}

/// The linear-time engine, where it can run the regex.
fn linear(source: &str) -> Option<Engine> {
    let build = |regexes: &[&str]| meta::Regex::new_many(regexes).ok();
    if possessive(source) {
        return None;
    }
    let head = TAILS.iter().find_map(|tail| source.strip_suffix(tail));
    if let Some(head) = head.filter(|head| !flagged(head)) {
        let regex = build(&[head, r"\s+"])?;
        return Some(Engine::Linear(regex, Some(PatternID::must(1))));
    }
    Some(Engine::Linear(build(&[source])?, None))
}

/// Whether a quantifier is followed by `+`, which `regex-syntax` reads as a second quantifier.
fn possessive(source: &str) -> bool {
    let bytes = source.as_bytes();
    let (mut at, mut class_depth, mut quantified) = (0, 0_usize, false);
    while at < bytes.len() {
        let byte = bytes[at];
        if class_depth == 0 && quantified && byte == b'+' {
            return true;
        }
        quantified = class_depth == 0 && matches!(byte, b'*' | b'+' | b'?' | b'}');
        match byte {
            b'\\' if is_braced_escape(&bytes[at + 1..]) => {
                at += bytes[at..].iter().position(|&b| b == b'}').unwrap_or(1);
            }
            b'\\' => at += 1,
            b'[' => class_depth += 1,
            b']' => class_depth = class_depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    false
}

/// Whether these bytes, after a backslash, have braces of their own, as in `\p{L}`.
fn is_braced_escape(bytes: &[u8]) -> bool {
    matches!(bytes, [b'p' | b'P' | b'x' | b'u' | b'U' | b'b', b'{', ..])
}

/// Whether flags are set, up to the end of the regex, that could change what `\s+` means.
fn flagged(source: &str) -> bool {
    source.split("(?").skip(1).any(|group| {
        let flags = group.trim_start_matches(|c: char| "ims".contains(c));
        let rest = flags.trim_start_matches(|c: char| c.is_ascii_alphabetic() || c == '-');
        flags != rest && rest.starts_with(')')
    })
}

/// The text with U+FFFD for each byte outside well-formed characters, and where those stand in it.
fn well_formed(text: &[u8]) -> (Cow<'_, str>, Vec<usize>) {
    if let Ok(text) = std::str::from_utf8(text) {
        return (Cow::Borrowed(text), Vec::new());
    }
    let (mut out, mut replaced) = (String::with_capacity(text.len()), Vec::new());
    for chunk in text.utf8_chunks() {
        out.push_str(chunk.valid());
        for _ in chunk.invalid() {
            replaced.push(out.len());
            out.push_str(REPLACEMENT);
        }
    }
    (Cow::Owned(out), replaced)
}

/// The pieces of a text: its matches, and what lies between them.
pub struct Matches<'a> {
    regex: &'a Custom,
    text: Cow<'a, str>,
    replaced: Vec<usize>,
    /// Where the next piece begins, and where the next search does, in `text`.
    begun: usize,
    searched: usize,
}

impl Matches<'_> {
    /// Appends the ends of the next pieces, `count` or one more.
    ///
    /// # Errors
    /// `Usage` where the engine gives up.
    pub fn fill(&mut self, ends: &mut Vec<usize>, count: usize) -> Result<()> {
        while ends.len() < count && self.begun < self.text.len() {
            let found = match self.searched {
                at if at <= self.text.len() => self.regex.find(&self.text, at)?,
                _ => None,
            };
            match found {
                None => self.end_piece(self.text.len(), ends),
                Some(found) if found.is_empty() => {
                    let next = self.text[found.end..].chars().next();
                    self.searched = found.end + next.map_or(1, char::len_utf8);
                }
                Some(found) => {
                    self.end_piece(found.start, ends);
                    self.end_piece(found.end, ends);
                }
            }
        }
        Ok(())
    }

    fn end_piece(&mut self, end: usize, ends: &mut Vec<usize>) {
        if end > self.begun {
            let before = self.replaced.partition_point(|&at| at < end);
            ends.push(end - before * (REPLACEMENT.len() - 1));
        }
        self.begun = end;
        self.searched = end;
    }
}
