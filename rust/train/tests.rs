use super::{Merges, Tie, TrainOptions, reference, train, train_in_parts};
use crate::control::Control;
use crate::count::Counts;
use crate::error::Error;

type Pieces = Vec<(Vec<u8>, u64)>;

fn counted(pieces: &Pieces) -> Counts {
    Counts::from_pieces(pieces.iter().map(|(piece, count)| (&piece[..], *count))).unwrap()
}

fn options(tie: Tie, merges: usize) -> TrainOptions {
    TrainOptions {
        vocab_size: Some(256 + merges),
        tie,
        ..TrainOptions::default()
    }
}

/// What one thread finds, and any other number of them too.
fn trained(pieces: &Pieces, options: &TrainOptions) -> Merges {
    let found = train(counted(pieces), options, &Control::new()).unwrap();
    for threads in [2, 5] {
        let options = TrainOptions {
            threads,
            ..*options
        };
        let shared = train_in_parts(counted(pieces), &options, 1, &Control::new());
        assert_eq!(shared.unwrap(), found, "{threads} threads, {pieces:?}");
    }
    found
}

fn words(text: &str) -> Pieces {
    text.split_inclusive(' ')
        .map(|word| (word.as_bytes().to_vec(), 1))
        .collect()
}

/// A generator good enough for test text (xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    /// Distinct pieces over few letters, so that pairs overlap, repeat and tie.
    fn pieces(&mut self, number: u64, longest: u64, letters: u64, heaviest: u64) -> Pieces {
        let mut pieces = Pieces::new();
        for _ in 0..number {
            let len = 1 + self.below(longest);
            let piece: Vec<u8> = (0..len)
                .map(|_| b"a\xFFbZ \x00"[self.below(letters) as usize])
                .collect();
            if pieces.iter().all(|(other, _)| *other != piece) {
                pieces.push((piece, 1 + self.below(heaviest)));
            }
        }
        pieces
    }
}

#[test]
fn merges_equal_the_reference_on_random_pieces_under_every_rule() {
    let mut random = Random(0x5EED);
    for round in 0..400 {
        let (letters, heaviest) = (1 + round % 6, 1 + random.below(6));
        let (number, longest) = (1 + random.below(30), 1 + random.below(24));
        let pieces = random.pieces(number, longest, letters, heaviest);
        for tie in Tie::ALL {
            let expected = reference::train(&pieces, tie, 60, usize::MAX);
            let found = trained(&pieces, &options(tie, 60));
            assert_eq!(found, expected, "round {round}, {tie:?}, {pieces:?}");
        }
    }
}

#[test]
fn merges_equal_the_reference_on_one_long_piece_under_every_rule() {
    let mut random = Random(7);
    for letters in 1..=4 {
        let piece: Vec<u8> = (0..3000)
            .map(|_| b'a' + random.below(letters) as u8)
            .collect();
        let pieces = vec![(piece, 3)];
        for tie in Tie::ALL {
            let expected = reference::train(&pieces, tie, 150, usize::MAX);
            assert_eq!(
                trained(&pieces, &options(tie, 150)),
                expected,
                "{letters} letters, {tie:?}"
            );
        }
    }
}

#[test]
fn epochs_give_prefixes_of_the_merge_list_and_end_where_the_reference_ends() {
    let pieces = Random(99).pieces(40, 20, 4, 9);
    let whole = trained(&pieces, &options(Tie::Ids, 10_000));
    assert!(
        whole.exhausted && whole.epochs > 5,
        "{} epochs",
        whole.epochs
    );
    for epochs in 1..=whole.epochs {
        let options = TrainOptions {
            epochs: Some(epochs),
            ..TrainOptions::default()
        };
        let found = trained(&pieces, &options);
        assert_eq!(
            found,
            reference::train(&pieces, Tie::Ids, usize::MAX, epochs)
        );
        assert_eq!(found.pairs, whole.pairs[..found.pairs.len()]);
        assert_eq!(found.epochs, epochs);
    }
}

#[test]
fn an_epoch_is_the_longest_run_that_joins_no_token_of_its_own() {
    // ab 5, cd 4, then abab is made of what the first run made.
    let pieces = vec![
        (b"abab".to_vec(), 2),
        (b"ab".to_vec(), 1),
        (b"cd".to_vec(), 4),
    ];
    let first = TrainOptions {
        epochs: Some(1),
        ..TrainOptions::default()
    };
    assert_eq!(trained(&pieces, &first).pairs, [(97, 98), (99, 100)]);
    let second = TrainOptions {
        epochs: Some(2),
        ..TrainOptions::default()
    };
    assert_eq!(
        trained(&pieces, &second).pairs,
        [(97, 98), (99, 100), (256, 256)]
    );
}

#[test]
fn vocab_size_stops_epochs_and_counts_special_tokens() {
    let pieces = words("the cat sat on the mat the end");
    let options = |vocab_size, special_count| TrainOptions {
        vocab_size: Some(vocab_size),
        epochs: Some(1000),
        special_count,
        ..TrainOptions::default()
    };
    assert_eq!(trained(&pieces, &options(260, 0)).pairs.len(), 4);
    assert_eq!(trained(&pieces, &options(260, 3)).pairs.len(), 1);
    assert_eq!(trained(&pieces, &options(256, 0)), Merges::default());
}

