//! The scanners against `fancy-regex` running the published regexes, and each way to scan against
//! the others.

use super::planes::Portable;
use super::*;
use std::time::{Duration, Instant};

/// A way to scan a known pattern.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// A character at a time, as the definitions in `gpt2` and `words` say.
    Characters,
    /// In blocks, without vector instructions.
    Portable,
    /// As [`Scanner`] does here.
    Detected,
}

impl Way {
    const ALL: [Self; 3] = [Self::Characters, Self::Portable, Self::Detected];
}

/// Calls `batch` with the ends of the text's pieces, some at a time.
fn scan_by(pattern: &Pattern, text: &[u8], way: Way, batch: impl FnMut(&[usize])) {
    let (Kind::Known(Known { rule, .. }) | Kind::Variant(_, rule)) = &pattern.0 else {
        unreachable!("a custom regex has one way")
    };
    match *rule {
        Rule::Whole => unreachable!(),
        Rule::Gpt2 => scan_rule_by(Gpt2, text, way, batch),
        Rule::Words(rules) if rules.cased => scan_rule_by(Words::<true>(rules), text, way, batch),
        Rule::Words(rules) => scan_rule_by(Words::<false>(rules), text, way, batch),
    }
}

fn scan_rule_by<R: blocks::Rule>(rule: R, text: &[u8], way: Way, mut batch: impl FnMut(&[usize])) {
    let (text, mut ends, mut walk, mut at) = (Text::new(text), Vec::new(), Walk::default(), 0);
    loop {
        ends.clear();
        match way {
            Way::Detected => walk.fill(rule, text, &mut ends, BATCH),
            Way::Portable => walk.fill_by::<Portable, R>(rule, text, &mut ends, BATCH),
            Way::Characters => {
                while at < text.bytes.len() && ends.len() < BATCH {
                    at = rule.piece(text, at);
                    ends.push(at);
                }
            }
        }
        if ends.is_empty() {
            return;
        }
        batch(&ends);
    }
}

fn ends_by(pattern: &Pattern, text: &[u8], way: Way) -> Vec<usize> {
    let mut all = Vec::new();
    scan_by(pattern, text, way, |ends| all.extend_from_slice(ends));
    all
}

/// The ends of the text's pieces by the pattern's scanner.
fn scan(pattern: &Pattern, text: &[u8]) -> Vec<usize> {
    let (mut scanner, mut batch, mut ends) = (pattern.scanner(text), Vec::new(), Vec::new());
    while scanner.fill(&mut batch).unwrap() {
        ends.extend_from_slice(&batch);
    }
    assert!(batch.is_empty());
    ends
}

/// The ends by a regex engine, with U+FFFD for each invalid byte.
fn oracle(regex: &fancy_regex::Regex, text: &[u8]) -> Vec<usize> {
    let mut offsets = vec![0; 1];
    let mut clean = String::new();
    let mut at = 0;
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            clean.push(c);
            offsets.resize(clean.len(), usize::MAX);
            at += c.len_utf8();
            offsets.push(at);
        }
        for _ in chunk.invalid() {
            clean.push('\u{FFFD}');
            offsets.resize(clean.len(), usize::MAX);
            at += 1;
            offsets.push(at);
        }
    }
    regex
        .find_iter(clean.as_str())
        .map(|m| offsets[m.unwrap().end()])
        .collect()
}

fn oracle_of(pattern: &Pattern) -> fancy_regex::Regex {
    fancy_regex::Regex::new(pattern.regex()).unwrap()
}

/// The patterns that have both a scanner and a regex.
fn named() -> Vec<Pattern> {
    ["gpt2", "cl100k", "o200k", "llama3", "qwen2"]
        .map(|n| Pattern::named(n).unwrap())
        .into()
}

