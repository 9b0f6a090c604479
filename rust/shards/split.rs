//! Which text is kept for validation.
//!
//! Documents go to one side whole, chosen by a hash of the seed and their first bytes: so equal
//! documents stay together, and a document of any length is placed when its first bytes are known.
//! With very many, a hash below a threshold chooses; with fewer, those of the lowest hashes are taken
//! until they make up the fraction, so that there always is a validation set. Where documents are
//! too few or too uneven for that, the tail of each is kept.

use super::inputs::Source;
use super::read::{Reading, Sink, read_documents};
use crate::control::{Control, Stage};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// Fewer documents than these are not divided whole.
const FEW_DOCUMENTS: usize = 20;
/// A threshold chooses where so many documents can be expected on the validation side.
const EXPECTED_VALID_DOCUMENTS: f64 = 10.0;
/// A document is placed by so many of its first bytes.
pub(super) const HEAD_BYTES: usize = 4096;
/// A tail begins at the first line start in its first half, at most so many bytes along.
const LINE_SEARCH_BYTES: u64 = 1 << 20;
/// A shorter tail is not worth a validation document.
const SHORTEST_TAIL_BYTES: u64 = 8;

const DEFAULT_FRACTION: f64 = 0.05;
const SMALL_TEXT_FRACTION: f64 = 0.1;
const SMALL_TEXT_BYTES: u64 = 1_000_000;
/// The default never keeps much more text than this: it would only be taken from training.
const DEFAULT_LARGEST_BYTES: f64 = 20e6;

/// The wish: how much to keep (`None`: what the text's size suggests), and the seed.
#[derive(Clone, Copy, Debug)]
pub struct SplitOptions {
    /// Share of the text kept for validation; 0: none.
    pub fraction: Option<f64>,
    /// Which documents are chosen.
    pub seed: u64,
}

impl SplitOptions {
    /// # Errors
    /// [`Error::Usage`] for a fraction outside 0 to 0.9.
    pub fn check(&self) -> Result<()> {
        match self.fraction {
            Some(fraction) if !(0.0..=0.9).contains(&fraction) => Err(Error::usage(format!(
                "the validation fraction is {fraction}, but must lie between 0 (none) and 0.9"
            ))),
            _ => Ok(()),
        }
    }

    fn fraction_for(&self, text_bytes: u64) -> f64 {
        self.fraction
            .unwrap_or_else(|| default_fraction(text_bytes))
    }
}

/// The share of a text of this size that is kept for validation where the user names none.
fn default_fraction(text_bytes: u64) -> f64 {
    if text_bytes <= SMALL_TEXT_BYTES {
        SMALL_TEXT_FRACTION
    } else {
        DEFAULT_FRACTION.min(DEFAULT_LARGEST_BYTES / text_bytes as f64)
    }
}

/// The rule's name in the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rule {
    /// Whole documents, by hash.
    Documents,
    /// The tail of each document.
    Tails,
    /// No validation set.
    None,
}

/// Training or validation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Training.
    Train,
    /// Validation.
    Valid,
}

/// The decided split.
#[derive(Clone, Debug)]
pub struct Split {
    /// The share of text that is kept, decided.
    pub fraction: f64,
    /// The seed.
    pub seed: u64,
    choice: Choice,
}

/// How the side of a document is told.
#[derive(Clone, Debug)]
enum Choice {
    /// Training gets all.
    All,
    /// Validation gets documents whose number is below this.
    Below(f64),
    /// Validation gets documents with these numbers.
    Numbers(BTreeSet<u64>),
    /// Validation gets the tails of documents, which have these lengths.
    Tails(Vec<u64>),
}

