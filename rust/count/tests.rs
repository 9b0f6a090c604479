use super::{CHUNK, CountOptions, Counter, Counts};
use crate::control::{Control, Stage};
use crate::error::Error;
use crate::pretokenize::Pattern;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

type Counted = BTreeMap<Vec<u8>, u64>;

fn as_map(counts: &Counts) -> Counted {
    let mut map = Counted::new();
    let each = |piece: &[u8], count, _| {
        let before = map.insert(piece.to_vec(), count);
        assert!(before.is_none(), "{piece:?} is there twice");
        Ok(())
    };
    counts.for_each(&Control::new(), each).unwrap();
    map
}

fn in_order(counts: &Counts) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    let each = |piece: &[u8], _, first| {
        pieces.push((first, piece.to_vec()));
        Ok(())
    };
    counts.for_each(&Control::new(), each).unwrap();
    pieces.sort();
    pieces.into_iter().map(|(_, piece)| piece).collect()
}

fn counter<'p>(pattern: &'p Pattern, specials: &[&str], threads: usize) -> Counter<'p> {
    let options = CountOptions {
        threads,
        memory: None,
    };
    Counter::new(pattern, &owned(specials), options).unwrap()
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
    let mut counter = counter(pattern, specials, threads);
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
            let mut counter = counter(&pattern, &specials, threads);
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
        let mut counter = counter(&pattern, &[], 2);
        counter
            .add_files(std::slice::from_ref(&path), &Control::new())
            .unwrap();
        let counts = counter.finish(&Control::new()).unwrap();
        assert_eq!(as_map(&counts), Counted::from([(text.clone(), 1)]));
    }
}

#[test]
fn an_empty_piece_is_left_out() {
    let counts = Counts::from_pieces([(&b""[..], 3), (b"ab", 2)]).unwrap();
    assert_eq!(as_map(&counts), [(b"ab".to_vec(), 2)].into());
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
    assert!(
        as_map(&counts)
            .iter()
            .all(|(piece, count)| expected[piece] == *count)
    );
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let folder = Folder::new("missing");
    let missing = folder.0.join("nothing.txt");
    let pattern = Pattern::named("gpt2").unwrap();
    for path in [&missing, &folder.0] {
        let mut counter = counter(&pattern, &[], 2);
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
    let mut counter = counter(&pattern, &[], 2);
    assert!(matches!(
        counter.add_texts(&[b"a b"], &control),
        Err(Error::Interrupted)
    ));
}

#[test]
fn no_thread_empty_special_tokens_and_too_little_memory_are_usage_errors() {
    let pattern = Pattern::named("gpt2").unwrap();
    let refused = |specials: &[&str], threads, memory| {
        let options = CountOptions { threads, memory };
        matches!(
            Counter::new(&pattern, &owned(specials), options),
            Err(Error::Usage(_))
        )
    };
    assert!(refused(&["x", ""], 1, None));
    assert!(refused(&[], 0, None));
    assert!(refused(&[], 2, Some((2 << 20) - 1)));
    assert!(!refused(&[], 2, Some(2 << 20)));
}

/// Words that hardly ever repeat, some of them long.
fn many_pieces(number: u64) -> Vec<u8> {
    let mut text = Vec::new();
    for n in 0..number {
        let mut code = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        text.push(b' ');
        for _ in 0..if n % 50 == 0 { 20 } else { 8 } {
            text.push(b'a' + (code >> 60) as u8);
            code = code.rotate_left(4);
        }
    }
    text
}

fn limited(pattern: &Pattern, threads: usize) -> Counter<'_> {
    let memory = Some(threads * super::LEAST_MEMORY);
    Counter::new(pattern, &[], CountOptions { threads, memory }).unwrap()
}

#[test]
fn counts_and_order_are_the_same_when_most_of_them_lie_on_disk() {
    let pattern = Pattern::named("gpt2").unwrap();
    let mut text = many_pieces(100_000);
    text.extend_from_within(..500_000);
    text.extend(long_text());
    let (pieces, order) = expected(&[&text, &text[..CHUNK]], &pattern, &[]);
    for threads in 1..=3 {
        let control = Control::new();
        let mut counter = limited(&pattern, threads);
        counter
            .add_texts(&[&text, &text[..CHUNK]], &control)
            .unwrap();
        assert!(counter.parts.iter().any(|part| part.runs.is_some()));
        let counts = counter.finish(&control).unwrap();
        assert!(matches!(counts.held, super::Held::Disk(_)));
        assert_eq!(as_map(&counts), pieces, "{threads} threads");
        assert_eq!(in_order(&counts), order, "{threads} threads");
        assert_eq!(counts.len(), pieces.len());
    }
}

#[test]
fn more_runs_than_are_read_at_once_are_merged_in_several_passes() {
    let pattern = Pattern::named("gpt2").unwrap();
    let text = many_pieces(1_500_000);
    let control = Control::new();
    let mut counter = limited(&pattern, 1);
    counter.add_texts(&[&text], &control).unwrap();
    let counts = counter.finish(&control).unwrap();
    let mut unlimited = self::counter(&pattern, &[], 1);
    unlimited.add_texts(&[&text], &control).unwrap();
    let expected = unlimited.finish(&control).unwrap();
    assert!(counts.len() > 1_200_000);
    assert!(as_map(&counts) == as_map(&expected));
}

