//! The distinct pieces as rows of tokens that can be joined in place, each in constant time.
//!
//! All pieces lie end to end in one array with a slot a byte and a wall between neighbours. A token
//! of k bytes covers k slots and writes its id into its first and its last: so from where it starts,
//! its length leads to the token after it, and the slot before it names the token before. Every slot
//! only ever takes younger ids, and both ends of what was joined are overwritten: a site noted
//! earlier still holds its pair exactly when both ids are still there.
//!
//! With several threads each has a part of the pieces, in an array of its own.

use super::changes::Changes;
use super::memory::Memory;
use super::pairs::{Pair, Pairs, Place};
use super::table::Table;
use super::{BYTES, Joined};
use crate::cache::{prefer_huge_pages, prefetch};
use crate::control::{Control, sort_by};
use crate::count::{Counts, Extent, on_threads};
use crate::error::{Error, Result};

/// What stands before the first piece, between pieces, and after the last.
const WALL: u32 = u32::MAX;
/// Pieces or sites handled between two looks at the stop flag.
pub(super) const STRIDE: usize = 1 << 16;

/// The start of a stretch for sites that are not kept.
const NOWHERE: u64 = u64::MAX;
/// Sites whose memory is asked for ahead of their turn.
const AHEAD: usize = 12;

/// Where a pair occurs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Site {
    /// The slot in which its left token starts, among those of the whole corpus.
    pub position: u32,
    /// The piece that it lies in, among all.
    pub piece: u32,
}

/// Some of the pieces of two bytes and more; others hold no pair.
pub(super) struct Part {
    slots: Vec<u32>,
    /// How often each piece occurs.
    weights: Vec<u64>,
    /// Adjacent bytes in the text, about.
    pairs: f64,
    /// Its first slot and piece among those of the whole corpus.
    first: Site,
    /// What the last batch of merges did here.
    pub changes: Changes,
    /// The pairs that stand here, while shares gather them.
    pub found: Table,
}

/// Slots and pieces that some counts take.
#[derive(Clone, Copy, Default)]
struct Size {
    slots: usize,
    pieces: usize,
}

impl Size {
    /// That of all pieces; those of one byte will be left out.
    fn of(Extent { pieces, bytes }: Extent) -> Self {
        let slots = bytes + pieces;
        Self { slots, pieces }
    }

    fn bytes(self) -> usize {
        self.slots * size_of::<u32>() + self.pieces * size_of::<u64>()
    }
}

/// Lays the pieces out in `parts` parts or fewer, none of them smaller than `least` slots but where
/// there is only one; where `in_order` in one, by first occurrence.
///
/// # Errors
/// [`Error::Usage`] where they take more than `memory` or 4 GiB; [`Error::Io`] where counts lie on
/// disk; [`Error::Interrupted`].
pub(super) fn lay_out(
    counts: &Counts,
    in_order: bool,
    (parts, least): (usize, usize),
    memory: &Memory,
    control: &Control,
) -> Result<Vec<Part>> {
    let shares = counts.shares().iter().copied().map(Size::of);
    let mut shares: Vec<_> = shares.enumerate().map(|share| (share, None)).collect();
    let sizes = shares.iter().map(|((_, size), _)| size);
    let size = sizes.fold(Size::default(), |all, size| Size {
        slots: all.slots + size.slots,
        pieces: all.pieces + size.pieces,
    });
    if size.slots + shares.len() + parts >= WALL as usize {
        return Err(Error::usage(format!(
            "the distinct pieces take {} bytes, but at most 4 GiB can be trained on: use a \
             pattern that splits the text, or less text",
            size.slots
        )));
    }
    memory.check(if in_order {
        2 * size.bytes() + size.pieces * size_of::<Occurrence>()
    } else {
        size.bytes()
    })?;
    let parts = parts.min(size.slots / least).max(1);
    if parts > 1 && parts == shares.len() {
        on_threads(&mut shares, |((share, size), part)| {
            let part = part.insert(Part::with_capacity(*size));
            counts.for_each_in(*share, control, |piece, count, _| {
                part.add(piece.iter().copied(), count);
                Ok(())
            })
        })?;
        let parts = shares.into_iter().filter_map(|(_, part)| part);
        return Ok(numbered(parts.collect()));
    }
    if in_order {
        return Ok(vec![in_order_of_occurrence(counts, size, control)?]);
    }
    let mut filled = Vec::with_capacity(parts);
    let each = Size {
        slots: size.slots / parts,
        pieces: size.pieces / parts,
    };
    let mut part = Part::with_capacity(each);
    counts.for_each(control, |piece, count, _| {
        if part.slots.len() > each.slots && filled.len() + 1 < parts {
            filled.push(std::mem::replace(&mut part, Part::with_capacity(each)));
        }
        part.add(piece.iter().copied(), count);
        Ok(())
    })?;
    filled.push(part);
    Ok(numbered(filled))
}

/// Where a piece occurs first in the text, its first slot, and its number.
type Occurrence = (u64, u32, u32);