/// The scanner, in each way, finds the pieces that the regex does.
fn assert_equal(pattern: &Pattern, regex: &fancy_regex::Regex, text: &[u8]) {
    let expected = oracle(regex, text);
    assert_same(
        pattern,
        text,
        "the scanner",
        &scan(pattern, text),
        &expected,
    );
    for way in Way::ALL {
        assert_same(
            pattern,
            text,
            &format!("{way:?}"),
            &ends_by(pattern, text, way),
            &expected,
        );
    }
}

/// Every way finds the same pieces.
fn assert_ways_agree(pattern: &Pattern, text: &[u8]) {
    let expected = ends_by(pattern, text, Way::Characters);
    for way in [Way::Portable, Way::Detected] {
        assert_same(
            pattern,
            text,
            &format!("{way:?}"),
            &ends_by(pattern, text, way),
            &expected,
        );
    }
}

fn assert_same(pattern: &Pattern, text: &[u8], way: &str, found: &[usize], expected: &[usize]) {
    if found == expected {
        return;
    }
    let same = found
        .iter()
        .zip(expected)
        .take_while(|(a, b)| a == b)
        .count();
    let from = if same == 0 { 0 } else { expected[same - 1] };
    let shown = text[from..text.len().min(from + 100)].escape_ascii();
    panic!(
        "{}, {way}: from byte {from} ({shown}) a piece ends at {:?}, expected {:?}",
        pattern.name(),
        found.get(same),
        expected.get(same)
    );
}

/// A small generator (xorshift64*), so that every run tests the same strings.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % bound
    }

    fn pick<'a>(&mut self, from: &[&'a [u8]]) -> &'a [u8] {
        from[self.below(from.len())]
    }
}

/// What the patterns distinguish, and what nearly is that.
const PARTS: [&[u8]; 64] = [
    b" ",
    b"  ",
    b"\t",
    b"\n",
    b"\r\n",
    b"\r",
    b"   \n",
    b"\x0b",
    b"\x0c",
    b"\n\n  ",
    "\u{85}".as_bytes(),
    "\u{a0}".as_bytes(),
    "\u{1680}".as_bytes(),
    "\u{2003}".as_bytes(),
    "\u{2028}".as_bytes(),
    "\u{3000}".as_bytes(),
    "\u{200b}".as_bytes(),
    b"'s",
    b"'S",
    b"'t",
    b"'re",
    b"'RE",
    b"'vE",
    b"'m",
    b"'ll",
    b"'lL",
    b"'d",
    b"'l",
    b"'v",
    b"'",
    "'\u{17f}".as_bytes(),
    "\u{17f}".as_bytes(),
    "\u{212a}".as_bytes(),
    b"a",
    b"b",
    b"word",
    b"Word",
    b"WORD",
    b"Z",
    b"0",
    b"12",
    b"3456",
    "\u{663}".as_bytes(),
    "\u{bd}".as_bytes(),
    "\u{2167}".as_bytes(),
    b"!",
    b"--",
    b"/",
    b"//",
    b"=",
    "\u{301}".as_bytes(),
    "\u{93f}".as_bytes(),
    "\u{20dd}".as_bytes(),
    "\u{4e2d}".as_bytes(),
    "\u{3042}\u{30fc}".as_bytes(),
    "\u{ac00}".as_bytes(),
    "\u{416}\u{434}".as_bytes(),
    "\u{1c5}".as_bytes(),
    "\u{2b0}".as_bytes(),
    "\u{1f600}".as_bytes(),
    "\u{1f1e6}\u{200d}".as_bytes(),
    b"\xff",
    b"\xe4\xb8",
    b"\x80",
];

fn generated(random: &mut Random, parts: usize) -> Vec<u8> {
    // A few parts at a time, so that each string is dense in the meetings of those few.
    let few: Vec<&[u8]> = (0..random.below(8) + 1)
        .map(|_| random.pick(&PARTS))
        .collect();
    (0..parts)
        .flat_map(|_| random.pick(&few).iter().copied())
        .collect()
}