#[test]
fn temporary_files_are_without_a_name_while_they_are_used() {
    let names = || {
        let own = format!("microgpt-{}-", std::process::id());
        let entries = std::fs::read_dir(std::env::temp_dir()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names
            .filter(|name| name.starts_with(&own) && name.ends_with(".tmp"))
            .count()
    };
    let pattern = Pattern::named("gpt2").unwrap();
    let mut counter = limited(&pattern, 1);
    counter
        .add_texts(&[&many_pieces(50_000)], &Control::new())
        .unwrap();
    assert!(counter.parts[0].runs.is_some());
    // Other tests may be between making theirs and taking its name away.
    let gone = (0..100).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(5));
        names() == 0
    });
    assert!(gone);
}

fn saved(folder: &Folder, name: &str, text: &[u8], pattern: &Pattern) -> PathBuf {
    let (control, path) = (Control::new(), folder.0.join(name));
    let mut counter = counter(pattern, &["<|a|>"], 2);
    counter.add_texts(&[text], &control).unwrap();
    let counts = counter.finish_sorted(&control).unwrap();
    super::save(&counts, pattern, &owned(&["<|a|>"]), &path, &control).unwrap();
    path
}

#[test]
fn count_files_add_up_to_the_counts_of_all_text_in_its_order() {
    let folder = Folder::new("saved");
    let pattern = Pattern::named("gpt2").unwrap();
    let long = long_text();
    let texts = [&long[..CHUNK], b"w1 w2 w3 <|a|>", &long[CHUNK / 2..], b"w3"];
    let name = |index| format!("{index}.counts");
    let paths: Vec<_> = (0..texts.len())
        .map(|index| saved(&folder, &name(index), texts[index], &pattern))
        .collect();
    let (pieces, order) = expected(&texts, &pattern, &["<|a|>"]);
    let told = super::agreed(&paths).unwrap();
    assert_eq!(
        (told.pattern, &told.special_tokens[..]),
        (pattern.clone(), &owned(&["<|a|>"])[..])
    );
    assert_eq!(
        told.text_bytes,
        texts.iter().map(|text| text.len() as u64).sum::<u64>()
    );
    for (threads, memory) in [(1, None), (3, None), (2, Some(2 << 20))] {
        let options = CountOptions { threads, memory };
        let mut counter = Counter::new(&pattern, &told.special_tokens, options).unwrap();
        counter.add_saved(&paths, &Control::new()).unwrap();
        assert_eq!(counter.text_bytes(), told.text_bytes);
        let counts = counter.finish(&Control::new()).unwrap();
        assert!(as_map(&counts) == pieces, "{threads} threads");
        assert!(in_order(&counts) == order, "{threads} threads");
    }
}

#[test]
fn a_count_file_depends_on_neither_threads_nor_memory() {
    let folder = Folder::new("same");
    let pattern = Pattern::named("gpt2").unwrap();
    let text = many_pieces(60_000);
    let write = |name: &str, threads, memory| {
        let (control, path) = (Control::new(), folder.0.join(name));
        let options = CountOptions { threads, memory };
        let mut counter = Counter::new(&pattern, &[], options).unwrap();
        counter.add_texts(&[&text], &control).unwrap();
        let counts = counter.finish_sorted(&control).unwrap();
        super::save(&counts, &pattern, &[], &path, &control).unwrap();
        std::fs::read(path).unwrap()
    };
    let one = write("1", 1, None);
    assert!(one == write("2", 3, None));
    assert!(one == write("3", 2, Some(2 << 20)));
}

fn read(path: &std::path::Path) -> Result<Counted, Error> {
    let paths = [path.to_owned()];
    let told = super::agreed(&paths)?;
    let options = CountOptions {
        threads: 1,
        memory: None,
    };
    let mut counter = Counter::new(&told.pattern, &told.special_tokens, options)?;
    counter.add_saved(&paths, &Control::new())?;
    Ok(as_map(&counter.finish(&Control::new())?))
}

#[test]
fn a_count_file_with_any_byte_changed_or_missing_is_refused() {
    let folder = Folder::new("broken");
    let pattern = Pattern::named("gpt2").unwrap();
    let path = saved(
        &folder,
        "whole",
        b"the cat sat on the mat, abcdefghijklmnopqrstuvwxyz",
        &pattern,
    );
    let whole = std::fs::read(&path).unwrap();
    read(&path).unwrap();
    for at in 0..whole.len() {
        for bit in [1, 0x80] {
            let mut changed = whole.clone();
            changed[at] ^= bit;
            assert!(
                read(&folder.write("changed", &changed)).is_err(),
                "byte {at}, bit {bit}"
            );
        }
        assert!(
            read(&folder.write("cut", &whole[..at])).is_err(),
            "{at} bytes"
        );
    }
    let longer = [&whole[..], b"x"].concat();
    assert!(read(&folder.write("longer", &longer)).is_err());
}

