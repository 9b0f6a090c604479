//! What must hold for any bytes. Each function is a fuzz target of `fuzz/`, and `cargo test` runs it on
//! the inputs kept in `fuzz/kept/`.
//!
//! A target panics where something does not hold; that bytes are refused is fine. Zero bytes part
//! the sections of an input, so that a fuzzer can grow each by itself.

#![allow(clippy::unwrap_used, clippy::expect_used)] // They are the checks.

use crate::control::Control;
use crate::count::Counts;
use crate::formats::{gpt2, huggingface, printable, tiktoken};
use crate::pretokenize::Pattern;
use crate::shards::{MANIFEST_FILE, Reading, Search, for_each_batch, verify_dataset};
use crate::specials::SpecialRule;
use crate::tokenizer::Tokenizer;
use crate::train::{Tie, TrainOptions, reference, train};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

const PATTERNS: [&str; 6] = ["gpt2", "cl100k", "o200k", "llama3", "qwen2", "none"];

const SPECIAL: &str = "<|x|>";

/// A check of one input.
pub type Target = fn(&[u8]);

/// Every target by its name.
pub const TARGETS: [(&str, Target); 9] = [
    ("scan", scan),
    ("own_regex", own_regex),
    ("encode", encode),
    ("merge", merge),
    ("tokenizer_json", tokenizer_json),
    ("ranks", ranks),
    ("gpt2_files", gpt2_files),
    ("dataset", dataset),
    ("documents", documents),
];

/// The first byte, or 0, and the rest.
fn first(data: &[u8]) -> (usize, &[u8]) {
    match data.split_first() {
        Some((&byte, rest)) => (byte.into(), rest),
        None => (0, data),
    }
}

/// The parts between zero bytes, and empty ones where there are fewer.
fn sections<const N: usize>(data: &[u8]) -> [&[u8]; N] {
    let mut parts = data.splitn(N, |&byte| byte == 0);
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}

/// The published scanners find the pieces of their regex; a safe split cuts no piece.
pub fn scan(data: &[u8]) {
    static ALL: LazyLock<Vec<(Pattern, fancy_regex::Regex)>> = LazyLock::new(|| {
        let pattern = |name: &&str| Pattern::named(name).unwrap();
        let regex = |pattern: Pattern| (pattern.clone(), fancy_regex::Regex::new(pattern.regex()));
        PATTERNS[..5]
            .iter()
            .map(|name| regex(pattern(name)))
            .map(|(pattern, regex)| (pattern, regex.unwrap()))
            .collect()
    });
    let (choice, text) = first(data);
    let (pattern, regex) = &ALL[choice % ALL.len()];
    let ends = ends(pattern, text).unwrap();
    // The definition speaks of characters: a byte that belongs to none is like U+FFFD.
    let (mut clean, mut byte_of) = (String::new(), HashMap::new());
    let mut at = 0;
    for chunk in text.utf8_chunks() {
        let invalid = chunk
            .invalid()
            .iter()
            .map(|_| (char::REPLACEMENT_CHARACTER, 1));
        for (char, length) in chunk
            .valid()
            .chars()
            .map(|c| (c, c.len_utf8()))
            .chain(invalid)
        {
            clean.push(char);
            at += length;
            byte_of.insert(clean.len(), at);
        }
    }
    let expected: Vec<usize> = regex
        .find_iter(&clean)
        .map(|found| byte_of[&found.unwrap().end()])
        .collect();
    assert_eq!(ends, expected, "pattern {}", pattern.name());
    if let Some(cut) = pattern.safe_split(text, text.len() / 2) {
        assert!(ends.contains(&cut));
    }
}

/// A regex is refused, or cuts any text into pieces that make it up again (but for what it skips).
pub fn own_regex(data: &[u8]) {
    let [regex, text] = sections(data);
    let Ok(Ok(pattern)) = std::str::from_utf8(regex).map(Pattern::from_regex) else {
        return;
    };
    if let Ok(ends) = ends(&pattern, text) {
        assert!(ends.is_sorted_by(|a, b| a < b));
        assert_eq!(ends.last().copied().unwrap_or(0), text.len());
    }
}

fn ends(pattern: &Pattern, text: &[u8]) -> crate::Result<Vec<usize>> {
    let (mut scanner, mut some, mut all) = (pattern.scanner(text), Vec::new(), Vec::new());
    while scanner.fill(&mut some)? {
        all.extend_from_slice(&some);
    }
    Ok(all)
}

