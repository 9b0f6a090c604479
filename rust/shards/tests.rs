//! Whole datasets against a plain reading of the same documents.

use super::testing::Scratch;
use super::*;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Joins pairs of equal bytes; a space joins nothing. So a cut is safe before a space, and a wrong
/// cut shows.
struct Pairs {
    end_of_text_id: Option<u32>,
    vocab_size: u32,
    /// Bytes encoded so far, and after how many to fail.
    encoded: AtomicU64,
    fail_after: u64,
}

impl Pairs {
    fn new() -> Self {
        let end_of_text_id = Some(512);
        Self {
            end_of_text_id,
            vocab_size: 513,
            encoded: AtomicU64::new(0),
            fail_after: u64::MAX,
        }
    }
}

fn pairs(text: &[u8], ids: &mut Vec<u32>) {
    let mut at = 0;
    while at < text.len() {
        let id = u32::from(text[at]);
        let joined = text[at] != b' ' && text.get(at + 1) == Some(&text[at]);
        ids.push(if joined { 256 + id } else { id });
        at += 1 + usize::from(joined);
    }
}

impl Encode for Pairs {
    type Encoder<'e> = &'e Self;

    fn start(&self) -> &Self {
        self
    }

    fn safe_cut(&self, text: &[u8]) -> Option<usize> {
        memchr::memrchr(b' ', text).filter(|&at| at > 0)
    }

    fn facts(&self) -> TokenizerFacts {
        TokenizerFacts {
            fingerprint: "pairs".to_owned(),
            vocab_size: self.vocab_size,
            end_of_text_id: self.end_of_text_id,
            kind: "bpe".to_owned(),
        }
    }

    fn save(&self, path: &Path) -> Result<()> {
        fs::write(path, "pairs").map_err(Error::io("cannot write", path))
    }
}

impl EncodeText for &Pairs {
    fn encode(&mut self, text: &[u8], ids: &mut Vec<u32>) -> Result<()> {
        if self.encoded.fetch_add(text.len() as u64, Relaxed) >= self.fail_after {
            return Err(Error::Interrupted);
        }
        pairs(text, ids);
        Ok(())
    }
}

fn options(names: &[PathBuf]) -> Options {
    Options {
        search: Search {
            names: names.to_vec(),
            ..Search::default()
        },
        reading: Reading {
            separator: "<|endoftext|>".to_owned(),
            field: "text".to_owned(),
        },
        split: SplitOptions {
            fraction: None,
            seed: 0,
        },
        special_tokens: Vec::new(),
        shard_tokens: SHARD_TOKENS,
        threads: Some(2),
    }
}

/// The ids of a side, its shards checked against the manifest.
fn ids_of(folder: &Path, manifest: &Manifest, side: &SideFacts) -> Vec<u32> {
    verify_dataset(folder, &Control::new()).unwrap();
    let mut ids = Vec::new();
    for shard in &side.shards {
        let bytes = fs::read(folder.join(&shard.file)).unwrap();
        match manifest.dtype {
            Width::Uint16 => ids.extend(
                bytes[1024..]
                    .chunks_exact(2)
                    .map(|b| u32::from(u16::from_le_bytes([b[0], b[1]]))),
            ),
            Width::Uint32 => ids.extend(
                bytes[1024..]
                    .chunks_exact(4)
                    .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])),
            ),
        }
    }
    assert_eq!(ids.len() as u64, side.tokens);
    ids
}

/// The names and contents of a folder's files, the lock left out.
fn files_of(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| {
            (
                entry.file_name().into_string().unwrap(),
                fs::read(entry.path()).unwrap(),
            )
        })
        .filter(|(name, _)| name != LOCK_FILE)
        .collect()
}

/// Words of the alphabet "ab ", with long runs, from a small generator.
fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15);
    (0..bytes)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            b"aaaabbb  \n"[(state >> 40) as usize % 10]
        })
        .collect()
}

/// Documents of all lengths, longer than a job too.
fn documents() -> Vec<Vec<u8>> {
    let lengths = [
        1,
        5_000,
        100,
        3_000_000,
        1 << 20,
        700_000,
        40_000,
        2,
        1_100_000,
    ];
    (0..45)
        .map(|n| noise((lengths[n % lengths.len()] / (1 + n / 9)).max(1), n as u64))
        .collect()
}

fn expected(documents: &[Vec<u8>], side: Side, split: &Split) -> Vec<u32> {
    let mut ids = Vec::new();
    for document in documents
        .iter()
        .filter(|document| split.side(document) == side)
    {
        ids.push(512);
        pairs(document, &mut ids);
    }
    ids
}

use super::split::Side;