#[test]
fn a_smaller_vocabulary_is_a_prefix_of_a_larger_one() {
    let pieces = Random(3).pieces(60, 12, 5, 50);
    for tie in Tie::ALL {
        let large = trained(&pieces, &options(tie, 100));
        for size in [0, 1, 10, 50] {
            assert_eq!(
                trained(&pieces, &options(tie, size)).pairs,
                large.pairs[..size]
            );
        }
    }
}

#[test]
fn text_that_runs_out_of_pairs_merges_down_to_single_occurrences_and_says_so() {
    let found = trained(&words("abcd"), &options(Tie::Ids, 100));
    assert_eq!(found.pairs, [(97, 98), (99, 100), (256, 257)]);
    assert_eq!(found.counts, [1, 1, 1]);
    assert!(found.exhausted);
    assert!(!trained(&words("abcd"), &options(Tie::Ids, 3)).exhausted);
}

#[test]
fn a_run_of_one_letter_counts_overlapping_pairs_and_joins_from_the_left() {
    let found = trained(&vec![(b"aaaaa".to_vec(), 1)], &options(Tie::Ids, 9));
    assert_eq!(found.pairs, [(97, 97), (256, 97), (256, 257)]);
    assert_eq!(found.counts, [4, 1, 1]);
}

#[test]
fn counts_past_32_bits_decide_exactly() {
    let heavy = 1u64 << 33;
    let pieces = vec![
        (b"ab".to_vec(), heavy + 1),
        (b"cd".to_vec(), heavy + 2),
        (b"ef".to_vec(), 3),
    ];
    let found = trained(&pieces, &options(Tie::Ids, 3));
    assert_eq!(found.pairs, [(99, 100), (97, 98), (101, 102)]);
    assert_eq!(found.counts, [heavy + 2, heavy + 1, 3]);
}

#[test]
fn each_rule_decides_a_tie_in_its_own_way() {
    // All pairs occur once; a space is the last of these under `hf`, and the first under `ids`.
    let pieces = vec![
        (b"bc".to_vec(), 1),
        (b" z".to_vec(), 1),
        (b"ad".to_vec(), 1),
    ];
    let first = |tie| trained(&pieces, &options(tie, 1)).pairs[0];
    assert_eq!(first(Tie::Ids), (32, 122));
    assert_eq!(first(Tie::Hf), (97, 100));
    assert_eq!(first(Tie::Lexical), (98, 99));
    assert_eq!(first(Tie::First), (98, 99));
}

#[test]
fn limits_that_cannot_be_met_are_usage_errors_that_name_them() {
    let refused = |options| match train(counted(&words("a b")), &options, &Control::new()) {
        Err(Error::Usage(sentence)) => sentence,
        other => panic!("{other:?}"),
    };
    let small = TrainOptions {
        vocab_size: Some(257),
        special_count: 2,
        ..Default::default()
    };
    assert!(refused(small).contains("258"));
    assert!(
        refused(TrainOptions {
            epochs: Some(0),
            ..Default::default()
        })
        .contains("at least 1")
    );
    assert!(refused(TrainOptions::default()).contains("vocab_size, epochs or both"));
    let large = TrainOptions {
        vocab_size: Some(usize::MAX),
        ..Default::default()
    };
    assert!(refused(large).contains("at most"));
}

#[test]
fn a_stopped_control_ends_training() {
    let control = Control::new();
    control.stop();
    let found = train(counted(&words("a bc")), &options(Tie::Ids, 3), &control);
    assert!(matches!(found, Err(Error::Interrupted)));
}

#[test]
fn a_tie_rule_is_found_by_its_name() {
    for tie in Tie::ALL {
        assert_eq!(Tie::named(tie.name()).unwrap(), tie);
    }
    assert!(
        Tie::named("lex")
            .unwrap_err()
            .to_string()
            .contains("ids, hf, lexical, first")
    );
}

#[test]
fn limited_memory_gives_the_same_merges_or_an_error_that_names_the_limit() {
    let mut random = Random(11);
    let letters: Vec<u8> = (0..200_000)
        .map(|_| b'a' + random.below(26) as u8)
        .collect();
    let pieces = vec![(letters, 1)];
    for tie in [Tie::Ids, Tie::First] {
        let expected = trained(&pieces, &options(tie, 20_000));
        let (mut refused, mut met) = (0, 0);
        for memory in (1..=40).map(|step| step * 1_000_000) {
            let options = TrainOptions {
                memory: Some(memory),
                ..options(tie, 20_000)
            };
            match train(counted(&pieces), &options, &Control::new()) {
                Ok(found) => {
                    assert_eq!(found, expected, "{memory}");
                    met += 1;
                }
                Err(error) => {
                    assert!(
                        error.to_string().contains("memory is limited to"),
                        "{error}"
                    );
                    refused += 1;
                }
            }
        }
        assert!(refused > 4 && met > 4, "{refused} refused, {met} met");
    }
}
