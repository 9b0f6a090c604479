"""Training rows as a pure function of (seed, step): nothing to save, nothing to fast-forward.

A row is a window of `context + 1` ids of the training split. In each epoch the stream is cut into
windows end to end, from a start that differs by epoch, and every window is used once, in an order
that differs by epoch. The order is a keyed permutation computed for the asked index alone (a
Feistel network that walks its cycle back into range: Black and Rogaway 2002), so it takes no memory
however many windows there are.

On text made of lines, rows can begin where lines do (`LineRules.align`): with the end of the line
before, behind which a question is asked by itself too. Targets can be limited to what follows a
marker such as `=` up to the end of its line (`LineRules.marks`).
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from microgpt.config import IGNORED
from microgpt.errors import DataError

_ROUNDS = 6
_BLOCK_ROWS = 4096
"""Rows whose places are computed at once, since numpy's cost is per call."""
_PHASE, _ORDER = 1, 2

U64 = NDArray[np.uint64]
Batch = tuple[NDArray[np.int64], NDArray[np.int64]]


class Ids(Protocol):
    """A stream of ids: a split of a dataset, or an array."""

    tokens: int

    def read(self, start: int, length: int) -> NDArray[Any]:
        """Returns ids `start` to `start + length`."""
        ...


class ArrayIds:
    """Ids in memory."""

    def __init__(self, ids: NDArray[Any]) -> None:
        self.tokens = len(ids)
        self._ids = ids

    def read(self, start: int, length: int) -> NDArray[Any]:
        """Returns ids `start` to `start + length`."""
        return self._ids[start : start + length]


@dataclass(frozen=True)
class LineRules:
    """What ids mean for lines; each table has an entry for every id of the vocabulary."""

    ends: NDArray[np.bool_]
    """True for ids behind which a line begins: they end in a line feed, or part texts."""
    align: bool = False
    """Rows begin with line ends, so that their first line is whole."""
    begin: int | None = None
    """Takes the place of the line end that an aligned row begins with: the id that begins texts,
    where the tokenizer has one. None: the line end stays."""
    marks: NDArray[np.bool_] | None = None
    """True for ids whose text holds the marker; with it only the rest of the line is a target."""

    def begun(self, rows: NDArray[np.int64]) -> None:
        """Puts `begin` in the place of the line ends that `rows` (rows, ids) begin with."""
        if self.begin is not None:
            rows[self.ends[rows[:, 0]], 0] = self.begin