#[test]
fn generated_text_scans_as_its_regex_does() {
    for pattern in named() {
        let (regex, mut random) = (oracle_of(&pattern), Random(1));
        for _ in 0..3000 {
            let parts = random.below(40) + 1;
            assert_equal(&pattern, &regex, &generated(&mut random, parts));
        }
    }
}

#[test]
fn every_spelling_scans_as_its_pattern_does() {
    for (name, spelling) in known::spellings().filter(|(name, _)| *name != "none") {
        let pattern = Pattern::from_regex(spelling).unwrap();
        assert_eq!(pattern.name(), name);
        let (regex, mut random) = (fancy_regex::Regex::new(spelling).unwrap(), Random(2));
        for _ in 0..500 {
            assert_equal(&pattern, &regex, &generated(&mut random, 20));
        }
    }
}

/// Whether cutting the text at every safe place from `near` on leaves its pieces as they are.
fn assert_split_is_safe(pattern: &Pattern, text: &[u8], near: usize) -> bool {
    let Some(at) = pattern.safe_split(text, near) else {
        return false;
    };
    assert!(at >= near && at > 0 && at < text.len());
    let (left, right) = text.split_at(at);
    let mut ends = scan(pattern, left);
    ends.extend(scan(pattern, right).iter().map(|end| at + end));
    assert_eq!(
        ends,
        scan(pattern, text),
        "{}: cut {left:x?} | {right:x?}",
        pattern.name()
    );
    true
}

#[test]
fn a_safe_split_leaves_the_pieces_as_they_are() {
    for pattern in named() {
        let (mut random, mut splits) = (Random(3), 0);
        for _ in 0..2000 {
            let text = generated(&mut random, 12);
            for near in 0..text.len() {
                splits += usize::from(assert_split_is_safe(&pattern, &text, near));
            }
        }
        assert!(splits > 10_000, "{}: {splits}", pattern.name());
    }
}

#[test]
fn a_published_regex_with_other_digits_keeps_its_scanner() {
    for (name, digits) in [("cl100k", 2), ("o200k", 1), ("llama3", 2), ("o200k", 9)] {
        let known = Pattern::named(name).unwrap();
        let regex = known.regex().replace("{1,3}", &format!("{{1,{digits}}}"));
        let pattern = Pattern::from_regex(&regex).unwrap();
        assert!(matches!(pattern.0, Kind::Variant(..)));
        assert_eq!(
            (pattern.name(), pattern.regex()),
            ("custom", regex.as_str())
        );
        let (regex, mut random) = (fancy_regex::Regex::new(&regex).unwrap(), Random(7));
        for _ in 0..300 {
            let text = generated(&mut random, 30);
            assert_equal(&pattern, &regex, &text);
            assert_split_is_safe(&pattern, &text, 1);
        }
    }
}

#[test]
fn every_way_agrees_at_every_offset_from_a_block_edge() {
    let fillers: [&[u8]; 7] = [
        b"a",
        b"A",
        b" ",
        b"1",
        b"-",
        "\u{4e2d}".as_bytes(),
        "\u{416}".as_bytes(),
    ];
    for pattern in named() {
        let mut random = Random(4);
        for offset in 0..=130_usize {
            for filler in fillers {
                let mut text = filler.repeat(offset.div_ceil(filler.len()));
                text.extend(generated(&mut random, 30));
                assert_ways_agree(&pattern, &text);
            }
        }
    }
}

/// Characters around which the patterns do something, with one to be put between them.
fn contexts(c: &[u8]) -> Vec<u8> {
    let frames: [(&[u8], &[u8]); 10] = [
        (b"a", b"b"),
        (b" ", b" "),
        (b"'", b"'s"),
        (b"!", b"a"),
        (b"1", b"1"),
        (b"A", b"a"),
        (b"\n", b"\r\n"),
        (b"- ", b"/"),
        ("\u{4e2d}".as_bytes(), b"A"),
        (b"  ", b"\n/ "),
    ];
    frames
        .iter()
        .flat_map(|(left, right)| [left, c, right].concat())
        .collect()
}

