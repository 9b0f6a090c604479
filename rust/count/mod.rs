//! Corpus -> distinct pieces with u64 counts.

mod table;

use table::{Seeds, Table};

/// The distinct pieces of a corpus, each with its count and with where it was met first.
pub struct Counts {
    /// No piece is in two of them.
    tables: Vec<Table>,
}

impl Counts {
    /// Counts given as they are: each piece as often as it says, first met in this order.
    pub fn from_pieces<'a>(pieces: impl IntoIterator<Item = (&'a [u8], u64)>) -> Self {
        let mut table = Table::new(Seeds::random());
        for (first, (piece, count)) in pieces.into_iter().enumerate() {
            table.add_piece(piece, count, first as u64);
        }
        Self {
            tables: vec![table],
        }
    }

    /// Distinct pieces.
    pub fn len(&self) -> usize {
        self.tables.iter().map(Table::len).sum()
    }

    /// Whether there is no piece at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls `each` with every piece and its count, in no particular order.
    pub fn for_each(&self, mut each: impl FnMut(&[u8], u64)) {
        for table in &self.tables {
            table.for_each(|piece, count, _| each(piece.as_bytes(), count));
        }
    }

    /// The same in the order in which the corpus has them first.
    pub fn for_each_in_order(&self, mut each: impl FnMut(&[u8], u64)) {
        let mut pieces = Vec::with_capacity(self.len());
        for table in &self.tables {
            table.for_each(|piece, count, first| pieces.push((first, piece, count)));
        }
        pieces.sort_unstable_by_key(|&(first, ..)| first);
        for (_, piece, count) in pieces {
            each(piece.as_bytes(), count);
        }
    }
}
