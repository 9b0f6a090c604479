//! Hugging Face's `tokenizer.json`, as far as it is byte-level BPE.
//!
//! Read: a BPE model whose pre-tokenizer is `ByteLevel`, or one `Split` by a regex and then
//! `ByteLevel`. `ignore_merges` is honoured; added tokens that are not special are found in every
//! text. The post-processor is not applied: ids are those of `encode(text, add_special_tokens=False)`.
//! Everything else that would change ids (normalizers, dropout, byte fallback, prefixes, stripping
//! added tokens, truncation, padding) is refused.

use super::{ordinary, printable, read, specials_by_id, write_whole};
use crate::error::{Error, Result};
use crate::pretokenize::Pattern;
use crate::tokenizer::Tokenizer;
use crate::vocab::{Special, SpelledMerges, Tokens, Vocab};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;

type Sentence<T> = std::result::Result<T, String>;

#[derive(Deserialize)]
struct File<'a> {
    #[serde(default)]
    truncation: Value,
    #[serde(default)]
    padding: Value,
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(borrow)]
    model: Model<'a>,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct Model<'a> {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    dropout: Option<f64>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(borrow)]
    vocab: Entries<'a>,
    #[serde(default)]
    merges: TextMerges,
}

/// A JSON object of tokens and ids, in the order of the file, borrowed where nothing is escaped.
#[derive(Default)]
pub(super) struct Entries<'a>(pub(super) Vec<(Cow<'a, str>, u32)>);

/// A JSON array of merges, `"left right"` or `["left", "right"]`.
#[derive(Default)]
struct TextMerges(SpelledMerges);

/// A string, borrowed where nothing in it is escaped.
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Seen;
        impl<'de> Visitor<'de> for Seen {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> std::result::Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> std::result::Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Seen)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Seen;
        impl<'de> Visitor<'de> for Seen {
            type Value = Entries<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of tokens and ids")
            }
            fn visit_map<M: MapAccess<'de>>(
                self,
                mut map: M,
            ) -> std::result::Result<Entries<'de>, M::Error> {
                let mut entries = Vec::new();
                while let Some((text, id)) = map.next_entry::<Text<'de>, u32>()? {
                    entries.push((text.0, id));
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Seen)
    }
}

impl<'de> Deserialize<'de> for TextMerges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Seen;
        impl<'de> Visitor<'de> for Seen {
            type Value = TextMerges;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an array of merges")
            }
            fn visit_seq<S: SeqAccess<'de>>(
                self,
                mut list: S,
            ) -> std::result::Result<TextMerges, S::Error> {
                let mut merges = SpelledMerges::default();
                while let Some(Pair(left, right)) = list.next_element::<Pair<'de>>()? {
                    merges.push_text(&left, &right).map_err(S::Error::custom)?;
                }
                Ok(TextMerges(merges))
            }
        }
        deserializer.deserialize_seq(Seen)
    }
}

/// The two tokens of a merge.
struct Pair<'a>(Cow<'a, str>, Cow<'a, str>);

impl<'de> Deserialize<'de> for Pair<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Seen;
        impl<'de> Visitor<'de> for Seen {
            type Value = Pair<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a merge: \"left right\" or [\"left\", \"right\"]")
            }
            fn visit_borrowed_str<E: serde::de::Error>(
                self,
                text: &'de str,
            ) -> std::result::Result<Pair<'de>, E> {
                let (left, right) = text
                    .split_once(' ')
                    .ok_or_else(|| E::custom(format!("the merge {text:?} has no space")))?;
                Ok(Pair(left.into(), right.into()))
            }
            fn visit_str<E: serde::de::Error>(
                self,
                text: &str,
            ) -> std::result::Result<Pair<'de>, E> {
                let (left, right) = text
                    .split_once(' ')
                    .ok_or_else(|| E::custom(format!("the merge {text:?} has no space")))?;
                Ok(Pair(left.to_owned().into(), right.to_owned().into()))
            }
            fn visit_seq<S: SeqAccess<'de>>(
                self,
                mut list: S,
            ) -> std::result::Result<Pair<'de>, S::Error> {
                match (
                    list.next_element::<Text>()?,
                    list.next_element::<Text>()?,
                    list.next_element::<Text>()?,
                ) {
                    (Some(left), Some(right), None) => Ok(Pair(left.0, right.0)),
                    _ => Err(S::Error::custom("a merge joins two tokens")),
                }
            }
        }
        deserializer.deserialize_any(Seen)
    }
}