class Loader:
    """Batches of one split: `batch(step)` gives the same arrays whenever it is asked."""

    def __init__(
        self,
        split: Ids,
        context: int,
        batch_rows: int,
        seed: int,
        lines: LineRules | None = None,
    ) -> None:
        """Prepares to cut `split` into rows of `context` inputs and as many targets.

        Raises:
            DataError: the split is too short for one row.
        """
        if split.tokens < context + 1:
            raise DataError(
                f"the training set has {split.tokens} tokens, but a row of context {context} takes "
                f"{context + 1}: give more text or a smaller --context"
            )
        self.split, self.context, self.batch_rows, self.seed = split, context, batch_rows, seed
        self.lines = lines
        pairs = split.tokens - 1
        self.rows_per_epoch = max(1, (pairs - context + 1) // context)
        self._phases = pairs - self.rows_per_epoch * context + 1
        self._line_ends = _line_ends(split, lines.ends) if lines and lines.align else None
        self._block: tuple[int, NDArray[np.int64]] | None = None

    def batch(self, step: int) -> Batch:
        """Returns inputs and targets of a step counted from 0, each (batch_rows, context)."""
        rows = np.empty((self.batch_rows, self.context + 1), np.int64)
        for row, start in zip(rows, self._starts(step).tolist(), strict=True):
            row[:] = self.split.read(start, self.context + 1)
        if self.lines is not None and self.lines.align:
            self.lines.begun(rows)
        inputs, targets = rows[:, :-1], rows[:, 1:]
        if self.lines is not None and self.lines.marks is not None:
            counted = after_marks(inputs, self.lines.marks, self.lines.ends)
            targets = np.where(counted, targets, IGNORED)
        return inputs, targets

    def _starts(self, step: int) -> NDArray[np.int64]:
        """Where in the split each row of the step begins."""
        steps = max(1, _BLOCK_ROWS // self.batch_rows)
        block, offset = divmod(step, steps)
        known = self._block  # another thread may put a new one in its place
        if known is None or known[0] != block:
            first = block * steps * self.batch_rows
            rows = np.arange(first, first + steps * self.batch_rows, dtype=np.uint64)
            self._block = known = (block, self._row_starts(rows))
        return known[1][offset * self.batch_rows :][: self.batch_rows]

    def _row_starts(self, rows: U64) -> NDArray[np.int64]:
        """Where rows, numbered from the start of training, begin."""
        count = np.uint64(self.rows_per_epoch)
        epochs, indices = rows // count, rows % count
        phases = _key(self.seed, _PHASE, epochs) % np.uint64(self._phases)
        places = shuffled(indices, self.rows_per_epoch, _key(self.seed, _ORDER, epochs))
        starts = (phases + places * np.uint64(self.context)).astype(np.int64)
        if self._line_ends is None:
            return starts
        before = np.searchsorted(self._line_ends, starts, "right") - 1
        aligned = self._line_ends[before]
        # A line longer than the context would be entered at its start over and over.
        return np.where(starts - aligned < self.context, aligned, starts)


class Ahead:
    """A loader's batches, each made while the one before is computed with."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._thread = ThreadPoolExecutor(1, "loader")
        self._next: tuple[int, Future[Batch]] | None = None

    def batch(self, step: int) -> Batch:
        """Returns what the loader's `batch` returns, which is at hand where steps follow."""
        if self._next is None or self._next[0] != step:
            self._next = step, self._thread.submit(self._loader.batch, step)
        batch = self._next[1].result()
        self._next = step + 1, self._thread.submit(self._loader.batch, step + 1)
        return batch


def shuffled(indices: U64, count: int, keys: U64) -> U64:
    """Returns where each index stands in a permutation of `range(count)` that its key chooses.

    `indices` and `keys` have one shape; a key's permutation is a bijection.
    """
    bits = max(2, (count - 1).bit_length())
    low_bits = np.uint64(bits // 2)
    low_mask = np.uint64((1 << (bits // 2)) - 1)
    high_mask = np.uint64((1 << (bits - bits // 2)) - 1)

    def once(values: U64, keys: U64) -> U64:
        low, high = values & low_mask, values >> low_bits
        for _ in range(_ROUNDS // 2):
            keys = _mixed(keys)
            low = low ^ (_mixed(high + keys) & low_mask)
            keys = _mixed(keys)
            high = high ^ (_mixed(low + keys) & high_mask)
        return (high << low_bits) | low

    places = once(indices, keys)
    while (outside := places >= count).any():
        places[outside] = once(places[outside], keys[outside])
    return places


def _key(seed: int, purpose: int, epochs: U64) -> U64:
    """A number for each epoch that looks random, and differs by seed and purpose."""
    seeds = np.full(1, seed % (1 << 64), np.uint64)
    return _mixed(_mixed(_mixed(seeds) + np.uint64(purpose)) + epochs)


def _mixed(values: U64) -> U64:
    """splitmix64 (Steele et al. 2014): each bit of the result depends on every bit of the value."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _line_ends(split: Ids, ends: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Where lines end, the first id's place always among them; one pass over the ids."""
    found = [np.zeros(1, np.int64)]
    chunk = 1 << 24
    for start in range(0, split.tokens - 1, chunk):
        ids = split.read(start, min(chunk, split.tokens - 1 - start))
        found.append(np.flatnonzero(ends[ids]) + start)
    return np.concatenate(found)


def after_marks(inputs: NDArray[np.int64], marks: Any, ends: Any) -> NDArray[np.bool_]:
    """True where the next id still belongs to what follows a mark on the same line, its line end
    included; a row that begins inside an answer does not know it."""
    places = np.arange(1, inputs.shape[1] + 1)
    last_mark = np.maximum.accumulate(np.where(marks[inputs], places, 0), axis=1)
    last_end = np.maximum.accumulate(np.where(ends[inputs], places, 0), axis=1)
    return last_mark > last_end
