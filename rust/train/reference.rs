//! The trainer as its definition reads: after each merge, everything is counted again.

#![allow(clippy::unwrap_used)] // It runs in tests and fuzz targets only.

use super::{Merges, Tie};
use std::collections::HashMap;

/// Tokens of each piece in the order of the corpus, with the piece's count.
type Text = Vec<(Vec<u32>, u64)>;

fn pair_counts(text: &Text) -> HashMap<(u32, u32), u64> {
    let mut counts = HashMap::new();
    for (tokens, weight) in text {
        for pair in tokens.windows(2) {
            *counts.entry((pair[0], pair[1])).or_default() += weight;
        }
    }
    counts
}

fn first_met(text: &Text, among: &[(u32, u32)]) -> (u32, u32) {
    let mut pairs = text
        .iter()
        .flat_map(|(tokens, _)| tokens.windows(2).map(|p| (p[0], p[1])));
    pairs.find(|pair| among.contains(pair)).unwrap()
}

/// The character that GPT-2's files print for a byte.
fn printable(byte: u8) -> u32 {
    let own = |byte: u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    match own(byte) {
        true => u32::from(byte),
        false => 256 + (0..byte).filter(|&other| !own(other)).count() as u32,
    }
}

fn choose(tie: Tie, text: &Text, tied: &[(u32, u32)], tokens: &[Vec<u8>]) -> (u32, u32) {
    let rank = |id: u32| {
        if id < 256 {
            printable(id as u8)
        } else {
            1000 + id
        }
    };
    let bytes = |id: u32| &tokens[id as usize];
    let tied = || tied.iter().copied();
    match tie {
        Tie::Ids => tied().min().unwrap(),
        Tie::Hf => tied()
            .min_by_key(|&(left, right)| (rank(left), rank(right)))
            .unwrap(),
        Tie::Lexical => tied()
            .max_by_key(|&(left, right)| (bytes(left), bytes(right)))
            .unwrap(),
        Tie::First => first_met(text, &tied().collect::<Vec<_>>()),
    }
}

fn join(tokens: &[u32], pair: (u32, u32), id: u32) -> Vec<u32> {
    let mut joined = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let here = at + 1 < tokens.len() && (tokens[at], tokens[at + 1]) == pair;
        joined.push(if here { id } else { tokens[at] });
        at += if here { 2 } else { 1 };
    }
    joined
}

/// All merges of the corpus up to `most`, at most `epochs` epochs.
pub(crate) fn train(pieces: &[(Vec<u8>, u64)], tie: Tie, most: usize, epochs: usize) -> Merges {
    let spell = |piece: &[u8]| piece.iter().map(|&byte| u32::from(byte)).collect();
    let mut text: Text = pieces.iter().map(|(piece, n)| (spell(piece), *n)).collect();
    let mut tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    let mut merges = Merges::default();
    let mut epoch_start = 0;
    while merges.pairs.len() < most {
        let counts = pair_counts(&text);
        let Some(&count) = counts.values().max() else {
            merges.exhausted = true;
            break;
        };
        let tied: Vec<_> = counts
            .iter()
            .filter(|&(_, &n)| n == count)
            .map(|(&p, _)| p)
            .collect();
        let pair = choose(tie, &text, &tied, &tokens);
        let id = tokens.len() as u32;
        if pair.0.max(pair.1) >= epoch_start {
            if merges.epochs == epochs {
                break;
            }
            merges.epochs += 1;
            epoch_start = id;
        }
        text.iter_mut()
            .for_each(|(tokens, _)| *tokens = join(tokens, pair, id));
        tokens.push([&tokens[pair.0 as usize][..], &tokens[pair.1 as usize]].concat());
        merges.pairs.push(pair);
        merges.counts.push(count);
    }
    merges
}