fn in_contexts(characters: impl Iterator<Item = char>) -> Vec<u8> {
    characters
        .flat_map(|c| contexts(c.encode_utf8(&mut [0; 4]).as_bytes()))
        .collect()
}

/// Characters where the class changes, their neighbours, and some between.
fn telling_characters() -> impl Iterator<Item = char> {
    let class = |c: char| Text::new(c.encode_utf8(&mut [0; 4]).as_bytes()).at(0).0;
    ('\0'..char::MAX)
        .zip('\u{1}'..=char::MAX)
        .flat_map(move |(a, b)| {
            let tells = class(a) != class(b);
            [a, b]
                .into_iter()
                .filter(move |c| tells || (*c == b && (*c as u32).is_multiple_of(997)))
        })
}

#[test]
fn telling_characters_scan_as_their_regex_does_in_every_context() {
    let text = in_contexts(telling_characters());
    for pattern in named() {
        // A part at a time: `fancy-regex` is slower on long texts.
        let regex = oracle_of(&pattern);
        text.chunks(1 << 14)
            .for_each(|part| assert_equal(&pattern, &regex, part));
    }
}

#[test]
#[ignore = "a minute: every code point through fancy-regex"]
fn every_character_scans_as_its_regex_does_in_every_context() {
    for pattern in named() {
        let regex = oracle_of(&pattern);
        for first in (0..0x11_0000).step_by(256) {
            let text = in_contexts((first..first + 256).filter_map(char::from_u32));
            assert_equal(&pattern, &regex, &text);
        }
    }
}

/// The texts to sweep over: those that `SCAN_TEXTS` names (`a.txt:b.txt`), else the corpora.
fn texts() -> Vec<(String, Vec<u8>)> {
    let names = ["shakespeare", "tinystories-valid", "web", "wikitext-test"];
    let corpora = names
        .map(|name| format!("../shared/data/{name}.txt"))
        .join(":");
    let paths = std::env::var("SCAN_TEXTS").unwrap_or(corpora);
    let read = |path: &str| match std::fs::read(path) {
        Ok(text) => Some((path.to_owned(), text)),
        Err(error) => {
            eprintln!("skipped: {path}: {error}");
            None
        }
    };
    paths.split(':').filter_map(read).collect()
}

#[test]
fn corpora_scan_as_their_regexes_do() {
    for (_, text) in texts() {
        for pattern in named() {
            let regex = oracle_of(&pattern);
            assert_equal(
                &pattern,
                &regex,
                &text[text.len() / 2..][..100_000.min(text.len() / 2)],
            );
            assert_ways_agree(&pattern, &text);
        }
    }
}

#[test]
#[ignore = "a minute: whole corpora through fancy-regex"]
fn whole_corpora_scan_as_their_regexes_do() {
    for (path, text) in texts() {
        for pattern in named() {
            eprintln!("{path} {}", pattern.name());
            let regex = oracle_of(&pattern);
            text.chunks(1 << 20)
                .for_each(|part| assert_equal(&pattern, &regex, part));
        }
    }
}

#[test]
#[ignore = "a minute: a million generated strings"]
fn a_million_generated_strings_scan_as_their_regex_does() {
    for pattern in named() {
        let (regex, mut random) = (oracle_of(&pattern), Random(5));
        for _ in 0..200_000 {
            let parts = random.below(60) + 1;
            assert_equal(&pattern, &regex, &generated(&mut random, parts));
        }
    }
}

#[test]
fn safe_splits_of_corpora_leave_the_pieces_as_they_are() {
    for (_, text) in texts() {
        let text = &text[..text.len().min(20_000)];
        for pattern in named() {
            for near in (0..text.len() - 1000).step_by(499) {
                assert!(assert_split_is_safe(&pattern, text, near));
            }
        }
    }
}

