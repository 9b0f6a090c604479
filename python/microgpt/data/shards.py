"""A dataset folder as memory-mapped ids: what `microgpt tokenize` wrote, opened for reading.

The format is `docs/formats.md`, "Dataset". Opening reads the manifest and the header of each shard,
never the ids; these are paged in where `Split.read` touches them, so a dataset may be larger than
memory. A nanoGPT `.bin` (uint16 ids without a header) can be read with `Split.from_files`.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from microgpt.errors import DataError

MANIFEST_FILE = "manifest.json"
TOKENIZER_FILE = "tokenizer.json"
FORMAT, VERSION = "microgpt-dataset", 2

HEADER_BYTES = 1024
_KNOWN_HEADERS = {(20240520, 1): np.dtype("<u2"), (20240801, 7): np.dtype("<u4")}
_HEADERLESS = np.dtype("<u2")

Ids = np.ndarray[tuple[int], np.dtype[np.uint16 | np.uint32]]


@dataclass(frozen=True)
class ShardInfo:
    """What the manifest says of one shard file."""

    file: str
    tokens: int
    bytes: int
    ids_sha256: str


@dataclass(frozen=True)
class SplitInfo:
    """What the manifest says of one side of the split."""

    tokens: int
    documents: int
    text_bytes: int
    shards: tuple[ShardInfo, ...]


@dataclass(frozen=True)
class InputInfo:
    """A file that the dataset was made from."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class SourceInfo:
    """What the dataset was made from; `fingerprint` covers the content and the reading options."""

    inputs: tuple[InputInfo, ...]
    text_bytes: int
    options: dict[str, Any]
    fingerprint: str
    notes: tuple[str, ...]
    """What was left out or is odd, a sentence each."""


@dataclass(frozen=True)
class TokenizerInfo:
    """The tokenizer that made the ids."""

    fingerprint: str
    vocab_size: int
    end_of_text_id: int | None
    kind: str


@dataclass(frozen=True)
class SplitRule:
    """How documents were divided: `rule` is "documents", "tails" or "none"."""

    seed: int
    fraction: float
    rule: str