#[test]
fn shards_hold_the_ids_of_whole_documents_for_any_threads_and_shard_size() {
    let scratch = Scratch::new();
    let documents = documents();
    let names = vec![scratch.write("a.txt", &documents.join(b"<|endoftext|>\n".as_slice()))];
    let mut seen: Option<BTreeMap<String, Vec<u8>>> = None;
    for (threads, shard_tokens) in [(1, 1_000_000), (2, 1_000_000), (5, 1_000_000), (2, 77_777)] {
        let folder = scratch.path().join(format!("{threads}-{shard_tokens}"));
        let options = Options {
            threads: Some(threads),
            shard_tokens,
            ..options(&names)
        };
        let manifest = write_dataset(&Pairs::new(), &folder, &options, &Control::new()).unwrap();
        assert_eq!(manifest.split.rule, Rule::Documents);
        let sources = options.search.files().unwrap();
        let split =
            Split::decide(options.split, &sources, &options.reading, &Control::new()).unwrap();
        for (side, facts) in [
            (Side::Train, &manifest.train),
            (Side::Valid, &manifest.valid),
        ] {
            let ids = ids_of(&folder, &manifest, facts);
            let expected = expected(&documents, side, &split);
            let differs = ids
                .iter()
                .zip(&expected)
                .position(|(id, expected)| id != expected);
            assert_eq!(differs, None, "{side:?} with {threads} threads");
            assert_eq!(ids.len(), expected.len());
            assert!(
                facts
                    .shards
                    .iter()
                    .rev()
                    .skip(1)
                    .all(|shard| shard.tokens == shard_tokens)
            );
        }
        let text_bytes: usize = documents.iter().map(Vec::len).sum();
        assert_eq!(manifest.source.text_bytes, text_bytes as u64);
        assert_eq!(manifest.train.documents + manifest.valid.documents, 45);
        let files = files_of(&folder);
        if shard_tokens == 1_000_000 {
            assert!(
                *seen.get_or_insert_with(|| files.clone()) == files,
                "{threads} threads differ"
            );
        }
    }
}

#[test]
fn interrupted_write_goes_on_and_ends_in_the_same_bytes() {
    let scratch = Scratch::new();
    let documents = documents();
    let names = vec![scratch.write("a.txt", &documents.join(b"<|endoftext|>".as_slice()))];
    let options = Options {
        shard_tokens: 500_000,
        ..options(&names)
    };
    let whole = scratch.path().join("whole");
    let manifest = write_dataset(&Pairs::new(), &whole, &options, &Control::new()).unwrap();
    for percent in [0, 10, 40, 75, 90] {
        let folder = scratch.path().join(format!("broken-{percent}"));
        let fail_after = manifest.source.text_bytes * percent / 100;
        let failing = Pairs {
            fail_after,
            ..Pairs::new()
        };
        let broken = write_dataset(&failing, &folder, &options, &Control::new());
        assert!(matches!(broken, Err(Error::Interrupted)));
        assert!(!folder.join(MANIFEST_FILE).exists());
        let second = Pairs::new();
        write_dataset(&second, &folder, &options, &Control::new()).unwrap();
        assert!(
            files_of(&folder) == files_of(&whole),
            "broken off at {percent} %"
        );
        let encoded_again = second.encoded.load(Relaxed) + fail_after;
        assert!(
            encoded_again < manifest.source.text_bytes + (12 << 20),
            "what was written is not encoded again"
        );
    }
}

#[test]
fn shard_sealed_after_the_last_checkpoint_is_taken_up_again() {
    let scratch = Scratch::new();
    let names = vec![scratch.write("a.txt", &noise(6_000_000, 3))];
    let options = Options {
        shard_tokens: 400_000,
        ..options(&names)
    };
    let whole = scratch.path().join("whole");
    write_dataset(&Pairs::new(), &whole, &options, &Control::new()).unwrap();
    let folder = scratch.path().join("broken");
    let failing = Pairs {
        fail_after: 3_000_000,
        ..Pairs::new()
    };
    write_dataset(&failing, &folder, &options, &Control::new()).unwrap_err();
    // As if the process had died between the renaming and the journal.
    let growing = files_of(&folder)
        .into_keys()
        .find(|name| name.ends_with(".tmp"))
        .unwrap();
    let sealed = folder.join(growing.strip_suffix(".tmp").unwrap());
    fs::rename(folder.join(&growing), &sealed).unwrap();
    let second = Pairs::new();
    write_dataset(&second, &folder, &options, &Control::new()).unwrap();
    assert!(files_of(&folder) == files_of(&whole));
    assert!(
        second.encoded.load(Relaxed) < 5_000_000,
        "it went on rather than begin anew"
    );
}

