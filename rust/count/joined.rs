//! The tables of several threads as one. No table is made for all: they keep their pieces in the order
//! of their hashes, so a window of hashes lies at about the same place in each, and window after window is
//! added up in little memory.

use super::on_threads;
use super::table::{Piece, Table, sum};
use crate::control::Control;
use crate::error::Result;

/// Pieces of a window, about, and the most windows.
const PIECES: usize = 1 << 10;
const MOST_WINDOWS: usize = super::table::FIRST_ENTRIES;

/// How much there is of pieces.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extent {
    pub pieces: usize,
    /// Bytes of all pieces, each once.
    pub bytes: usize,
}

impl Extent {
    pub(super) fn add(&mut self, piece: &[u8]) {
        self.pieces += 1;
        self.bytes += piece.len();
    }
}

/// Pieces of several tables, which have as many shares.
pub(super) struct Joined {
    tables: Vec<Table>,
    /// A window's number is so many of the highest bits of a hash.
    bits: u32,
    shares: Vec<Extent>,
}

impl Joined {
    /// Joins tables that hash alike.
    ///
    /// # Errors
    /// [`crate::Error::Interrupted`]; [`crate::Error::Usage`] where counts of a piece add up to more than
    /// 64 bits hold.
    pub(super) fn new(tables: Vec<Table>, control: &Control) -> Result<Self> {
        let pieces: usize = tables.iter().map(Table::len).sum();
        let windows = (pieces / PIECES).clamp(1, MOST_WINDOWS);
        let mut shares: Vec<_> = (0..tables.len()).map(|i| (i, Extent::default())).collect();
        let mut joined = Self {
            tables,
            bits: windows.ilog2(),
            shares: Vec::new(),
        };
        on_threads(&mut shares, |(share, extent)| {
            joined.for_each_in(*share, control, |piece, _, _| {
                extent.add(piece);
                Ok(())
            })
        })?;
        joined.shares = shares.into_iter().map(|(_, extent)| extent).collect();
        Ok(joined)
    }

    /// What each share holds.
    pub(super) fn shares(&self) -> &[Extent] {
        &self.shares
    }

    /// Calls `each` with every piece of a share, its count and its first position, in no particular order.
    ///
    /// # Errors
    /// Those of `each`, and of [`Joined::new`].
    pub(super) fn for_each_in(
        &self,
        share: usize,
        control: &Control,
        mut each: impl FnMut(&[u8], u64, u64) -> Result<()>,
    ) -> Result<()> {
        if let [table] = &self.tables[..] {
            return table.for_each(control, each);
        }
        let border = |share: usize| ((share as u64) << self.bits) / self.tables.len() as u64;
        let mut window = Window::default();
        for number in border(share)..border(share + 1) {
            control.check()?;
            for table in &self.tables {
                table.for_each_in_window(number, self.bits, |hash, piece, count, first| {
                    window.add(Met {
                        hash,
                        piece,
                        count,
                        first,
                    })
                })?;
            }
            window.empty(&mut each)?;
        }
        Ok(())
    }
}

/// A piece of a window, as far as it was met.
struct Met<'t> {
    hash: u64,
    piece: Piece<'t>,
    count: u64,
    first: u64,
}

/// The pieces of one window.
#[derive(Default)]
struct Window<'t> {
    met: Vec<Met<'t>>,
    /// By the low bits of the hash: the place of a piece in `met`, and one; 0 where nothing is.
    places: Vec<u32>,
}

impl<'t> Window<'t> {
    fn add(&mut self, new: Met<'t>) -> Result<()> {
        if 2 * self.met.len() >= self.places.len() {
            self.widen();
        }
        let at = self.find(&new);
        let Some(known) = self.met.get_mut((self.places[at] as usize).wrapping_sub(1)) else {
            self.met.push(new);
            self.places[at] = self.met.len() as u32;
            return Ok(());
        };
        known.count = sum(known.count, new.count)?;
        known.first = known.first.min(new.first);
        Ok(())
    }

    /// Where the place of a piece is or, if it is new, belongs.
    fn find(&self, new: &Met) -> usize {
        let mask = self.places.len() - 1;
        let mut at = new.hash as usize & mask;
        while let Some(met) = self.met.get((self.places[at] as usize).wrapping_sub(1)) {
            if met.hash == new.hash && met.piece.as_bytes() == new.piece.as_bytes() {
                break;
            }
            at = (at + 1) & mask;
        }
        at
    }

    fn widen(&mut self) {
        self.places = vec![0; (2 * self.places.len()).max(4 * PIECES)];
        for number in 0..self.met.len() {
            let at = self.find(&self.met[number]);
            self.places[at] = number as u32 + 1;
        }
    }

    /// Hands over all pieces.
    fn empty(&mut self, mut each: impl FnMut(&[u8], u64, u64) -> Result<()>) -> Result<()> {
        self.places.fill(0);
        self.met
            .drain(..)
            .try_for_each(|met| each(met.piece.as_bytes(), met.count, met.first))
    }
}
