use super::{CHUNK, Counter, Counts};
use crate::control::{Control, Stage};
use crate::error::Error;
use crate::pretokenize::Pattern;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

type Counted = BTreeMap<Vec<u8>, u64>;

fn as_map(counts: &Counts) -> Counted {
    let mut map = Counted::new();
    counts.for_each(|piece, count| {
        assert!(
            map.insert(piece.to_vec(), count).is_none(),
            "{piece:?} is there twice"
        );
    });
    map
}

fn in_order(counts: &Counts) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    counts.for_each_in_order(|piece, _| pieces.push(piece.to_vec()));
    pieces
}

/// What the definition says, with no threads, chunks or tables.
fn expected(texts: &[&[u8]], pattern: &Pattern, specials: &[&str]) -> (Counted, Vec<Vec<u8>>) {
    let (mut counts, mut order) = (Counted::new(), Vec::new());
    for text in texts {
        for plain in without(text, specials) {
            let (mut scanner, mut ends, mut start) = (pattern.scanner(plain), Vec::new(), 0);
            while scanner.fill(&mut ends).unwrap() {
                for &end in &ends {
                    let piece = plain[start..end].to_vec();
                    let count = counts.entry(piece.clone()).or_insert(0);
                    if *count == 0 {
                        order.push(piece);
                    }
                    *count += 1;
                    start = end;
                }
            }
        }
    }
    (counts, order)
}

/// The stretches between special tokens.
fn without<'a>(text: &'a [u8], specials: &[&str]) -> Vec<&'a [u8]> {
    let (mut plain, mut start, mut at) = (Vec::new(), 0, 0);
    while at < text.len() {
        let here = specials
            .iter()
            .filter(|special| text[at..].starts_with(special.as_bytes()));
        match here.map(|special| special.len()).max() {
            Some(len) => {
                plain.push(&text[start..at]);
                (start, at) = (at + len, at + len);
            }
            None => at += 1,
        }
    }
    plain.push(&text[start..]);
    plain
}

fn owned(specials: &[&str]) -> Vec<String> {
    specials.iter().map(ToString::to_string).collect()
}

fn count(texts: &[&[u8]], pattern: &Pattern, specials: &[&str], threads: usize) -> Counts {
    let control = Control::new();
    let mut counter = Counter::new(pattern, &owned(specials), threads).unwrap();
    counter.add_texts(texts, &control).unwrap();
    counter.finish(&control).unwrap()
}

