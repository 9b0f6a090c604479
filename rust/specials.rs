//! Special tokens in text: which count, where they are, and what to do about each.

use crate::error::{Error, Result};
use crate::vocab::Special;
use memchr::memmem;
use std::collections::HashSet;
use std::ops::Range;

/// A choice of special tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Names {
    /// None of them.
    None,
    /// All of them.
    All,
    /// Those with these texts.
    Some(Vec<String>),
}

impl Names {
    fn contains(&self, text: &str) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Some(names) => names.iter().any(|name| name == text),
        }
    }
}

/// What to do where text spells a special token: those allowed become their ids, those refused (and
/// not allowed) are an error, the others are plain text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecialRule {
    /// These become ids.
    pub allowed: Names,
    /// These end the encoding with an error, where they are not allowed.
    pub refused: Names,
}

impl SpecialRule {
    /// Special tokens' text is plain text.
    pub const PLAIN: Self = Self {
        allowed: Names::None,
        refused: Names::None,
    };
    /// Special tokens' text becomes their ids.
    pub const ALL: Self = Self {
        allowed: Names::All,
        refused: Names::None,
    };
    /// Special tokens' text is an error.
    pub const REFUSE: Self = Self {
        allowed: Names::None,
        refused: Names::All,
    };

    /// Whether `special` becomes its id.
    pub(crate) fn allows(&self, special: &Special) -> bool {
        special.always || self.allowed.contains(&special.text)
    }

    /// Whether `special` is found at all.
    fn matters(&self, special: &Special) -> bool {
        self.allows(special) || self.refused.contains(&special.text)
    }
}

/// Finds special tokens in text, the leftmost first and the longest of those that begin together.
#[derive(Debug)]
pub(crate) struct Finder {
    /// Index into the vocabulary's special tokens, and text, the longest first.
    texts: Vec<(usize, Vec<u8>)>,
    /// What all texts begin with, where they share a first byte.
    prefix: Option<memmem::Finder<'static>>,
    begins: [bool; 256],
}

impl Finder {
    fn new<'a>(specials: impl Iterator<Item = (usize, &'a Special)>) -> Self {
        let mut texts: Vec<(usize, Vec<u8>)> = specials
            .map(|(place, special)| (place, special.text.clone().into_bytes()))
            .collect();
        texts.sort_by_key(|(_, text)| std::cmp::Reverse(text.len()));
        let mut begins = [false; 256];
        for (_, text) in &texts {
            begins[usize::from(text[0])] = true;
        }
        let shared = texts
            .iter()
            .map(|(_, text)| text.as_slice())
            .reduce(common_prefix);
        let prefix = shared.filter(|shared| !shared.is_empty());
        let prefix = prefix.map(|prefix| memmem::Finder::new(prefix).into_owned());
        Self {
            texts,
            prefix,
            begins,
        }
    }

    /// The next special token in `text` at or after `from`: its place in the list and its range.
    pub(crate) fn next(&self, text: &[u8], mut from: usize) -> Option<(usize, Range<usize>)> {
        if self.texts.is_empty() {
            return None;
        }
        loop {
            let rest = &text[from..];
            let start = from
                + match &self.prefix {
                    Some(prefix) => prefix.find(rest)?,
                    None => rest
                        .iter()
                        .position(|&byte| self.begins[usize::from(byte)])?,
                };
            let here = &text[start..];
            if let Some((place, found)) = self
                .texts
                .iter()
                .find(|(_, special)| here.starts_with(special))
            {
                return Some((*place, start..start + found.len()));
            }
            from = start + 1;
        }
    }

    /// Bytes in the longest special token.
    pub(crate) fn longest(&self) -> usize {
        self.texts.first().map_or(0, |(_, special)| special.len())
    }

    /// A place at or before `cut` that goes through no special token of `text`.
    pub(crate) fn clear_of(&self, text: &[u8], mut cut: usize) -> usize {
        let across = |cut: usize| {
            let begins = |(_, special): &(usize, Vec<u8>)| {
                let reach = special.len() - 1;
                let start = cut.saturating_sub(reach);
                let window = &text[start..text.len().min(cut + reach)];
                memmem::find(window, special).map(|at| start + at)
            };
            self.texts.iter().filter_map(begins).min()
        };
        // Another may lie across the place where this one begins.
        while let Some(earlier) = across(cut) {
            cut = earlier;
        }
        cut
    }
}

fn common_prefix<'a>(left: &'a [u8], right: &'a [u8]) -> &'a [u8] {
    let shared = left.iter().zip(right).take_while(|(a, b)| a == b).count();
    &left[..shared]
}

/// The finders of one vocabulary: of all its special tokens, and of those found in every text.
#[derive(Debug)]
pub(crate) struct Finders {
    all: Finder,
    always: Finder,
}

/// A finder that exists already, or one made for an unusual rule.
pub(crate) enum Chosen<'a> {
    Kept(&'a Finder),
    Made(Box<Finder>),
}

impl std::ops::Deref for Chosen<'_> {
    type Target = Finder;

    fn deref(&self) -> &Finder {
        match self {
            Self::Kept(finder) => finder,
            Self::Made(finder) => finder,
        }
    }
}

impl Finders {
    pub(crate) fn new(specials: &[Special]) -> Self {
        let always = specials
            .iter()
            .enumerate()
            .filter(|(_, special)| special.always);
        Self {
            all: Finder::new(specials.iter().enumerate()),
            always: Finder::new(always),
        }
    }

    /// The finder for a rule.
    ///
    /// # Errors
    /// [`Error::Usage`] where the rule names a special token that does not exist.
    pub(crate) fn choose(&self, specials: &[Special], rule: &SpecialRule) -> Result<Chosen<'_>> {
        check_names(specials, &rule.allowed)?;
        check_names(specials, &rule.refused)?;
        if rule.allowed == Names::All || rule.refused == Names::All {
            return Ok(Chosen::Kept(&self.all));
        }
        if rule.allowed == Names::None && rule.refused == Names::None {
            return Ok(Chosen::Kept(&self.always));
        }
        let matter = specials
            .iter()
            .enumerate()
            .filter(|(_, special)| rule.matters(special));
        Ok(Chosen::Made(Box::new(Finder::new(matter))))
    }
}

fn check_names(specials: &[Special], names: &Names) -> Result<()> {
    let Names::Some(names) = names else {
        return Ok(());
    };
    let known: HashSet<&str> = specials
        .iter()
        .map(|special| special.text.as_str())
        .collect();
    match names.iter().find(|name| !known.contains(name.as_str())) {
        None => Ok(()),
        Some(name) => {
            let mut known: Vec<&str> = known.into_iter().collect();
            known.sort_unstable();
            Err(Error::usage(format!(
                "{name:?} is no special token of this tokenizer, which has {known:?}"
            )))
        }
    }
}
