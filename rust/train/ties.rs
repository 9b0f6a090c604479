//! Which pair is joined when several occur equally often.

use super::pairs::Pair;
use crate::error::{Error, Result};
use std::cmp::Reverse;
use std::sync::Arc;

/// The rule for equal counts; each is another trainer's, which it equals merge for merge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tie {
    /// The smallest (left id, right id), where a byte's id is its value. As rustbpe, ffbpe, gigatoken.
    #[default]
    Ids,
    /// The same with bytes ranked by the characters that GPT-2's files print for them. As tokenizers.
    Hf,
    /// The greatest (left bytes, right bytes). As Stanford's CS336 asks.
    Lexical,
    /// The pair met first when reading the corpus as it stands. As minbpe.
    First,
}

impl Tie {
    /// All rules.
    pub const ALL: [Self; 4] = [Self::Ids, Self::Hf, Self::Lexical, Self::First];

    /// The rule's name, as users give it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ids => "ids",
            Self::Hf => "hf",
            Self::Lexical => "lexical",
            Self::First => "first",
        }
    }

    /// The rule of that name.
    ///
    /// # Errors
    /// [`Error::Usage`] that lists the rules.
    pub fn named(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|tie| tie.name() == name)
            .ok_or_else(|| {
                let names = Self::ALL.map(Self::name).join(", ");
                Error::usage(format!(
                    "there is no tie rule {name:?}: choose from {names}"
                ))
            })
    }
}

/// Orders pairs with equal counts: the greatest key is joined. Over time a pair's key may only fall.
pub(super) trait Rule: Default {
    type Key: Ord + Send + Sync;

    /// Whether, of pairs with equal counts that share a token, the rule takes the one whose other
    /// token is older.
    const IN_BATCHES: bool = false;

    /// The pair's key now; `first` finds the first position at which it stands.
    fn key(&self, pair: Pair, first: impl FnOnce() -> u32) -> Self::Key;

    /// Hears of each merge, in order.
    fn born(&mut self, _from: Pair) {}
}

#[derive(Default)]
pub(super) struct ById;

impl Rule for ById {
    type Key = Reverse<Pair>;

    const IN_BATCHES: bool = true;

    fn key(&self, pair: Pair, _: impl FnOnce() -> u32) -> Self::Key {
        Reverse(pair)
    }
}

pub(super) struct ByPrintable {
    /// Each byte's place among all, ordered by the characters that stand for them.
    rank: [u32; 256],
}

impl Default for ByPrintable {
    /// Bytes that print as themselves keep their code point; the others take those from 256 on, so
    /// they come after, in their own order.
    fn default() -> Self {
        let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
        let mut rank = [0; 256];
        let others = (0..=255).filter(|byte| !printable(byte));
        for (place, byte) in (0..=255).filter(printable).chain(others).enumerate() {
            rank[usize::from(byte)] = place as u32;
        }
        Self { rank }
    }
}

impl Rule for ByPrintable {
    type Key = Reverse<Pair>;

    const IN_BATCHES: bool = true;

    fn key(&self, pair: Pair, _: impl FnOnce() -> u32) -> Self::Key {
        let rank = |id: u32| self.rank.get(id as usize).copied().unwrap_or(id);
        Reverse(Pair {
            left: rank(pair.left),
            right: rank(pair.right),
        })
    }
}

pub(super) struct Lexical {
    tokens: Vec<Arc<[u8]>>,
}

impl Default for Lexical {
    fn default() -> Self {
        Self {
            tokens: (0..=255).map(|byte: u8| Arc::from([byte])).collect(),
        }
    }
}

impl Rule for Lexical {
    type Key = (Arc<[u8]>, Arc<[u8]>);

    fn key(&self, pair: Pair, _: impl FnOnce() -> u32) -> Self::Key {
        let token = |id: u32| Arc::clone(&self.tokens[id as usize]);
        (token(pair.left), token(pair.right))
    }

    fn born(&mut self, from: Pair) {
        let (left, right) = self.key(from, || 0);
        self.tokens.push([&left[..], &right[..]].concat().into());
    }
}

#[derive(Default)]
pub(super) struct First;

impl Rule for First {
    type Key = Reverse<u32>;

    fn key(&self, _: Pair, first: impl FnOnce() -> u32) -> Self::Key {
        Reverse(first())
    }
}