/// Reads `tokenizer.json`, or the one in a folder.
///
/// # Errors
/// [`Error::Io`], and [`Error::Format`] where the file is not what it should be, or asks for what
/// this crate cannot do exactly.
pub fn load(path: &Path) -> Result<Tokenizer> {
    let inside = path.join("tokenizer.json");
    let path = if path.is_dir() { &inside } else { path };
    from_bytes(&read(path)?, path)
}

/// The same from memory; `path` is named in errors.
///
/// # Errors
/// As [`load`].
pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<Tokenizer> {
    let bad = |what: String| Error::format(path, what);
    let file: File = serde_json::from_slice(bytes).map_err(|error| {
        bad(format!(
            "not a tokenizer.json that this program reads: {error}"
        ))
    })?;
    check_options(&file).map_err(bad)?;
    let pattern = read_pattern(&file.pre_tokenizer).map_err(bad)??;
    let specials = read_added(&file.added_tokens).map_err(bad)?;
    let tokens = read_tokens(&file.model.vocab, &specials).map_err(bad)?;
    let Model {
        merges,
        ignore_merges,
        ..
    } = file.model;
    let vocab =
        Vocab::from_spelled_merges(tokens, &merges.0, specials, ignore_merges).map_err(bad)?;
    Ok(Tokenizer::new(vocab, pattern))
}

/// Refuses what would change ids in a way that this crate does not follow. An unknown token is no
/// such thing: a byte-level vocabulary with all 256 bytes never needs it.
fn check_options(file: &File) -> Sentence<()> {
    let model = &file.model;
    let refused = |option: &str| {
        Err(format!(
            "it asks for {option}, which this program does not do"
        ))
    };
    let given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    match model.kind.as_deref() {
        None | Some("BPE") => {}
        Some(other) => return Err(format!("its model is {other:?}; only \"BPE\" is read")),
    }
    if !file.truncation.is_null() {
        return refused("truncation");
    }
    if !file.padding.is_null() {
        return refused("padding");
    }
    if !file.normalizer.is_null() && !is_empty_sequence(&file.normalizer, "normalizers") {
        return refused(&format!("the normalizer {}", kind(&file.normalizer)));
    }
    if model.dropout.is_some_and(|dropout| dropout != 0.0) {
        return refused("dropout");
    }
    if given(&model.continuing_subword_prefix) || given(&model.end_of_word_suffix) {
        return refused("a prefix or suffix on parts of words");
    }
    if model.byte_fallback {
        return refused("byte_fallback (SentencePiece style)");
    }
    Ok(())
}

fn kind(part: &Value) -> String {
    part["type"]
        .as_str()
        .map_or_else(|| "without a type".into(), |kind| format!("{kind:?}"))
}

fn is_empty_sequence(part: &Value, key: &str) -> bool {
    part["type"] == "Sequence" && part[key].as_array().is_some_and(Vec::is_empty)
}