@dataclass(frozen=True)
class Manifest:
    """`manifest.json`, parsed and checked for shape."""

    tokenizer: TokenizerInfo
    dtype: str
    source: SourceInfo
    split: SplitRule
    train: SplitInfo
    valid: SplitInfo

    @classmethod
    def parse(cls, text: bytes, path: Path) -> Manifest:
        """Returns the manifest in `text`, which was read from `path`.

        Raises:
            DataError: no JSON, another format or version, or a key that is missing or malformed.
        """
        try:
            raw = json.loads(text)
        except ValueError as error:
            raise DataError(f"{path} is no JSON ({error}): make the dataset again") from error
        if not isinstance(raw, dict) or raw.get("format") != FORMAT:
            raise DataError(f"{path} is no manifest of a microgpt dataset")
        if raw.get("version") != VERSION:
            raise DataError(
                f"{path} has version {raw.get('version')}, but this program reads version "
                f"{VERSION}: make the dataset again"
            )
        try:
            return cls(
                tokenizer=TokenizerInfo(**raw["tokenizer"]),
                dtype=str(np.dtype(raw["dtype"])),
                source=_source(raw["source"]),
                split=SplitRule(**raw["split"]),
                train=_split(raw["train"]),
                valid=_split(raw["valid"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path} is malformed at {error}: make the dataset again") from error


def _source(raw: dict[str, Any]) -> SourceInfo:
    inputs = tuple(InputInfo(**one) for one in raw["inputs"])
    return SourceInfo(
        inputs,
        int(raw["text_bytes"]),
        dict(raw["options"]),
        str(raw["fingerprint"]),
        tuple(raw["notes"]),
    )


def _split(raw: dict[str, Any]) -> SplitInfo:
    shards = tuple(ShardInfo(**one) for one in raw["shards"])
    return SplitInfo(int(raw["tokens"]), int(raw["documents"]), int(raw["text_bytes"]), shards)


@dataclass(frozen=True)
class _Shard:
    """Where one file's ids lie."""

    path: Path
    dtype: np.dtype[Any]
    offset: int
    tokens: int

    def map(self) -> Ids:
        if self.tokens == 0:
            return np.empty(0, self.dtype)
        try:
            return np.memmap(self.path, self.dtype, "r", self.offset, (self.tokens,))
        except (OSError, ValueError) as error:
            raise DataError(f"cannot map {self.path}: {error}") from error


def _open_shard(path: Path) -> _Shard:
    """Returns where the ids of `path` lie, by its header, or as nanoGPT's where it has none."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = np.frombuffer(file.read(HEADER_BYTES), "<i4", 3) if size >= 12 else None
    except OSError as error:
        raise DataError(f"cannot read shard {path}: {error.strerror}") from error
    dtype = None if header is None else _KNOWN_HEADERS.get((int(header[0]), int(header[1])))
    if header is None or dtype is None:
        if size % _HEADERLESS.itemsize:
            raise DataError(f"{path} is no shard: no header, and an odd length of {size} bytes")
        return _Shard(path, _HEADERLESS, 0, size // _HEADERLESS.itemsize)
    tokens = int(header[2])
    expected = HEADER_BYTES + tokens * dtype.itemsize
    if tokens < 0 or size != expected:
        raise DataError(
            f"{path} is torn: its header tells of {tokens} ids, so {expected} bytes, "
            f"but it has {size}: make the dataset again"
        )
    return _Shard(path, dtype, HEADER_BYTES, tokens)


class Split:
    """The ids of one side of a dataset, end to end: shard edges do not show."""

    def __init__(self, shards: Sequence[_Shard]) -> None:
        self._shards = tuple(shards)
        self._ends = list(accumulate(shard.tokens for shard in self._shards))
        self._maps: list[Ids | None] = [None] * len(self._shards)
        self.tokens = self._ends[-1] if self._ends else 0
        self.dtype = self._shards[0].dtype if self._shards else _HEADERLESS

    @classmethod
    def from_files(cls, paths: Sequence[Path]) -> Split:
        """Returns the ids of the shards at `paths`, in that order; nanoGPT's `.bin` is read too.

        Raises:
            DataError: a file that is missing or torn, or files with ids of different width.
        """
        shards = [_open_shard(Path(path)) for path in paths]
        for shard in shards[1:]:
            if shard.dtype != shards[0].dtype:
                raise DataError(
                    f"{shard.path} holds {shard.dtype.name} ids, but {shards[0].path} "
                    f"{shards[0].dtype.name}: they are not of one dataset"
                )
        return cls(shards)

    def read(self, start: int, length: int) -> Ids:
        """Returns ids `start` to `start + length`; shape (length,), the shards' own dtype.

        A view of the mapped file where one shard holds them all, else a copy. Read-only.

        Raises:
            IndexError: the range is not inside the split.
        """
        end = start + length
        if not 0 <= start <= end <= self.tokens:
            raise IndexError(f"ids {start} to {end} are outside a split of {self.tokens} ids")
        index = bisect_right(self._ends, start)
        parts: list[Ids] = []
        while start < end:
            first = self._ends[index] - self._shards[index].tokens
            stop = min(end, self._ends[index])
            parts.append(self._map(index)[start - first : stop - first])
            start, index = stop, index + 1
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty(0, self.dtype)

    def _map(self, index: int) -> Ids:
        ids = self._maps[index]
        if ids is None:
            ids = self._maps[index] = self._shards[index].map()
        return ids

    def __getstate__(self) -> dict[str, Any]:
        """Leaves the maps behind, so that a worker process maps the files for itself."""
        return {**self.__dict__, "_maps": [None] * len(self._shards)}


class Dataset:
    """A dataset folder, opened: `manifest`, and the `train` and `valid` ids."""

    def __init__(self, folder: Path, manifest: Manifest, fingerprint: str) -> None:
        self.folder = folder
        self.manifest = manifest
        self.fingerprint = fingerprint
        """SHA-256 of the manifest, which holds the checksum of every shard."""
        self.train = self._split(manifest.train)
        self.valid = self._split(manifest.valid)
        """No ids (`valid.tokens == 0`) where the dataset was made without a validation set."""

    @classmethod
    def open(cls, folder: str | Path) -> Dataset:
        """Returns the dataset in `folder`, its shards' headers and lengths checked.

        Checksums take a pass over the ids; `microgpt._core.verify_dataset` compares them.

        Raises:
            DataError: no dataset, a torn one, or one whose files and manifest disagree.
        """
        folder = Path(folder)
        path = folder / MANIFEST_FILE
        try:
            text = path.read_bytes()
        except FileNotFoundError as error:
            raise DataError(
                f"{folder} is no dataset: it has no {MANIFEST_FILE} "
                "(make one with `microgpt tokenize`)"
            ) from error
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}") from error
        return cls(folder, Manifest.parse(text, path), hashlib.sha256(text).hexdigest())

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer's file, which belongs to the dataset."""
        return self.folder / TOKENIZER_FILE

    def _split(self, info: SplitInfo) -> Split:
        split = Split.from_files([self.folder / shard.file for shard in info.shards])
        for shard, told in zip(split._shards, info.shards, strict=True):
            if shard.tokens != told.tokens or shard.dtype != np.dtype(self.manifest.dtype):
                raise DataError(
                    f"{shard.path} holds {shard.tokens} {shard.dtype.name} ids, but the manifest "
                    f"tells of {told.tokens} {self.manifest.dtype}: make the dataset again"
                )
        if split.tokens != info.tokens:
            raise DataError(
                f"{self.folder / MANIFEST_FILE} tells of {info.tokens} ids, but its shards hold "
                f"{split.tokens}: make the dataset again"
            )
        return split
