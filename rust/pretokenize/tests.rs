//! The scanners against `fancy-regex` running the published regexes.

use super::*;

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

fn assert_equal(pattern: &Pattern, regex: &fancy_regex::Regex, text: &[u8]) {
    let (found, expected) = (scan(pattern, text), oracle(regex, text));
    if found == expected {
        return;
    }
    let same = found
        .iter()
        .zip(&expected)
        .take_while(|(a, b)| a == b)
        .count();
    let from = if same == 0 { 0 } else { expected[same - 1] };
    let shown = String::from_utf8_lossy(&text[from..text.len().min(from + 100)]);
    panic!(
        "{}: from byte {from} ({shown:?}) piece ends at {:?}, expected {:?}",
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

/// Prints MB/s (best of seven) of each way to scan: `SCAN_TEXTS=a.txt:b.txt cargo test --release
/// scan_speed -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn scan_speed() {
    let texts = std::env::var("SCAN_TEXTS").unwrap_or("../shared/data/shakespeare.txt".into());
    for path in texts.split(':') {
        let text = std::fs::read(path).unwrap();
        println!("{path} ({} bytes)", text.len());
        for pattern in named() {
            let rates = Way::ALL.map(|way| {
                let seconds = (0..7).map(|_| {
                    let begin = std::time::Instant::now();
                    let pieces = count(&pattern, &text, way);
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

/// A way to scan.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Characters,
    Portable,
    Detected,
}

impl Way {
    const ALL: [Self; 3] = [Self::Characters, Self::Portable, Self::Detected];
}

/// The number of pieces.
fn count(pattern: &Pattern, text: &[u8], way: Way) -> usize {
    let Kind::Known(known) = &pattern.0 else {
        unreachable!()
    };
    match known.rule {
        Rule::Whole => unreachable!(),
        Rule::Gpt2 => count_by(Gpt2, text, way),
        Rule::Words(rules) if rules.cased => count_by(Words::<true>(rules), text, way),
        Rule::Words(rules) => count_by(Words::<false>(rules), text, way),
    }
}

fn count_by<R: blocks::Rule>(rule: R, text: &[u8], way: Way) -> usize {
    let (text, mut ends, mut pieces) = (Text::new(text), Vec::new(), 0);
    let (mut walk, mut at) = (Walk::default(), 0);
    loop {
        ends.clear();
        match way {
            Way::Detected => walk.fill(rule, text, &mut ends, BATCH),
            Way::Portable => walk.fill_by::<masks::Portable, R>(rule, text, &mut ends, BATCH),
            Way::Characters => {
                while at < text.bytes.len() && ends.len() < BATCH {
                    at = rule.piece(text, at);
                    ends.push(at);
                }
            }
        }
        pieces += ends.len();
        if ends.is_empty() {
            return pieces;
        }
    }
}