/// Words and numbers, a few megabytes, some of them long, with what splits badly in between.
fn long_text() -> Vec<u8> {
    let mut text = String::new();
    let mut state = 1u64;
    while text.len() < 3 * CHUNK + 12_345 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        match state >> 60 {
            0 => text += &format!("<|a|>{} ", state >> 40 & 0xFF),
            1 => text += "\n\n  \u{3000}\u{a0}x",
            2 => text += "<|a|><|ab|><|a",
            3 => text += &"é".repeat((state >> 33 & 63) as usize),
            4 if state >> 50 & 0x3FF == 0 => text += &"-".repeat(200_000),
            _ => text += &format!(" w{}", state >> 48 & 0x7FF),
        }
    }
    text.into_bytes()
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("microgpt-count-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

#[test]
fn counts_and_their_order_are_those_of_the_definition_for_any_number_of_threads() {
    let long = long_text();
    let texts = [&long[..], b"", b"w1 w1", b"<|a|>", &long[..CHUNK + 7]];
    let specials = ["<|a|>", "<|ab|>", "|><|"];
    for name in ["gpt2", "cl100k", "o200k"] {
        let pattern = Pattern::named(name).unwrap();
        for specials in [&specials[..], &[]] {
            let (pieces, order) = expected(&texts, &pattern, specials);
            for threads in 1..=3 {
                let counts = count(&texts, &pattern, specials, threads);
                assert_eq!(
                    as_map(&counts),
                    pieces,
                    "{name}, {specials:?}, {threads} threads"
                );
                assert_eq!(
                    in_order(&counts),
                    order,
                    "{name}, {specials:?}, {threads} threads"
                );
            }
        }
    }
}

#[test]
fn files_are_counted_as_the_texts_that_they_hold() {
    let folder = Folder::new("files");
    let long = long_text();
    let texts = [
        &long[..],
        b"",
        b"w1 w1 \xFF\xE2\x82",
        &long[CHUNK / 2..CHUNK * 2],
        b"tail",
    ];
    let name = |index| format!("{index}.txt");
    let paths: Vec<_> = (0..texts.len())
        .map(|i| folder.write(&name(i), texts[i]))
        .collect();
    let specials = ["<|a|>", "<|ab|>"];
    for name in ["gpt2", "cl100k", r"\w+|\W"] {
        let pattern = Pattern::named(name).unwrap();
        let (pieces, order) = expected(&texts, &pattern, &specials);
        for threads in 1..=3 {
            let control = Control::new();
            control.begin(Stage::Count, 0);
            let mut counter = Counter::new(&pattern, &owned(&specials), threads).unwrap();
            counter.add_files(&paths, &control).unwrap();
            let bytes: usize = texts.iter().map(|text| text.len()).sum();
            assert_eq!(counter.text_bytes(), bytes as u64);
            assert_eq!(control.progress(), (Stage::Count, bytes as u64, 0));
            let counts = counter.finish(&control).unwrap();
            assert_eq!(as_map(&counts), pieces, "{name}, {threads} threads");
            assert_eq!(in_order(&counts), order, "{name}, {threads} threads");
        }
    }
}

#[test]
fn text_that_cannot_be_cut_is_one_piece() {
    let folder = Folder::new("uncut");
    let text = vec![b'x'; 5 * CHUNK];
    let path = folder.write("x.txt", &text);
    for name in ["gpt2", "none"] {
        let pattern = Pattern::named(name).unwrap();
        let mut counter = Counter::new(&pattern, &[], 2).unwrap();
        counter
            .add_files(std::slice::from_ref(&path), &Control::new())
            .unwrap();
        let counts = counter.finish(&Control::new()).unwrap();
        assert_eq!(as_map(&counts), Counted::from([(text.clone(), 1)]));
    }
}

#[test]
fn pieces_of_every_length_around_the_inline_key_are_told_apart() {
    let pattern = Pattern::named("gpt2").unwrap();
    let words: Vec<String> = (1..40)
        .flat_map(|n| {
            [
                " ".to_owned() + &"a".repeat(n),
                " ".to_owned() + &"b".repeat(n),
            ]
        })
        .collect();
    let text = words
        .iter()
        .enumerate()
        .map(|(i, word)| word.repeat(i + 1))
        .collect::<String>();
    let counts = count(&[text.as_bytes()], &pattern, &[], 1);
    let expected: Counted = words
        .iter()
        .zip(1..)
        .map(|(w, n)| (w.clone().into_bytes(), n))
        .collect();
    assert_eq!(as_map(&counts), expected);
}

#[test]
fn many_distinct_pieces_survive_the_growth_of_the_table() {
    let pattern = Pattern::named("gpt2").unwrap();
    let text: String = (0..100_000u64)
        .map(|n| format!(" {:x}", n.wrapping_mul(0x9E37_79B9_7F4A)))
        .collect();
    let mut expected = HashMap::new();
    let (pieces, _) = self::expected(&[text.as_bytes()], &pattern, &[]);
    expected.extend(pieces);
    let counts = count(&[text.as_bytes()], &pattern, &[], 2);
    assert!(counts.len() > 50_000 && counts.len() == expected.len());
    counts.for_each(|piece, count| assert_eq!(expected[piece], count));
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let folder = Folder::new("missing");
    let missing = folder.0.join("nothing.txt");
    let pattern = Pattern::named("gpt2").unwrap();
    for path in [&missing, &folder.0] {
        let mut counter = Counter::new(&pattern, &[], 2).unwrap();
        let error = counter
            .add_files(std::slice::from_ref(path), &Control::new())
            .unwrap_err();
        assert!(
            error.to_string().contains(path.to_str().unwrap()),
            "{error}"
        );
        assert!(matches!(error, Error::Io { .. }));
    }
}

#[test]
fn a_stopped_control_ends_counting() {
    let control = Control::new();
    control.stop();
    let pattern = Pattern::named("gpt2").unwrap();
    let mut counter = Counter::new(&pattern, &[], 2).unwrap();
    assert!(matches!(
        counter.add_texts(&[b"a b"], &control),
        Err(Error::Interrupted)
    ));
}

#[test]
fn no_thread_and_empty_special_tokens_are_usage_errors() {
    let pattern = Pattern::named("gpt2").unwrap();
    assert!(matches!(
        Counter::new(&pattern, &owned(&["x", ""]), 1),
        Err(Error::Usage(_))
    ));
    assert!(matches!(
        Counter::new(&pattern, &[], 0),
        Err(Error::Usage(_))
    ));
}