impl Split {
    /// Decides the rule and the fraction, reading as many documents as that takes: all of them only
    /// where there are few.
    ///
    /// # Errors
    /// Those of [`SplitOptions::check`] and [`read_documents`]; where there is no text at all,
    /// [`Error::Format`].
    pub fn decide(
        options: SplitOptions,
        sources: &[Source],
        reading: &Reading,
        control: &Control,
    ) -> Result<Self> {
        options.check()?;
        let seed = options.seed;
        let fraction = options.fraction_for(estimated_text_bytes(sources));
        let enough = match fraction {
            0.0 => 1,
            _ => FEW_DOCUMENTS.max((EXPECTED_VALID_DOCUMENTS / fraction).ceil() as usize),
        };
        let documents = survey(sources, reading, seed, enough, control)?;
        if documents.is_empty() {
            return Err(no_text(sources));
        }
        if fraction == 0.0 {
            return Ok(Self {
                seed,
                ..Self::none()
            });
        }
        if documents.len() >= enough {
            return Ok(Self {
                fraction,
                seed,
                choice: Choice::Below(fraction * 2f64.powi(64)),
            });
        }
        let text_bytes = documents.iter().map(|document| document.bytes).sum();
        let fraction = options.fraction_for(text_bytes);
        let choice = choose_whole(&documents, fraction * text_bytes as f64).unwrap_or_else(|| {
            Choice::Tails(documents.iter().map(|document| document.bytes).collect())
        });
        Ok(Self {
            fraction,
            seed,
            choice,
        })
    }

    /// Training gets all documents.
    pub fn none() -> Self {
        Self {
            fraction: 0.0,
            seed: 0,
            choice: Choice::All,
        }
    }

    /// The rule's name.
    pub fn rule(&self) -> Rule {
        match self.choice {
            Choice::All => Rule::None,
            Choice::Below(_) | Choice::Numbers(_) => Rule::Documents,
            Choice::Tails(_) => Rule::Tails,
        }
    }

    /// The side of a whole document that begins with `head` ([`HEAD_BYTES`], or all of it).
    pub fn side(&self, head: &[u8]) -> Side {
        let kept = match &self.choice {
            Choice::All | Choice::Tails(_) => false,
            Choice::Below(threshold) => (number(self.seed, head) as f64) < *threshold,
            Choice::Numbers(numbers) => numbers.contains(&number(self.seed, head)),
        };
        if kept { Side::Valid } else { Side::Train }
    }

    /// Where the tail of document `ordinal` may begin: its first possible byte, and how many bytes
    /// from there to search for a line start. `None` where the document has no tail worth keeping.
    pub fn tail(&self, ordinal: usize) -> Option<(u64, u64)> {
        let Choice::Tails(lengths) = &self.choice else {
            return None;
        };
        let length = *lengths.get(ordinal)?;
        let start = ((1.0 - self.fraction) * length as f64).ceil() as u64;
        let tail = length.saturating_sub(start);
        (start > 0 && tail >= SHORTEST_TAIL_BYTES)
            .then_some((start, (tail / 2).min(LINE_SEARCH_BYTES)))
    }
}

/// The number of a document, by which it is chosen: the first eight bytes, most significant first,
/// of the SHA-256 of the seed (eight bytes, least significant first) and the document's head.
fn number(seed: u64, head: &[u8]) -> u64 {
    let mut hasher = Sha256::new();
    hasher.update(seed.to_le_bytes());
    hasher.update(&head[..head.len().min(HEAD_BYTES)]);
    hasher
        .finalize()
        .iter()
        .take(8)
        .fold(0, |number, &byte| number << 8 | u64::from(byte))
}

/// Takes documents by ascending number until they hold `wanted` bytes, passing over what would make
/// that twice as much. `None` where documents are too few, or all too long.
fn choose_whole(documents: &[Measured], wanted: f64) -> Option<Choice> {
    if documents.len() < FEW_DOCUMENTS {
        return None;
    }
    let mut groups: BTreeMap<u64, u64> = BTreeMap::new();
    for document in documents {
        *groups.entry(document.number).or_default() += document.bytes;
    }
    let mut chosen = BTreeSet::new();
    let mut kept = 0.0;
    for (number, bytes) in groups {
        if kept < wanted && kept + bytes as f64 <= 2.0 * wanted {
            kept += bytes as f64;
            chosen.insert(number);
        }
    }
    (!chosen.is_empty()).then_some(Choice::Numbers(chosen))
}