#[test]
fn changed_input_begins_anew() {
    let scratch = Scratch::new();
    let names = vec![scratch.write("a.txt", &noise(4_000_000, 3))];
    let options = Options {
        shard_tokens: 300_000,
        ..options(&names)
    };
    let folder = scratch.path().join("d");
    let failing = Pairs {
        fail_after: 2_000_000,
        ..Pairs::new()
    };
    write_dataset(&failing, &folder, &options, &Control::new()).unwrap_err();
    let text = noise(100, 9);
    scratch.write("a.txt", &text);
    let manifest = write_dataset(&Pairs::new(), &folder, &options, &Control::new()).unwrap();
    assert_eq!(manifest.source.text_bytes, 100);
    assert_eq!(
        files_of(&folder).into_keys().collect::<Vec<_>>(),
        [
            "manifest.json",
            "tokenizer.json",
            "train-00000.bin",
            "valid-00000.bin"
        ]
    );
}

#[test]
fn single_document_gives_its_tail_from_a_line_start() {
    let scratch = Scratch::new();
    let text: String = (0..8_000)
        .map(|n| format!("{n} + {n} = {};\n", 2 * n))
        .collect();
    let names = vec![scratch.write("dataset.txt", text.as_bytes())];
    let folder = scratch.path().join("d");
    let encoder = Pairs {
        end_of_text_id: None,
        vocab_size: 70_000,
        ..Pairs::new()
    };
    let manifest = write_dataset(&encoder, &folder, &options(&names), &Control::new()).unwrap();
    assert_eq!(
        (manifest.split.rule, manifest.split.fraction),
        (Rule::Tails, 0.1)
    );
    assert_eq!(manifest.dtype, Width::Uint32);
    let start = text[text.len() * 9 / 10..].find('\n').unwrap() + text.len() * 9 / 10 + 1;
    let (mut train, mut valid) = (Vec::new(), Vec::new());
    pairs(&text.as_bytes()[..start], &mut train);
    pairs(&text.as_bytes()[start..], &mut valid);
    assert_eq!(ids_of(&folder, &manifest, &manifest.train), train);
    assert_eq!(ids_of(&folder, &manifest, &manifest.valid), valid);
    assert_eq!((manifest.train.documents, manifest.valid.documents), (1, 1));
}

#[test]
fn long_line_without_a_safe_cut_is_cut_every_four_mebibytes() {
    let scratch = Scratch::new();
    let text = b"xxy".repeat(3 << 20);
    let names = vec![scratch.write("a.txt", &text)];
    let folder = scratch.path().join("d");
    let options = Options {
        split: SplitOptions {
            fraction: Some(0.0),
            seed: 0,
        },
        ..options(&names)
    };
    let manifest = write_dataset(&Pairs::new(), &folder, &options, &Control::new()).unwrap();
    let mut expected = vec![512];
    text.chunks(4 << 20)
        .for_each(|part| pairs(part, &mut expected));
    assert!(ids_of(&folder, &manifest, &manifest.train) == expected);
    assert_eq!(manifest.split.rule, Rule::None);
    assert!(manifest.valid.shards.is_empty());
}

#[test]
fn tail_of_a_document_that_is_longer_than_a_job_is_exact() {
    let scratch = Scratch::new();
    for length in [
        1_048_576, 1_100_000, 1_165_084, 1_165_085, 1_200_000, 3_000_000, 25_000_000,
    ] {
        let text = noise(length, 5);
        let names = vec![scratch.write("a.txt", &text)];
        let folder = scratch.path().join("d");
        let manifest =
            write_dataset(&Pairs::new(), &folder, &options(&names), &Control::new()).unwrap();
        let first = ((1.0 - manifest.split.fraction) * length as f64).ceil() as usize;
        let start = first - 1 + memchr::memchr(b'\n', &text[first - 1..]).unwrap() + 1;
        let (mut train, mut valid) = (vec![512], vec![512]);
        pairs(&text[..start], &mut train);
        pairs(&text[start..], &mut valid);
        assert!(
            ids_of(&folder, &manifest, &manifest.train) == train,
            "train of {length}"
        );
        assert!(
            ids_of(&folder, &manifest, &manifest.valid) == valid,
            "valid of {length}"
        );
    }
}