/// The pattern that a pre-tokenizer means. The inner result is the regex's own.
fn read_pattern(part: &Value) -> Sentence<Result<Pattern>> {
    let steps = match part["type"].as_str() {
        Some("Sequence") => part["pretokenizers"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default(),
        _ => std::slice::from_ref(part),
    };
    match steps {
        [byte_level] => {
            let named = if byte_level_splits(byte_level)? {
                "gpt2"
            } else {
                "none"
            };
            Ok(Pattern::named(named))
        }
        [split, byte_level] if split["type"] == "Split" && !byte_level_splits(byte_level)? => {
            let Some(regex) = split["pattern"]["Regex"].as_str() else {
                return Err("its Split is not by a regex; only that is read".into());
            };
            let behavior = split["behavior"].as_str().unwrap_or_default();
            let inverted = split["invert"].as_bool().unwrap_or(false);
            match (behavior, inverted) {
                ("Isolated", false) | ("Removed", true) => Ok(named_or_own(regex)),
                _ => Err(format!(
                    "its Split has behavior {behavior:?} with invert {inverted}; only \"Isolated\" is read"
                )),
            }
        }
        _ => {
            let kinds: Vec<String> = steps.iter().map(kind).collect();
            Err(format!(
                "its pre_tokenizer is {}; only ByteLevel, or one Split by a regex and then ByteLevel, is read",
                kinds.join(", ")
            ))
        }
    }
}

/// Whether a `ByteLevel` step cuts by GPT-2's pattern.
fn byte_level_splits(step: &Value) -> Sentence<bool> {
    if step["type"] != "ByteLevel" {
        return Err(format!(
            "its pre_tokenizer is {}; only ByteLevel, or one Split by a regex and then ByteLevel, is read",
            kind(step)
        ));
    }
    if step["add_prefix_space"].as_bool().unwrap_or(true) {
        return Err("it asks for add_prefix_space, which this program does not do".into());
    }
    Ok(step["use_regex"].as_bool().unwrap_or(true))
}

/// How `tokenizer.json` writes the patterns whose own spelling means something else to Hugging Face's
/// regex engine, where `$` is the end of any line and `{1,3}+` repeats.
const WRITTEN: [(&str, &str); 1] = [(
    "cl100k",
    concat!(
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|",
        r"\s+\z|\s*[\r\n]|\s+(?!\S)|\s"
    ),
)];

/// The named pattern that a regex writes, or the regex as the user's own.
fn named_or_own(regex: &str) -> Result<Pattern> {
    match WRITTEN.iter().find(|(_, written)| *written == regex) {
        Some((name, _)) => Pattern::named(name),
        None => Pattern::from_regex(regex),
    }
}

fn read_added(added: &[Added]) -> Sentence<Vec<Special>> {
    for token in added {
        if token.lstrip || token.rstrip || token.single_word {
            return Err(format!(
                "its added token {:?} asks for lstrip, rstrip or single_word, which this program does not do",
                token.content
            ));
        }
    }
    refuse_overlaps(added)?;
    let special = |token: &Added| Special {
        text: token.content.clone(),
        id: token.id,
        always: !token.special,
    };
    Ok(added.iter().map(special).collect())
}

/// Hugging Face looks for tokens with `normalized: false` in the whole text, then for the others in
/// what lies between. Looking for all at once is the same where no token of one kind can overlap one
/// of the other.
fn refuse_overlaps(added: &[Added]) -> Sentence<()> {
    let mut beginnings: HashMap<&[u8], (bool, bool)> = HashMap::new();
    for token in added {
        let text = token.content.as_bytes();
        for end in 1..=text.len().min(MAX_OVERLAP) {
            let kinds = beginnings.entry(&text[..end]).or_default();
            *(if token.normalized {
                &mut kinds.1
            } else {
                &mut kinds.0
            }) = true;
        }
    }
    for token in added {
        let text = token.content.as_bytes();
        for start in 0..text.len() {
            for end in [text.len(), text.len().min(start + MAX_OVERLAP)] {
                let kinds = beginnings
                    .get(&text[start..end])
                    .copied()
                    .unwrap_or_default();
                if if token.normalized { kinds.0 } else { kinds.1 } {
                    return Err(format!(
                        "its added token {:?} overlaps one that differs in \"normalized\", which this program does not do",
                        token.content
                    ));
                }
            }
        }
    }
    Ok(())
}

/// Beginnings of added tokens that are compared.
const MAX_OVERLAP: usize = 64;

fn read_tokens(entries: &Entries, specials: &[Special]) -> Sentence<Tokens> {
    let added: HashMap<&str, u32> = specials
        .iter()
        .map(|special| (special.text.as_str(), special.id))
        .collect();
    let mut tokens = Tokens::with_capacity(entries.0.len());
    let mut bytes = Vec::new();
    for (text, id) in &entries.0 {
        match added.get(text.as_ref()) {
            Some(other) if other == id => continue,
            Some(other) => {
                return Err(format!(
                    "the added token {text:?} has id {other}, but the vocabulary gives it {id}"
                ));
            }
            None => {}
        }
        bytes.clear();
        printable::to_bytes(text, &mut bytes).map_err(|char| {
            format!("the token {text:?} is not byte-level: {char:?} stands for no byte")
        })?;
        tokens.insert(*id, &bytes)?;
    }
    Ok(tokens)
}

/// Writes a `tokenizer.json` that Hugging Face's library reads to the same ids.
///
/// # Errors
/// [`Error::Io`]; [`Error::Usage`] where the format cannot say what the tokenizer does.
pub fn save(tokenizer: &Tokenizer, path: &Path) -> Result<()> {
    require_plain_merges(tokenizer, path)?;
    write_whole(path, to_json(tokenizer).as_bytes())
}

/// Refuses vocabularies whose ids are not those of their merges.
pub(crate) fn require_plain_merges(tokenizer: &Tokenizer, path: &Path) -> Result<()> {
    if tokenizer.vocab().has_exact_merges() {
        return Ok(());
    }
    Err(Error::usage(format!(
        "cannot write {}: some tokens of this ranked vocabulary are made by no merge; save it as .tiktoken",
        path.display()
    )))
}

/// The text of `tokenizer.json`, a line a token and a merge.
pub fn to_json(tokenizer: &Tokenizer) -> String {
    let vocab = tokenizer.vocab();
    let quoted = |text: &str| Value::from(text).to_string();
    let added: Vec<String> = specials_by_id(vocab)
        .iter()
        .map(|special| {
            format!(
                "    {{\"id\": {}, \"content\": {}, \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false, \"special\": {}}}",
                special.id, quoted(&special.text), !special.always
            )
        })
        .collect();
    let mut tokens = String::new();
    for (id, text) in written_tokens(vocab) {
        begin_line(&mut tokens);
        quote(&mut tokens, &text);
        // Writing into a String cannot fail.
        let _ = write!(tokens, ": {id}");
    }
    let mut merges = String::new();
    for &(left, right) in vocab.merges() {
        begin_line(&mut merges);
        let mut pair = printable::to_text(vocab.tokens().get(left));
        pair.push(' ');
        pair.extend(printable::chars(vocab.tokens().get(right)));
        quote(&mut merges, &pair);
    }
    format!(
        r#"{{
  "version": "1.0",
  "truncation": null,
  "padding": null,
  "added_tokens": [
{}
  ],
  "normalizer": null,
  "pre_tokenizer": {},
  "post_processor": null,
  "decoder": {{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}},
  "model": {{
    "type": "BPE",
    "dropout": null,
    "unk_token": null,
    "continuing_subword_prefix": null,
    "end_of_word_suffix": null,
    "fuse_unk": false,
    "byte_fallback": false,
    "ignore_merges": {},
    "vocab": {{
{}
    }},
    "merges": [
{}
    ]
  }}
}}
"#,
        added.join(",\n"),
        pre_tokenizer(tokenizer.pattern()),
        vocab.whole_pieces(),
        tokens,
        merges
    )
}