/// Where the tail begins, given the text from one byte before its first possible byte: the first
/// line start, else the first character start.
pub(super) fn tail_start(window: &[u8]) -> usize {
    if let Some(line_end) = memchr::memchr(b'\n', &window[..window.len().saturating_sub(1)]) {
        return line_end + 1;
    }
    let is_character_start = |&at: &usize| window.get(at).is_none_or(|byte| byte & 0xC0 != 0x80);
    (1..=4)
        .find(is_character_start)
        .unwrap_or(1)
        .min(window.len())
}

/// What the files' lengths tell of the text in them, before anything is read.
pub fn estimated_text_bytes(sources: &[Source]) -> u64 {
    let compressed = |source: &Source| {
        let extension = source
            .path
            .extension()
            .and_then(|e| e.to_str())
            .unwrap_or_default();
        matches!(extension, "gz" | "zst" | "zstd" | "parquet")
    };
    sources
        .iter()
        .map(|source| source.bytes * if compressed(source) { 3 } else { 1 })
        .sum()
}

/// What the survey keeps of a document.
#[derive(Clone, Copy, Debug)]
struct Measured {
    bytes: u64,
    number: u64,
}

/// Measures the documents with text, in order, until there are `enough`.
fn survey(
    sources: &[Source],
    reading: &Reading,
    seed: u64,
    enough: usize,
    control: &Control,
) -> Result<Vec<Measured>> {
    control.begin(Stage::Read, sources.iter().map(|source| source.bytes).sum());
    let mut survey = Survey {
        control,
        seed,
        enough,
        documents: Vec::new(),
        bytes: 0,
        head: Vec::new(),
    };
    for source in sources {
        read_documents(source, reading, false, control, &mut survey)?;
        if survey.is_satisfied() {
            break;
        }
    }
    Ok(survey.documents)
}

struct Survey<'a> {
    control: &'a Control,
    seed: u64,
    enough: usize,
    documents: Vec<Measured>,
    bytes: u64,
    head: Vec<u8>,
}

impl Sink for Survey<'_> {
    fn text(&mut self, text: &[u8]) -> Result<()> {
        self.bytes += text.len() as u64;
        let missing = HEAD_BYTES - self.head.len();
        self.head
            .extend_from_slice(&text[..missing.min(text.len())]);
        Ok(())
    }

    fn end_document(&mut self) -> Result<()> {
        if self.bytes > 0 {
            let number = number(self.seed, &self.head);
            self.documents.push(Measured {
                bytes: self.bytes,
                number,
            });
        }
        self.bytes = 0;
        self.head.clear();
        Ok(())
    }

    fn read_bytes(&mut self, bytes: u64) {
        self.control.advance(bytes);
    }

    fn is_satisfied(&self) -> bool {
        self.documents.len() >= self.enough
    }
}