fn in_order_of_occurrence(counts: &Counts, size: Size, control: &Control) -> Result<Part> {
    let mut shuffled = Part::with_capacity(size);
    let mut order: Vec<Occurrence> = Vec::with_capacity(size.pieces);
    counts.for_each(control, |piece, count, first| {
        let place = (
            first,
            shuffled.slots.len() as u32,
            shuffled.weights.len() as u32,
        );
        if shuffled.add(piece.iter().copied(), count) {
            order.push(place);
        }
        Ok(())
    })?;
    sort_by(&mut order, control, Ord::cmp)?;
    let mut part = Part::with_capacity(size);
    for (_, start, piece) in order {
        let slots = &shuffled.slots[start as usize..];
        let len = slots.iter().take_while(|&&slot| slot != WALL).count();
        let bytes = slots[..len].iter().map(|&byte| byte as u8);
        part.add(bytes, shuffled.weights[piece as usize]);
    }
    Ok(part)
}

/// Parts that know where in the whole corpus they begin.
fn numbered(mut parts: Vec<Part>) -> Vec<Part> {
    let mut next = Site::default();
    for part in &mut parts {
        part.first = next;
        next.position += part.slots.len() as u32;
        next.piece += part.weights.len() as u32;
    }
    parts
}

/// A guess at the count of the `merges`-th merge, rather too low than too high.
///
/// Counts of merges fall as a power of their rank, between the first and the second.
pub(super) fn likely_last_count(corpus: &[Part], merges: usize) -> u64 {
    let pairs: f64 = corpus.iter().map(|part| part.pairs).sum();
    ((1.5 * pairs / (merges.max(1) as f64).powf(1.5)) as u64).max(1)
}

/// How many of the sites, from the first on, hold the pair no longer.
pub(super) fn first_site(corpus: &[&Part], pair: Pair, places: &[Place], lengths: &[u32]) -> usize {
    let gone = |place: &&Place| {
        let site = place.site();
        !corpus.iter().any(|part| part.holds(pair, site, lengths))
    };
    places.iter().take_while(gone).count()
}

impl Part {
    fn with_capacity(size: Size) -> Self {
        let mut slots = Vec::with_capacity(size.slots + 1);
        prefer_huge_pages(&slots);
        slots.push(WALL);
        let weights = Vec::with_capacity(size.pieces);
        prefer_huge_pages(&weights);
        Self {
            slots,
            weights,
            pairs: 0.0,
            first: Site::default(),
            changes: Changes::default(),
            found: Table::none(),
        }
    }

    /// Adds a piece; whether it holds a pair, else it is left out.
    fn add(&mut self, bytes: impl ExactSizeIterator<Item = u8>, count: u64) -> bool {
        let pairs = bytes.len().saturating_sub(1);
        if pairs > 0 {
            self.slots.extend(bytes.map(u32::from));
            self.slots.push(WALL);
            self.pairs += pairs as f64 * count as f64;
            self.weights.push(count);
        }
        pairs > 0
    }