#[test]
fn scanning_takes_linear_time_whatever_the_bytes() {
    let units: [&[u8]; 20] = [
        b" ",
        b"\n",
        b"'",
        b"a",
        b"A",
        b"1",
        b"!",
        b"'s",
        b"a'",
        b"aA",
        b"\r\n ",
        b"!\n/",
        b"//\n",
        b" \t",
        b"\xff",
        "\u{4e2d}".as_bytes(),
        "\u{4e2d}A".as_bytes(),
        "\u{301}".as_bytes(),
        "A\u{301}A!".as_bytes(),
        "\u{3000}".as_bytes(),
    ];
    for unit in units {
        for tail in [&b""[..], b"x", "A\u{4e2d}".as_bytes(), b"1"] {
            let mut text = unit.repeat((1 << 20) / unit.len());
            text.extend_from_slice(tail);
            for pattern in named() {
                let begin = Instant::now();
                let ends = scan(&pattern, &text);
                assert_eq!(ends.last(), Some(&text.len()));
                // Some milliseconds; a quadratic scan of a megabyte takes many minutes.
                let taken = begin.elapsed();
                assert!(
                    taken < Duration::from_secs(5),
                    "{} {unit:?}: {taken:?}",
                    pattern.name()
                );
            }
        }
    }
}

#[test]
fn the_pattern_none_has_one_piece_and_an_empty_text_has_none() {
    for pattern in named().iter().chain([&Pattern::named("none").unwrap()]) {
        assert!(scan(pattern, b"").is_empty());
    }
    let none = Pattern::named("").unwrap();
    assert_eq!((none.name(), none.regex()), ("none", ""));
    assert_eq!(scan(&none, b"two words"), [9]);
    assert_eq!(none.safe_split(b"two words", 1), None);
}

#[test]
fn a_late_place_to_cut_is_found_far_from_the_end() {
    let pattern = Pattern::named("gpt2").unwrap();
    let text = [b"words ".as_slice(), &vec![b'x'; 900_000]].concat();
    assert_eq!(pattern.late_split(&text), Some(5));
    assert_eq!(pattern.late_split(&text[6..]), None);
}

#[test]
fn a_name_and_its_alias_and_its_regex_are_one_pattern() {
    for (alias, name) in [("r50k", "gpt2"), ("p50k_base", "gpt2"), ("qwen", "qwen2")] {
        let pattern = Pattern::named(alias).unwrap();
        assert_eq!(pattern.name(), name);
        assert_eq!(pattern, Pattern::named(name).unwrap());
        assert_eq!(pattern, Pattern::from_regex(pattern.regex()).unwrap());
    }
    assert_ne!(
        Pattern::named("cl100k").unwrap(),
        Pattern::named("llama3").unwrap()
    );
    assert_eq!(
        Pattern::from_regex("a+").unwrap(),
        Pattern::named("a+").unwrap()
    );
}

#[test]
fn an_unknown_name_is_refused_with_the_nearest() {
    let message = Pattern::named("cl10k").unwrap_err().to_string();
    assert_eq!(
        message,
        "pattern 'cl10k' is none of gpt2, cl100k, o200k, llama3, qwen2, none; \
         did you mean 'cl100k'? (A regex works too.)"
    );
    assert_eq!(Pattern::from_regex("cl10k").unwrap().name(), "custom");
    let message = Pattern::named("a(").unwrap_err().to_string();
    assert!(
        message.starts_with("the pattern 'a(' is no regex: "),
        "{message}"
    );
}

/// The pieces as text.
fn pieces<'a>(pattern: &Pattern, text: &'a [u8]) -> Vec<&'a [u8]> {
    let mut begun = 0;
    let cut = |end: usize| &text[std::mem::replace(&mut begun, end)..end];
    scan(pattern, text).into_iter().map(cut).collect()
}

#[test]
fn a_custom_regex_keeps_what_it_does_not_match_as_pieces() {
    let pattern = Pattern::named("[a-z]+|[0-9]").unwrap();
    let expected: [&[u8]; 6] = [b"ab", b", ", b"1", b"2", b"\xff\xe4!", b"z"];
    assert_eq!(pieces(&pattern, b"ab, 12\xff\xe4!z"), expected);
    assert!(matches!(&pattern.0, Kind::Custom(c) if c.is_linear()));
}