/// Ends the line before, if there is one, and begins the next.
fn begin_line(lines: &mut String) {
    lines.push_str(if lines.is_empty() {
        "      "
    } else {
        ",\n      "
    });
}

/// Appends a JSON string; by hand, because a vocabulary has tens of thousands.
fn quote(json: &mut String, text: &str) {
    json.push('"');
    for char in text.chars() {
        match char {
            '"' | '\\' => json.extend(['\\', char]),
            '\0'..='\u{1F}' => {
                // Writing into a String cannot fail.
                let _ = write!(json, "\\u{:04x}", u32::from(char));
            }
            _ => json.push(char),
        }
    }
    json.push('"');
}

/// Ids and how a vocabulary in JSON writes them, by ascending id. Special tokens are among them:
/// Hugging Face's library numbers anew those that are not.
pub(super) fn written_tokens(vocab: &Vocab) -> Vec<(u32, String)> {
    let ordinary = ordinary(vocab).map(|(id, token)| (id, printable::to_text(token)));
    let specials = vocab
        .specials()
        .iter()
        .map(|special| (special.id, special.text.clone()));
    let mut tokens: Vec<(u32, String)> = ordinary.chain(specials).collect();
    tokens.sort_unstable();
    tokens
}

/// The pre-tokenizer that cuts as `pattern` does.
fn pre_tokenizer(pattern: &Pattern) -> Value {
    let byte_level = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
    match pattern.name() {
        "none" => byte_level(false),
        "gpt2" => byte_level(true),
        name => {
            let written = WRITTEN.iter().find(|(known, _)| *known == name);
            let regex = written.map_or(pattern.regex(), |(_, regex)| regex);
            let split = json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
            json!({"type": "Sequence", "pretokenizers": [split, byte_level(false)]})
        }
    }
}