    /// Bytes taken.
    pub(super) fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<u32>()
            + self.weights.capacity() * size_of::<u64>()
            + self.changes.bytes()
            + self.found.bytes()
    }

    pub(super) fn weight(&self, site: Site) -> u64 {
        self.weights[(site.piece - self.first.piece) as usize]
    }

    /// Calls `each` with every adjacent pair, from the first piece to the last, left to right.
    pub(super) fn for_each_pair(
        &self,
        lengths: &[u32],
        control: &Control,
        mut each: impl FnMut(Pair, Site),
    ) -> Result<()> {
        if lengths.len() == BYTES {
            return self.for_each_pair_of_bytes(control, each);
        }
        let (mut at, first) = (1, self.first);
        for piece in 0..self.weights.len() {
            if piece % STRIDE == 0 {
                control.check()?;
            }
            let mut left = self.slots[at];
            loop {
                let next = at + lengths[left as usize] as usize;
                let right = self.slots[next];
                if right == WALL {
                    at = next + 1;
                    break;
                }
                let site = Site {
                    position: first.position + at as u32,
                    piece: first.piece + piece as u32,
                };
                each(Pair { left, right }, site);
                (at, left) = (next, right);
            }
        }
        Ok(())
    }

    /// The same before any merge, where no length has to be waited for.
    fn for_each_pair_of_bytes(
        &self,
        control: &Control,
        mut each: impl FnMut(Pair, Site),
    ) -> Result<()> {
        let Site {
            position: base,
            mut piece,
        } = self.first;
        let last = self.slots.len() - 1;
        for start in (1..last).step_by(STRIDE) {
            control.check()?;
            let end = last.min(start + STRIDE);
            for (position, pair) in (start..end).zip(self.slots[start..=end].windows(2)) {
                let (left, right) = (pair[0], pair[1]);
                if left == WALL {
                    piece += 1;
                } else if right != WALL {
                    let position = base + position as u32;
                    each(Pair { left, right }, Site { position, piece });
                }
            }
        }
        Ok(())
    }

    /// Whether the pair that was noted at `site` is still there.
    fn holds(&self, pair: Pair, site: Site, lengths: &[u32]) -> bool {
        let at = site.position.wrapping_sub(self.first.position) as usize;
        at < self.slots.len()
            && self.slots[at] == pair.left
            && self.slots[at + lengths[pair.left as usize] as usize] == pair.right
    }

    /// Finds the pairs that stand here, with counts and numbers of sites.
    ///
    /// # Errors
    /// [`Error::Interrupted`].
    pub(super) fn find_pairs(&mut self, lengths: &[u32], control: &Control) -> Result<()> {
        let mut found = Table::new();
        self.for_each_pair(lengths, control, |pair, site| {
            let entry = found.place(pair);
            entry.count += self.weight(site);
            entry.sites += 1;
        })?;
        self.found = found;
        Ok(())
    }

    /// Puts the sites of the pairs that were found into their places in the `shares` that kept them; this
    /// is the part with the number `own`.
    ///
    /// # Errors
    /// [`Error::Interrupted`].
    pub(super) fn put_sites(
        &mut self,
        own: usize,
        shares: &[&Pairs],
        lengths: &[u32],
        control: &Control,
    ) -> Result<()> {
        let mut found = std::mem::replace(&mut self.found, Table::none());
        let mut before: Vec<_> = shares.iter().map(|share| share.before(own)).collect();
        for entry in found.entries_mut() {
            let share = entry.pair().share(shares.len());
            let before = before[share].next().unwrap_or_default();
            let (start, kept) = shares[share].stretch(entry.pair());
            entry.start = if kept > 0 {
                start as u64 + u64::from(before)
            } else {
                NOWHERE
            };
        }
        self.for_each_pair(lengths, control, |pair, site| {
            let entry = found.get_mut(pair);
            if entry.start != NOWHERE {
                shares[pair.share(shares.len())].put(entry.start, site);
                entry.start += 1;
            }
        })
    }

    /// Those of a pair's places, which ascend, that are in this part.
    fn own<'s>(&self, places: &'s [Place]) -> &'s [Place] {
        let before = |piece: u32| match places.last() {
            Some(last) if last.site().piece < piece => places.len(),
            _ if piece == 0 => 0,
            _ => places.partition_point(|place| place.site().piece < piece),
        };
        let end = self.first.piece + self.weights.len() as u32;
        &places[before(self.first.piece)..before(end)]
    }

    /// Joins the pairs of a batch one after the other, each wherever `places` have it, from left to
    /// right, and notes in `changes` which pairs that made.
    ///
    /// # Errors
    /// [`Error::Interrupted`].
    pub(super) fn join<'s>(
        &mut self,
        batch: &[Joined],
        places: impl Fn(&Joined) -> &'s [Place],
        lengths: &[u32],
        shares: usize,
        control: &Control,
    ) -> Result<()> {
        let mut changes = std::mem::take(&mut self.changes);
        changes.begin(lengths.len(), shares);
        let mut next = batch.first().map(&places);
        for (index, joined) in batch.iter().enumerate() {
            let own = self.own(next.unwrap_or_default());
            next = batch.get(index + 1).map(&places);
            next.and_then(<[Place]>::first)
                .inspect(|place| prefetch(*place));
            for places in own.chunks(STRIDE) {
                control.check()?;
                self.join_at(joined, places, lengths, &mut changes);
            }
            changes.end_merge(joined);
        }
        self.changes = changes;
        Ok(())
    }

    fn join_at(
        &mut self,
        &Joined { pair, id, .. }: &Joined,
        places: &[Place],
        lengths: &[u32],
        changes: &mut Changes,
    ) {
        let left_len = lengths[pair.left as usize] as usize;
        let len = left_len + lengths[pair.right as usize] as usize;
        let Self {
            slots,
            weights,
            first,
            ..
        } = self;
        let slot = |site: Site| (site.position - first.position) as usize;
        let shares = changes.losses.len();
        let share = |left, right| move || Pair { left, right }.share(shares);
        for (index, place) in places.iter().enumerate() {
            let site = place.site();
            if let Some(later) = places.get(index + AHEAD) {
                let later = later.site();
                prefetch(&slots[slot(later)]);
                prefetch(&weights[(later.piece - first.piece) as usize]);
            }
            let start = slot(site);
            if slots[start] != pair.left || slots[start + left_len] != pair.right {
                continue;
            }
            let weight = weights[(site.piece - first.piece) as usize];
            let end = start + len;
            slots[start] = id;
            slots[start + left_len] = id;
            slots[end - 1] = id;
            let (before, after) = (slots[start - 1], slots[end]);
            // A neighbour that is `id` itself was joined just now, and noted the two.
            if before != WALL && before != id {
                let position = site.position - lengths[before as usize];
                let site = Site { position, ..site };
                changes.before.note(before, weight, site, share(before, id));
            }
            if after == pair.left && slots[end + left_len] == pair.right {
                changes.after.note(id, weight, site, share(id, id));
            } else if after != WALL {
                changes.after.note(after, weight, site, share(id, after));
            }
        }
    }
}