#[test]
fn notes_tell_what_was_left_out() {
    let scratch = Scratch::new();
    scratch.write("in/a.txt", b"good <|endoftext|><|endoftext|> b\xffd \xc3");
    scratch.write("in/b.txt", b"bi\0nary");
    let names = [scratch.path().join("in")];
    let folder = scratch.path().join("d");
    let manifest =
        write_dataset(&Pairs::new(), &folder, &options(&names), &Control::new()).unwrap();
    let file = |name: &str| format!("{}/{name}", names[0].display());
    assert_eq!(
        manifest.source.notes,
        [
            format!("binary files left out: 1, the first is {}", file("b.txt")),
            "documents without text left out: 1".to_owned(),
            format!(
                "byte sequences that are no UTF-8, kept as bytes: 2, the first in {}",
                file("a.txt")
            ),
        ]
    );
    let fingerprint = input_fingerprint(&options(&names), &Control::new()).unwrap();
    assert_eq!(manifest.source.fingerprint, fingerprint);
}

#[test]
fn inputs_without_text_leave_no_folder() {
    let scratch = Scratch::new();
    let folder = scratch.path().join("d");
    let empty = scratch.write("a.txt", b"");
    let separators = scratch.write("b.txt", b"<|endoftext|>\n<|endoftext|>");
    for (names, fraction, sentence) in [
        (
            vec![empty.clone()],
            None,
            "a.txt: holds no text to tokenize",
        ),
        (
            vec![empty.clone()],
            Some(0.0),
            "a.txt: holds no text to tokenize",
        ),
        (
            vec![empty, separators],
            None,
            "the 2 input files hold no text to tokenize",
        ),
    ] {
        let options = Options {
            split: SplitOptions { fraction, seed: 0 },
            ..options(&names)
        };
        let error = write_dataset(&Pairs::new(), &folder, &options, &Control::new());
        assert!(error.unwrap_err().to_string().ends_with(sentence));
        assert!(!folder.exists());
    }
}

#[test]
fn one_character_is_a_dataset_without_validation() {
    let scratch = Scratch::new();
    let names = [scratch.write("a.txt", b"x")];
    let folder = scratch.path().join("d");
    let manifest =
        write_dataset(&Pairs::new(), &folder, &options(&names), &Control::new()).unwrap();
    assert_eq!(
        ids_of(&folder, &manifest, &manifest.train),
        [512, u32::from(b'x')]
    );
    assert_eq!(manifest.valid.tokens, 0);
}

#[test]
fn folder_in_use_is_refused() {
    let scratch = Scratch::new();
    let names = [scratch.write("a.txt", b"text")];
    let folder = scratch.path().join("d");
    fs::create_dir(&folder).unwrap();
    let _held = lock(&folder).unwrap();
    let error = write_dataset(&Pairs::new(), &folder, &options(&names), &Control::new());
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("is being written by another process")
    );
}

#[test]
fn error_in_the_input_ends_the_write_and_leaves_no_manifest() {
    let scratch = Scratch::new();
    let mut lines = "{\"text\": \"fine\"}\n".repeat(3_000);
    lines.push_str("broken");
    let names = [scratch.write("a.jsonl", lines.as_bytes())];
    let folder = scratch.path().join("d");
    let error = write_dataset(&Pairs::new(), &folder, &options(&names), &Control::new());
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("a.jsonl:3001: no JSON")
    );
    assert!(!folder.join(MANIFEST_FILE).exists());
}

#[test]
fn damaged_shard_is_found_by_its_checksum() {
    let scratch = Scratch::new();
    let names = [scratch.write("a.txt", &noise(5_000, 1))];
    let folder = scratch.path().join("d");
    write_dataset(&Pairs::new(), &folder, &options(&names), &Control::new()).unwrap();
    let shard = folder.join("train-00000.bin");
    let sound = fs::read(&shard).unwrap();
    let verified = |bytes: &[u8]| {
        fs::write(&shard, bytes).unwrap();
        verify_dataset(&folder, &Control::new()).map_err(|error| error.to_string())
    };
    assert!(verified(&sound).is_ok());
    let mut damaged = sound.clone();
    damaged[2_000] ^= 1;
    assert!(
        verified(&damaged)
            .unwrap_err()
            .contains("the checksum is not what")
    );
    damaged[8] ^= 1;
    assert!(
        verified(&damaged)
            .unwrap_err()
            .contains("the header is not what")
    );
    assert!(
        verified(&sound[..sound.len() - 2])
            .unwrap_err()
            .contains("the length is not what")
    );
}

#[test]
fn impossible_options_are_refused() {
    let names = [PathBuf::from("a.txt")];
    for (options, sentence) in [
        (
            Options {
                shard_tokens: 0,
                ..options(&names)
            },
            "a shard of 0 ids is asked for",
        ),
        (
            Options {
                threads: Some(0),
                ..options(&names)
            },
            "0 threads are asked for",
        ),
    ] {
        let error = write_dataset(&Pairs::new(), Path::new("d"), &options, &Control::new());
        assert!(error.unwrap_err().to_string().starts_with(sentence));
    }
}