/// Encoding by few or many merges is applying them one by one; ids decode to the text; nothing
/// depends on threads or on what was encoded before.
pub fn encode(data: &[u8]) {
    let (choice, rest) = first(data);
    let [recipe, text] = sections(rest);
    let pattern = Pattern::named(PATTERNS[choice % PATTERNS.len()]).unwrap();
    let merges = merges_of(recipe);
    let tokenizer = Tokenizer::from_merges(&merges, pattern, &[SPECIAL.to_owned()]).unwrap();
    let mut expected = Vec::new();
    for piece in tokenizer.split(text).unwrap() {
        expected.extend(merged_one_by_one(piece, &merges));
    }
    let control = Control::new();
    for threads in [Some(1), Some(3), Some(1)] {
        let ids = tokenizer.encode(text, &SpecialRule::PLAIN, threads, &control);
        assert_eq!(ids.unwrap(), expected);
    }
    let count = tokenizer.count(text, &SpecialRule::PLAIN, &control);
    assert_eq!(count.unwrap(), expected.len());
    let ids = tokenizer
        .encode(text, &SpecialRule::ALL, Some(1), &control)
        .unwrap();
    let mut decoded = Vec::new();
    tokenizer.decode_into(&ids, &mut decoded).unwrap();
    assert_eq!(decoded, text);
    let mut stream = crate::tokenizer::DecodeStream::default();
    let mut said: String = ids
        .iter()
        .map(|&id| stream.push(tokenizer.token(id).unwrap()))
        .collect();
    said.push_str(&stream.finish());
    assert_eq!(said, String::from_utf8_lossy(text));
}

/// Two bytes a merge: each names a byte of a small alphabet, or a token made before.
fn merges_of(recipe: &[u8]) -> Vec<(u32, u32)> {
    const LONGEST: usize = 200;
    let mut merges: Vec<(u32, u32)> = Vec::new();
    let mut lengths = vec![1; 256];
    for pair in recipe.chunks_exact(2).take(100) {
        let id = |byte: u8| match (merges.len(), byte) {
            (made, 128..) if made > 0 => 256 + (usize::from(byte - 128) % made) as u32,
            _ => u32::from(byte & 127),
        };
        let (left, right) = (id(pair[0]), id(pair[1]));
        let length = lengths[left as usize] + lengths[right as usize];
        if length <= LONGEST && !merges.contains(&(left, right)) {
            // Two ways to one token are two ids for the same bytes, which is refused.
            let candidate = [&merges[..], &[(left, right)]].concat();
            if Tokenizer::from_merges(
                &candidate,
                Pattern::named("none").unwrap(),
                &[SPECIAL.to_owned()],
            )
            .is_ok()
            {
                merges = candidate;
                lengths.push(length);
            }
        }
    }
    merges
}

/// The definition: of all pairs the merge of lowest rank, the leftmost first.
fn merged_one_by_one(piece: &[u8], merges: &[(u32, u32)]) -> Vec<u32> {
    let mut ids: Vec<u32> = piece.iter().map(|&byte| byte.into()).collect();
    let rank = |pair: &[u32]| merges.iter().position(|&merge| merge == (pair[0], pair[1]));
    while let Some((rank, place)) = ids
        .windows(2)
        .enumerate()
        .filter_map(|(place, pair)| Some((rank(pair)?, place)))
        .min()
    {
        ids.splice(place..place + 2, [256 + rank as u32]);
    }
    ids
}

/// Training finds what counting everything again after each merge finds, under every tie rule.
pub fn merge(data: &[u8]) {
    let (choice, rest) = first(data);
    let (most, rest) = first(rest);
    let mut pieces: Vec<(Vec<u8>, u64)> = Vec::new();
    for part in rest.split(|&byte| byte == 0).take(40) {
        let (weight, piece) = first(part);
        let piece = &piece[..piece.len().min(300)];
        if !piece.is_empty() && pieces.iter().all(|(other, _)| other != piece) {
            // Some counts pass what 32 bits hold.
            let weight = if weight < 250 {
                1 + weight as u64
            } else {
                1 << (weight - 215)
            };
            pieces.push((piece.to_vec(), weight));
        }
    }
    let (tie, most) = (Tie::ALL[choice % 4], most % 60);
    let epochs = if choice < 128 {
        usize::MAX
    } else {
        choice / 4 % 4 + 1
    };
    let options = TrainOptions {
        vocab_size: Some(256 + most),
        epochs: Some(epochs),
        tie,
        ..TrainOptions::default()
    };
    let counted = pieces.iter().map(|(piece, count)| (&piece[..], *count));
    let counts = Counts::from_pieces(counted).unwrap();
    let found = train(counts, &options, &Control::new()).unwrap();
    assert_eq!(found, reference::train(&pieces, tie, most, epochs));
}