#[test]
fn a_custom_regex_may_match_nothing() {
    for regex in ["x*", "(?=a)|b", "^|$"] {
        let pattern = Pattern::named(regex).unwrap();
        assert_eq!(
            pieces(&pattern, "\u{e9}xx\u{e9}".as_bytes()).concat().len(),
            6,
            "{regex}"
        );
    }
    let pattern = Pattern::named("x*").unwrap();
    assert_eq!(scan(&pattern, b"axxbb"), [1, 3, 5]);
}

/// `scan` by another road: the matches of `fancy-regex`, and the text between them.
fn isolated(regex: &fancy_regex::Regex, text: &str) -> Vec<usize> {
    let mut ends = Vec::new();
    for found in regex
        .find_iter(text)
        .map(|m| m.unwrap())
        .filter(|m| m.start() < m.end())
    {
        ends.extend([found.start(), found.end()]);
    }
    ends.push(text.len());
    ends.dedup();
    ends.retain(|&end| end > 0);
    ends
}

#[test]
fn custom_regexes_cut_alike_on_both_engines() {
    let regexes = [
        (r"\w+|\s+(?!\S)|\s+", true),
        (r"\w+|[^\s\w]+|\s+(?!\S)|\s", true),
        (r"(?i)WORD|'s|\p{Lu}?\p{Ll}+|\s+(?!\S)|\s+", true),
        (r"\p{N}{1,2}|\p{L}", true),
        (r"\b", true),
        (r"[+*]++|a?+", false),
        (r"[^\]+a]\++|\}+", true),
        (r"\p{L}++|.", false),
        (r"\w{2}+|\W", false),
        (r"(?U)a+|\s+(?!\S)|\s+", false),
        (r"\s+(?!\S)|x", false),
        (r"(\p{L})\1", false),
    ];
    for (source, linear) in regexes {
        let pattern = Pattern::from_regex(source).unwrap();
        let regex = fancy_regex::Regex::new(source).unwrap();
        assert!(
            matches!(&pattern.0, Kind::Custom(c) if c.is_linear() == linear),
            "{source}"
        );
        let mut random = Random(6);
        for _ in 0..300 {
            let text = String::from_utf8_lossy(&generated(&mut random, 20)).into_owned();
            assert_eq!(
                scan(&pattern, text.as_bytes()),
                isolated(&regex, &text),
                "{source} {text:?}"
            );
        }
    }
}

#[test]
fn a_custom_regex_that_backtracks_without_end_is_an_error() {
    let pattern = Pattern::named(r"(?:a|a)*(?=b)c|(a|aa)+(?<!a)").unwrap();
    let text = [b'a'; 64];
    let mut ends = vec![7];
    let message = pattern
        .scanner(&text)
        .fill(&mut ends)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("gave up on the text behind byte 0"),
        "{message}"
    );
}

/// Prints MB/s (best of 25) of each way to scan: `SCAN_TEXTS=a.txt:b.txt cargo test --release
/// scan_speed -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn scan_speed() {
    for (path, text) in texts() {
        println!("{path} ({} bytes)", text.len());
        for pattern in named() {
            let rates = Way::ALL.map(|way| {
                let seconds = (0..25).map(|_| {
                    let (begin, mut pieces) = (Instant::now(), 0);
                    scan_by(&pattern, &text, way, |ends| pieces += ends.len());
                    (begin.elapsed().as_secs_f64(), pieces)
                });
                let (best, pieces) = seconds.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
                (text.len() as f64 / best / 1e6, pieces)
            });
            assert!(rates.iter().all(|(_, pieces)| *pieces == rates[0].1));
            let shown = rates.map(|(rate, _)| format!("{rate:6.0}")).join(" ");
            println!("  {:7} {shown}  MB/s ({:?})", pattern.name(), Way::ALL);
        }
    }
}
