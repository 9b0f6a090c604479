//! Special tokens in the text to count: they cut it, and are not counted themselves.

use crate::error::{Error, Result};
use regex_automata::meta::Regex;
use std::ops::Range;

/// Finds special tokens, the leftmost first and the longest of those that begin together.
pub(super) struct Specials {
    /// None where there are none.
    regex: Option<Regex>,
    longest: usize,
}

impl Specials {
    pub(super) fn new(texts: &[String]) -> Result<Self> {
        let mut texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        if texts.contains(&"") {
            return Err(Error::usage("a special token is empty: give it a text"));
        }
        texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
        let longest = texts.first().map_or(0, |text| text.len());
        let either = texts
            .iter()
            .map(|text| regex_syntax::escape(text))
            .collect::<Vec<_>>()
            .join("|");
        let refused = |error| Error::usage(format!("the special tokens take too much: {error}"));
        let regex = match longest {
            0 => None,
            _ => Some(Regex::new(&either).map_err(refused)?),
        };
        Ok(Self { regex, longest })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.regex.is_none()
    }

    /// Bytes in the longest.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    /// The next special token at or after `from`.
    pub(super) fn next(&self, text: &[u8], from: usize) -> Option<Range<usize>> {
        let found = self
            .regex
            .as_ref()?
            .find(regex_automata::Input::new(text).range(from..))?;
        Some(found.range())
    }
}