/// A `tokenizer.json` is refused, or gives a tokenizer that is read back equal from what it writes.
/// Where the input begins with `~`, its sections fill the places of a well-formed file.
pub fn tokenizer_json(data: &[u8]) {
    let filled = data.strip_prefix(b"~").map(fill_json);
    let json = filled.as_deref().unwrap_or(data);
    let Ok(tokenizer) = huggingface::from_bytes(json, Path::new("<fuzz>")) else {
        return;
    };
    assert_sound(&tokenizer, data);
    let again = huggingface::to_json(&tokenizer);
    let again = huggingface::from_bytes(again.as_bytes(), Path::new("<again>")).unwrap();
    assert_eq!(again.fingerprint(), tokenizer.fingerprint());
}

fn fill_json(data: &[u8]) -> Vec<u8> {
    let [vocab, merges, added, pre_tokenizer, more] = sections(data);
    let bytes: Vec<String> = (0..=255_u8)
        .map(|byte| format!("{}: {byte}", serde_json::json!(printable::to_text(&[byte]))))
        .collect();
    let bytes = bytes.join(",");
    let pre_tokenizer = if pre_tokenizer.is_empty() {
        br#"{"type": "ByteLevel", "add_prefix_space": false}"#
    } else {
        pre_tokenizer
    };
    let parts: [&[u8]; 11] = [
        br#"{"added_tokens": ["#,
        added,
        br#"], "pre_tokenizer": "#,
        pre_tokenizer,
        br#", "model": {"type": "BPE", "vocab": {"#,
        bytes.as_bytes(),
        vocab,
        br#"}, "merges": ["#,
        merges,
        b"]",
        &[more, b"}}"].concat(),
    ];
    parts.concat()
}

/// What any tokenizer does: its ids decode to the text, and are the same again when it is warm.
fn assert_sound(tokenizer: &Tokenizer, text: &[u8]) {
    let control = Control::new();
    let encode = || tokenizer.encode(text, &SpecialRule::ALL, Some(1), &control);
    let Ok(ids) = encode() else {
        return; // A regex may give up.
    };
    assert_eq!(encode().unwrap(), ids);
    let mut decoded = Vec::new();
    tokenizer.decode_into(&ids, &mut decoded).unwrap();
    assert_eq!(decoded, text);
    tokenizer.unreachable().unwrap();
}

/// Ranks are refused, or encode as tiktoken's rule says: a piece that is a token is that, else two
/// neighbours that make the token of lowest rank are joined, the leftmost first.
/// Where the input begins with `~`, the bytes come before it as the first 256 ranks.
pub fn ranks(data: &[u8]) {
    let [file, text] = sections(data);
    let mut lines = Vec::new();
    if let Some(file) = file.strip_prefix(b"~") {
        for byte in 0..=255_u8 {
            lines.extend_from_slice(format!("{} {byte}\n", STANDARD.encode([byte])).as_bytes());
        }
        lines.extend_from_slice(file);
    } else {
        lines.extend_from_slice(file);
    }
    let none = || Pattern::named("none").unwrap();
    let Ok(tokenizer) = tiktoken::from_bytes(&lines, Path::new("<fuzz>"), none(), None) else {
        return;
    };
    assert_sound(&tokenizer, text);
    let ranks: HashMap<&[u8], u32> = tokenizer
        .vocab()
        .tokens()
        .iter()
        .map(|(id, t)| (t, id))
        .collect();
    let piece = &text[..text.len().min(200)];
    let ids = tokenizer.encode(piece, &SpecialRule::PLAIN, Some(1), &Control::new());
    assert_eq!(ids.unwrap(), ranked_one_by_one(piece, &ranks));
}

fn ranked_one_by_one(piece: &[u8], ranks: &HashMap<&[u8], u32>) -> Vec<u32> {
    if let Some(&id) = ranks.get(piece) {
        return vec![id];
    }
    let mut cuts: Vec<usize> = (0..=piece.len()).collect();
    while let Some((_, place)) = cuts
        .windows(3)
        .enumerate()
        .filter_map(|(place, cut)| Some((*ranks.get(&piece[cut[0]..cut[2]])?, place)))
        .min()
    {
        cuts.remove(place + 1);
    }
    cuts.windows(2)
        .map(|cut| ranks[&piece[cut[0]..cut[1]]])
        .collect()
}