/// The error of inputs without any text.
pub(super) fn no_text(sources: &[Source]) -> Error {
    match sources {
        [one] => Error::format(&one.name, "holds no text to tokenize"),
        _ => Error::usage(format!(
            "the {} input files hold no text to tokenize",
            sources.len()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shards::inputs::Search;
    use crate::shards::testing::Scratch;

    fn decide(text: &str, fraction: Option<f64>, seed: u64) -> Split {
        let scratch = Scratch::new();
        let names = vec![scratch.write("a.txt", text.as_bytes())];
        let sources = Search {
            names,
            ..Search::default()
        }
        .files()
        .unwrap();
        let reading = Reading {
            separator: "|".to_owned(),
            field: String::new(),
        };
        let options = SplitOptions { fraction, seed };
        Split::decide(options, &sources, &reading, &Control::new()).unwrap()
    }

    fn documents(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("document {n}")).collect()
    }

    fn kept(split: &Split, documents: &[String]) -> usize {
        documents
            .iter()
            .filter(|text| split.side(text.as_bytes()) == Side::Valid)
            .count()
    }

    #[test]
    fn default_fraction_is_larger_for_small_texts_and_bounded_for_large_ones() {
        assert_eq!(default_fraction(1_000), 0.1);
        assert_eq!(default_fraction(2_000_000), 0.05);
        assert_eq!(default_fraction(10_000_000_000), 0.002);
    }

    #[test]
    fn many_documents_are_chosen_by_a_threshold() {
        let documents = documents(20_000);
        let split = decide(&documents.join("|"), Some(0.05), 1);
        assert!(matches!(split.choice, Choice::Below(_)));
        let kept = kept(&split, &documents);
        assert!((900..1100).contains(&kept), "{kept} of 20,000 at 5 %");
    }

    #[test]
    fn a_few_dozen_documents_always_give_a_validation_set() {
        let documents = documents(20);
        for seed in 0..200 {
            let split = decide(&documents.join("|"), None, seed);
            assert_eq!(split.rule(), Rule::Documents);
            assert!((1..=4).contains(&kept(&split, &documents)), "seed {seed}");
        }
    }

    #[test]
    fn seed_changes_which_documents_are_chosen() {
        let documents = documents(500);
        let chosen = |seed| {
            let split = decide(&documents.join("|"), None, seed);
            documents
                .iter()
                .map(|text| split.side(text.as_bytes()))
                .collect::<Vec<_>>()
        };
        assert_eq!(chosen(3), chosen(3));
        assert_ne!(chosen(3), chosen(4));
    }

    #[test]
    fn few_or_uneven_documents_give_their_tails() {
        assert_eq!(
            decide(&documents(19).join("|"), None, 0).rule(),
            Rule::Tails
        );
        let uneven = [vec!["a".repeat(100_000); 2], documents(1)].concat();
        assert_eq!(decide(&uneven.join("|"), None, 0).rule(), Rule::Tails);
        let all_long: Vec<String> = (0..20).map(|n| format!("{n}").repeat(1000)).collect();
        assert_eq!(
            decide(&all_long.join("|"), Some(0.01), 0).rule(),
            Rule::Tails
        );
    }

    #[test]
    fn tail_begins_after_the_fraction_and_is_searched_for_a_line() {
        let split = decide(&"x".repeat(1000), None, 0);
        assert_eq!(split.tail(0), Some((900, 50)));
        assert_eq!(split.tail(1), None);
        assert_eq!(
            decide("short", None, 0).tail(0),
            None,
            "too short for a tail"
        );
        assert_eq!(decide("x", Some(0.0), 0).tail(0), None);
    }

    #[test]
    fn tail_begins_at_a_line_else_at_a_character() {
        assert_eq!(tail_start(b"\nline"), 1);
        assert_eq!(tail_start(b"end\nline"), 4);
        assert_eq!(tail_start(b"no line"), 1);
        assert_eq!(tail_start("aé".as_bytes()), 1);
        assert_eq!(tail_start("éab".as_bytes()), 2);
        assert_eq!(tail_start(&"\u{1f600}ab".as_bytes()[1..]), 3);
        assert_eq!(
            tail_start(b"ends here\n"),
            1,
            "a line end that ends the window begins no line in it"
        );
    }

    #[test]
    fn fraction_outside_its_range_is_refused() {
        for fraction in [-0.1, 0.95, f64::NAN] {
            let error = SplitOptions {
                fraction: Some(fraction),
                seed: 0,
            }
            .check()
            .unwrap_err();
            assert!(
                error
                    .to_string()
                    .contains("must lie between 0 (none) and 0.9")
            );
        }
    }
}
