//! Text into pieces: the scanners that trainer and encoder share.
//!
//! A pattern cuts text into pieces that concatenate to the text again. The published patterns
//! (gpt2, cl100k, o200k, llama3, qwen2; the last four with any number of digits) have scanners of
//! their own, equal piece for piece to their
//! regex, in linear time whatever the text; any other regex goes through a regex
//! engine. Text is bytes: one that belongs to no well-formed character is a character of its
//! own, neither letter, number nor white space. Classes are those of Unicode
//! [`unicode_version`].

mod blocks;
mod classes;
mod gpt2;
mod known;
mod masks;
#[cfg(target_arch = "aarch64")]
mod neon;
mod planes;
mod regex;
mod split;
#[cfg(test)]
mod tests;
mod text;
mod words;

pub use classes::unicode_version;

use crate::error::Result;
use blocks::Walk;
use gpt2::Gpt2;
use known::{Known, Rule};
use regex::{Custom, Matches};
pub(crate) use split::character_edge;
use std::sync::Arc;
use text::Text;
use words::Words;

/// How many pieces [`Scanner::fill`] hands over at a time.
const BATCH: usize = 512;
/// How far back from the end of a text a late place to cut is looked for, a step at a time.
const STEP_BYTES: usize = 64 << 10;
/// The first step, which nearly always finds one.
const FIRST_STEP_BYTES: usize = 2 << 10;

/// How text is cut into pieces. Two patterns are equal when they cut by the same regex.
#[derive(Clone, Debug)]
pub struct Pattern(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Known(&'static Known),
    /// A published regex with another number of digits, and its rule.
    Variant(Arc<str>, Rule),
    Custom(Arc<Custom>),
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.regex() == other.regex()
    }
}

impl Eq for Pattern {}

impl Pattern {
    /// The pattern of this name (`gpt2`, `cl100k`, `o200k`, `llama3`, `qwen2`, `none`, or an alias
    /// such as `r50k`), else of this regex.
    ///
    /// # Errors
    /// `Usage` for a lone word that is no name, and for what [`Pattern::from_regex`] refuses.
    pub fn named(name_or_regex: &str) -> Result<Self> {
        match known::by_name(name_or_regex)? {
            Some(known) => Ok(Self(Kind::Known(known))),
            None => Self::from_regex(name_or_regex),
        }
    }

    /// The pattern of this regex; a published one, in any of its spellings, gets its scanner. The
    /// empty regex is `none`.
    ///
    /// # Errors
    /// `Usage` where the regex does not parse or is too large.
    pub fn from_regex(regex: &str) -> Result<Self> {
        Ok(Self(
            match (known::by_regex(regex), known::variant(regex)) {
                (Some(known), _) => Kind::Known(known),
                (None, Some(rule)) => Kind::Variant(regex.into(), rule),
                (None, None) => Kind::Custom(Arc::new(Custom::new(regex)?)),
            },
        ))
    }

    /// The canonical name, or `custom`.
    pub fn name(&self) -> &str {
        match &self.0 {
            Kind::Known(known) => known.name,
            Kind::Variant(..) | Kind::Custom(_) => "custom",
        }
    }

    /// The regex, in its owner's spelling where the pattern is a published one.
    pub fn regex(&self) -> &str {
        match &self.0 {
            Kind::Known(known) => known.regex,
            Kind::Variant(regex, _) => regex,
            Kind::Custom(custom) => custom.source(),
        }
    }

    /// A scanner at the beginning of the text.
    pub fn scanner<'a>(&'a self, text: &'a [u8]) -> Scanner<'a> {
        Scanner(match &self.0 {
            Kind::Known(Known { rule, .. }) | Kind::Variant(_, rule) => {
                State::Known(*rule, Text::new(text), Walk::default())
            }
            Kind::Custom(custom) => State::Custom(custom.matches(text)),
        })
    }

    /// A position, `near` or at most 64 KiB beyond it, where the text can be cut in two without
    /// changing its pieces; `None` where there is none or none can be proven (custom regexes, and
    /// `none`, whose piece is the whole text).
    pub fn safe_split(&self, text: &[u8], near: usize) -> Option<usize> {
        match &self.0 {
            Kind::Known(Known { rule, .. }) | Kind::Variant(_, rule) => {
                split::find(*rule, text, near)
            }
            Kind::Custom(_) => None,
        }
    }

    /// Such a place late in `text`.
    pub(crate) fn late_split(&self, text: &[u8]) -> Option<usize> {
        let mut near = text.len().saturating_sub(FIRST_STEP_BYTES);
        loop {
            let cut = self.safe_split(text, near);
            if cut.is_some() || near == 0 {
                return cut;
            }
            near = near.saturating_sub(STEP_BYTES);
        }
    }
}

/// Yields the ends of a text's pieces, in order.
pub struct Scanner<'a>(State<'a>);

enum State<'a> {
    Known(Rule, Text<'a>, Walk),
    Custom(Matches<'a>),
}

impl Scanner<'_> {
    /// Clears `ends` and fills it with the ends (offsets in the text) of the next pieces, some
    /// hundreds at most. False, and none, when the text is finished.
    ///
    /// # Errors
    /// `Usage` where a custom regex needs more backtracking than is allowed.
    pub fn fill(&mut self, ends: &mut Vec<usize>) -> Result<bool> {
        ends.clear();
        match &mut self.0 {
            State::Known(rule, text, walk) => match *rule {
                Rule::Whole => walk.rest(*text, ends),
                Rule::Gpt2 => walk.fill(Gpt2, *text, ends, BATCH),
                Rule::Words(rules) if rules.cased => {
                    walk.fill(Words::<true>(rules), *text, ends, BATCH);
                }
                Rule::Words(rules) => walk.fill(Words::<false>(rules), *text, ends, BATCH),
            },
            State::Custom(matches) => matches.fill(ends, BATCH)?,
        }
        Ok(!ends.is_empty())
    }
}