/// GPT-2's pair of files is refused, or gives a tokenizer.
/// Where the input begins with `~`, the vocabulary has the bytes already.
pub fn gpt2_files(data: &[u8]) {
    let [vocab, merges, text] = sections(data);
    let mut json = vocab.to_vec();
    if let Some(vocab) = vocab.strip_prefix(b"~") {
        let entry =
            |byte: u8| format!("{}: {byte}", serde_json::json!(printable::to_text(&[byte])));
        let bytes: Vec<String> = (0..=255).map(entry).collect();
        json = [b"{", bytes.join(",").as_bytes(), vocab, b"}"].concat();
    }
    let (one, other) = (Path::new("<vocab>"), Path::new("<merges>"));
    if let Ok(tokenizer) = gpt2::from_bytes(&json, merges, one, other) {
        assert_sound(&tokenizer, text);
    }
}

/// A file of its own in a folder of this process.
fn file(name: &str, content: &[u8]) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("microgpt-fuzz-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(name), content).unwrap();
    folder
}

/// A manifest and a shard `s` are refused or agree.
pub fn dataset(data: &[u8]) {
    let (length, rest) = (data.len().min(2), &data[data.len().min(2)..]);
    let length = usize::from(u16::from_le_bytes(std::array::from_fn(|i| {
        *data[..length].get(i).unwrap_or(&0)
    })));
    let (manifest, shard) = rest.split_at(length.min(rest.len()));
    file("s", shard);
    let folder = file(MANIFEST_FILE, manifest);
    let _ = verify_dataset(&folder, &Control::new());
}

/// Documents in text or JSON lines, plain or compressed, are read or refused, and no byte is made up.
pub fn documents(data: &[u8]) {
    let (choice, content) = first(data);
    let name = ["d.txt", "d.jsonl"][choice % 2];
    let search = Search {
        names: vec![file(name, content).join(name)],
        include: Vec::new(),
        format: None,
        standard_input: None,
    };
    let reading = Reading {
        separator: ["<|endoftext|>", "", "\n", "aa"][choice / 2 % 4].to_owned(),
        field: "text".to_owned(),
    };
    let pattern = Pattern::named("gpt2").unwrap();
    let _ = for_each_batch(&search, &reading, &pattern, &Control::new(), &mut |texts| {
        assert!(texts.iter().all(|text| !text.is_empty()));
        Ok(())
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text begins at each place of two 64-byte blocks, pieces straddle their edges, and both ways to
    /// encode, with wide registers and without, give the ids of the definition.
    #[test]
    fn every_alignment_gives_the_same_ids_with_and_without_wide_registers() {
        let merges = merges_of(b"thheer\x80\x81inng \x80\x82a  \x88\x88\xc3\xa9\x84g");
        let words =
            "There's  nothing thereafter,\r\n   in\tthé 日本 inn 12345 aaaaaaaaaaaaaaaaaaaaaaaa ";
        let text = words.repeat(5);
        for pattern in PATTERNS {
            let pattern = Pattern::named(pattern).unwrap();
            let tokenizer = || Tokenizer::from_merges(&merges, pattern.clone(), &[]).unwrap();
            let (wide, narrow) = (tokenizer(), tokenizer());
            let control = Control::new();
            for start in 0..128 {
                let mut shifted = vec![b'?'; start];
                shifted.extend_from_slice(text.as_bytes());
                for text in [&shifted[..], &shifted[start..]] {
                    let pieces = wide.split(text).unwrap();
                    let expected: Vec<u32> = pieces
                        .iter()
                        .flat_map(|piece| merged_one_by_one(piece, &merges))
                        .collect();
                    for (way, tokenizer) in [(false, &wide), (true, &narrow)] {
                        crate::encode::NARROW.set(way);
                        let ids = tokenizer.encode(text, &SpecialRule::PLAIN, Some(1), &control);
                        crate::encode::NARROW.set(false);
                        assert_eq!(ids.unwrap(), expected, "start {start}, narrow {way}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_fuzzing_kept_still_holds() {
        for (name, target) in TARGETS {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("fuzz/kept")
                .join(name);
            let mut files: Vec<_> = fs::read_dir(&folder)
                .unwrap()
                .map(|file| file.unwrap().path())
                .collect();
            files.sort();
            assert!(!files.is_empty(), "{} has no input", folder.display());
            for file in files {
                eprintln!("{}", file.display());
                target(&fs::read(file).unwrap());
            }
        }
    }
}