/// A count file with the right checksum.
fn forged(header: &str, records: &[u8]) -> Vec<u8> {
    use sha2::Digest;
    let mut file = [header.as_bytes(), b"\n", records].concat();
    let hash = sha2::Sha256::digest(&file);
    file.extend_from_slice(&hash);
    file
}

#[test]
fn hostile_count_files_are_refused_in_one_line_each() {
    let folder = Folder::new("hostile");
    let unicode = crate::pretokenize::unicode_version().to_string();
    let header = |version: u32, text_bytes: u64, pieces: u64| {
        format!(
            r#"{{"format":"microgpt-counts","version":{version},"unicode":"{unicode}","pattern":"","special_tokens":[],"text_bytes":{text_bytes},"pieces":{pieces}}}"#
        )
    };
    let one = header(1, 9, 1);
    let huge = [&[0xFF; 9][..], &[0x01]].concat();
    let cases = [
        (one.clone(), &b"\x01a\x00\x00"[..], "occurs 0 times"),
        (one.clone(), b"\x01a\x01\x09", "behind the end of the text"),
        (one.clone(), b"\x00\x01\x00", "not in the order"),
        (one.clone(), b"\x05a\x01\x00", "longer than the file"),
        (one.clone(), &huge, "longer than the file"),
        (one.clone(), &[0xFF; 11], "more than 64 bits"),
        (one.clone(), b"\x01a\x81", "ends inside a number"),
        (one.clone(), b"", "0 of its 1 pieces"),
        (one, b"\x01a\x01\x00\x01b\x01\x01", "2 of its 1 pieces"),
        (
            header(1, 9, 2),
            b"\x01b\x01\x00\x01a\x01\x01",
            "not in the order",
        ),
        (
            header(1, 9, 2),
            b"\x01a\x01\x00\x01a\x01\x01",
            "not in the order",
        ),
        (header(2, 9, 1), b"\x01a\x01\x00", "version 2"),
        (
            header(1, 9, 1).replace(&unicode, "3.0.0"),
            b"\x01a\x01\x00",
            "Unicode 3.0.0",
        ),
        ("{}".to_owned(), b"", "no count file"),
        (
            r#"{"format":"microgpt-counts","version":1}"#.to_owned(),
            b"",
            "broken first line",
        ),
        ("[".repeat(100_000), b"", "no count file"),
    ];
    for (header, records, expected) in cases {
        let error = read(&folder.write("x.counts", &forged(&header, records))).unwrap_err();
        let said = error.to_string();
        assert!(
            said.contains(expected) && said.contains("x.counts"),
            "{said}"
        );
        assert!(!said.contains('\n'));
    }
    let most = [&b"\x01a"[..], &[0xFF; 9], &[0x01, 0x00]].concat();
    let path = folder.write("most.counts", &forged(&header(1, 9, 1), &most));
    assert_eq!(
        read(&path).unwrap(),
        Counted::from([(b"a".to_vec(), u64::MAX)])
    );
    let pattern = Pattern::named("none").unwrap();
    for threads in 1..=2 {
        let mut counter = counter(&pattern, &[], threads);
        let added = counter.add_saved(&[path.clone(), path.clone()], &Control::new());
        let found = added.and_then(|()| counter.finish(&Control::new()));
        assert!(found.err().unwrap().to_string().contains("64 bits"));
    }
    let far = folder.write(
        "far.counts",
        &forged(&header(1, u64::MAX, 1), b"\x01a\x01\x00"),
    );
    assert!(
        super::agreed(&[far.clone(), far])
            .unwrap_err()
            .to_string()
            .contains("64 bits")
    );
}

#[test]
fn count_files_that_were_counted_unlike_are_refused() {
    let folder = Folder::new("unlike");
    let (gpt2, own) = (
        Pattern::named("gpt2").unwrap(),
        Pattern::named(r"\w+|\W").unwrap(),
    );
    let one = saved(&folder, "one", b"a b", &gpt2);
    let other = saved(&folder, "other", b"a b", &own);
    let mut counter = counter(&gpt2, &[], 1);
    counter.add_texts(&[b"a b"], &Control::new()).unwrap();
    let counts = counter.finish_sorted(&Control::new()).unwrap();
    let plain = folder.0.join("plain");
    super::save(&counts, &gpt2, &[], &plain, &Control::new()).unwrap();
    let said = |paths: &[&PathBuf]| {
        let paths: Vec<PathBuf> = paths.iter().map(|&path| path.clone()).collect();
        super::agreed(&paths).unwrap_err().to_string()
    };
    assert!(said(&[&one, &other]).contains(r"pattern \w+|\W, but"));
    assert!(said(&[&one, &plain]).contains("special tokens none, but"));
    assert!(said(&[]).contains("name at least one"));
    assert!(said(&[&folder.0.join("nothing")]).contains("nothing"));
}
