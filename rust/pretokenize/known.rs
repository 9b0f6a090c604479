//! The published patterns: their names, their regexes, and the rule that scans each.

use super::words::Rules;
use crate::error::{Error, Result};

/// How a published pattern is scanned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The text is one piece.
    Whole,
    Gpt2,
    Words(Rules),
}

/// A published pattern.
#[derive(Debug)]
pub struct Known {
    pub name: &'static str,
    aliases: &'static [&'static str],
    /// The regex as its owner's newest code spells it.
    pub regex: &'static str,
    /// Other spellings of the same language.
    spellings: &'static [&'static str],
    pub rule: Rule,
}

macro_rules! o200k_word {
    ($upper:literal, $lower:literal) => {
        concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]",
            $upper,
            r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]",
            $lower,
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
        )
    };
}

/// Sources: tiktoken 0.14 (gpt2, cl100k, o200k), the tokenizer.json of Llama 3 and Qwen 2, and
/// transformers' gpt2.
///
/// cl100k as tiktoken has spelled it since 0.8 takes white space at the end of the text in one
/// piece; its first spelling did not, and is the pattern that Llama 3 took over.
static KNOWN: [Known; 6] = [
    Known {
        name: "gpt2",
        aliases: &["r50k", "p50k", "r50k_base", "p50k_base"],
        regex: r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
        spellings: &[
            r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
            r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        ],
        rule: Rule::Gpt2,
    },
    Known {
        name: "cl100k",
        aliases: &["cl100k_base"],
        regex: concat!(
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+|",
            r" ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
        ),
        spellings: &[concat!(
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}|",
            r" ?[^\s\p{L}\p{N}]++[\r\n]*|\s++$|\s*[\r\n]|\s+(?!\S)|\s+"
        )],
        rule: Rule::Words(Rules {
            cased: false,
            digits: 3,
            whole_tail: true,
        }),
    },
    Known {
        name: "o200k",
        aliases: &["o200k_base", "o200k_harmony"],
        regex: concat!(
            o200k_word!("*", "+"),
            o200k_word!("+", "*"),
            r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ),
        spellings: &[],
        rule: Rule::Words(Rules {
            cased: true,
            digits: 3,
            whole_tail: false,
        }),
    },
    Known {
        name: "llama3",
        aliases: &["llama-3"],
        regex: concat!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|",
            r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ),
        spellings: &[concat!(
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}|",
            r" ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
        )],
        rule: Rule::Words(Rules {
            cased: false,
            digits: 3,
            whole_tail: false,
        }),
    },
    Known {
        name: "qwen2",
        aliases: &["qwen"],
        regex: concat!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|",
            r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ),
        spellings: &[],
        rule: Rule::Words(Rules {
            cased: false,
            digits: 1,
            whole_tail: false,
        }),
    },
    Known {
        name: "none",
        aliases: &[],
        regex: "",
        spellings: &[],
        rule: Rule::Whole,
    },
];

/// The pattern of this name or alias; `None` for what looks like a regex.
///
/// # Errors
/// `Usage` for a lone word of `[a-z0-9_-]` that names none.
pub fn by_name(name: &str) -> Result<Option<&'static Known>> {
    let found = KNOWN
        .iter()
        .find(|known| known.name == name || known.aliases.contains(&name));
    let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
    if found.is_some() || name.is_empty() || !name.bytes().all(plain) {
        return Ok(found);
    }
    let names: Vec<&str> = KNOWN.iter().map(|known| known.name).collect();
    let all = KNOWN
        .iter()
        .flat_map(|known| std::iter::once(&known.name).chain(known.aliases));
    let nearest = all
        .min_by_key(|known| edits(known, name))
        .copied()
        .unwrap_or_default();
    Err(Error::usage(format!(
        "pattern '{name}' is none of {}; did you mean '{nearest}'? (A regex works too.)",
        names.join(", ")
    )))
}

/// The pattern that one of its owners spells so.
pub fn by_regex(regex: &str) -> Option<&'static Known> {
    KNOWN
        .iter()
        .find(|known| known.regex == regex || known.spellings.contains(&regex))
}

/// The rule of a published pattern with another number of digits (`\p{N}{1,2}`), as small
/// vocabularies take it.
pub fn variant(regex: &str) -> Option<Rule> {
    (1..=9).find_map(|digits| {
        let usual = regex.replace(&format!(r"\p{{N}}{{1,{digits}}}"), r"\p{N}{1,3}");
        match by_regex(&usual)?.rule {
            Rule::Words(rules) => Some(Rule::Words(Rules { digits, ..rules })),
            Rule::Whole | Rule::Gpt2 => None,
        }
    })
}

/// Every spelling of every pattern, for the tests that compare them with the scanner.
#[cfg(test)]
pub fn spellings() -> impl Iterator<Item = (&'static str, &'static str)> {
    KNOWN.iter().flat_map(|known| {
        let all = std::iter::once(&known.regex).chain(known.spellings);
        all.map(|regex| (known.name, *regex))
    })
}

/// The insertions, deletions and substitutions that turn one word into the other.
fn edits(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.bytes().enumerate() {
            let substituted = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}
