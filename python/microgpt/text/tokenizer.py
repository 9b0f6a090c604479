"""Text <-> ids: the `Tokenizer` that users meet, over the Rust core.

Examples here run on the byte tokenizer; every method works alike on any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from microgpt import _core
from microgpt.errors import UsageError

Text = str | bytes | bytearray | memoryview
PathLikeStr = str | PathLike[str]
Names = Literal["all"] | Iterable[str]

PATTERNS = ("gpt2", "cl100k", "o200k", "llama3", "qwen2", "none")
TIES = ("ids", "hf", "lexical", "first")
VOCAB_NAMES, MERGES_NAMES = ("vocab.json", "encoder.json"), ("merges.txt", "vocab.bpe")
"""GPT-2's pair of files, as Hugging Face and as OpenAI name them."""


TrainProgress = Callable[[str, int, int, int], None]
"""Called with the stage, the work done and in all (0: unknown), and the distinct pieces so far."""


@dataclass(frozen=True)
class Files:
    """Text files, each a text of its own."""

    files: Sequence[PathLikeStr]


@dataclass(frozen=True)
class Saved:
    """Count files, in the order of the texts that they count."""

    counts: Sequence[PathLikeStr]


@dataclass(frozen=True)
class Texts:
    """Texts in memory, taken as they come."""

    texts: Iterable[str | bytes]


@dataclass(frozen=True)
class Counting:
    """How the pieces of a corpus are counted; count files say pattern and special tokens."""

    pattern: str = "gpt2"
    special_tokens: Sequence[str] = ()
    threads: int | None = None
    """None: all cores."""
    memory: int | None = None
    """Bytes; None: as much as it takes."""

    def __post_init__(self) -> None:
        if self.memory is not None and self.memory < 1:
            raise UsageError(f"memory={self.memory} is no number of bytes; None sets no limit")


@dataclass(frozen=True)
class Goal:
    """What ends training, and how it decides."""

    vocab_size: int | None = None
    epochs: int | None = None
    tie: str = "ids"


class Tokenizer:
    """A vocabulary and a pattern: turns text into ids and back, exactly.

    Immutable, and safe to use from many threads at once and after a fork.

    >>> tokenizer = Tokenizer.byte(special_tokens=["<|endoftext|>"])
    >>> tokenizer.encode("héllo")
    array([104, 195, 169, 108, 108, 111], dtype=uint32)
    >>> tokenizer.decode([104, 105])
    'hi'

    **Special tokens.** Text that spells one is an error unless the caller says what is meant, so
    that a document which happens to contain `<|endoftext|>` can neither end a document nor pass
    unnoticed. `allowed_special` names those that become their ids (`"all"`, or texts);
    `disallowed_special` those that are an error where they are not allowed (`"all"` by default;
    `()` makes them plain text). Added tokens that a Hugging Face file calls ordinary are always
    found.

    >>> tokenizer.encode("a<|endoftext|>", allowed_special="all").tolist()
    [97, 256]
    >>> tokenizer.count("a<|endoftext|>", disallowed_special=())
    14
    """

    __slots__ = ("_core",)

    def __init__(self, core: _core.Tokenizer) -> None:
        """Wraps a core; make tokenizers with `train`, `byte` and the `from_...` methods."""
        self._core = core

    # -- making one ---------------------------------------------------------------------------

    @classmethod
    def byte(cls, special_tokens: Sequence[str] = ()) -> Tokenizer:
        """The tokenizer of 256 ids, one a byte, and then the special tokens.

        >>> Tokenizer.byte().vocab_size
        256
        """
        return cls(_core.Tokenizer.byte(_texts(special_tokens)))

    @classmethod
    def train(
        cls,
        source: PathLikeStr | Iterable[PathLikeStr] | Iterable[bytes],
        *,
        vocab_size: int | None = None,
        epochs: int | None = None,
        pattern: str = "gpt2",
        tie: str = "ids",
        special_tokens: Sequence[str] = (),
        threads: int | None = None,
        memory: int | None = None,
        progress: TrainProgress | None = None,
    ) -> Tokenizer:
        """The BPE tokenizer trained on files, or on texts.

        A path, or a list or tuple of `str` and `Path`, names files; any other iterable (a
        generator, an open file, a map) yields texts, as `train_from_iterator` takes them. A list of
        texts in `str` would look like paths: hand it to `train_from_iterator`.

        Stops at `vocab_size` ids (bytes, merges and special tokens) or after `epochs`, whichever
        comes first. `tie` decides between pairs of equal count: `ids`, `hf`, `lexical` or `first`.
        `memory` is the bytes that counting, and then merging, may take; counts beyond it lie in
        temporary files, and the result is the same. `progress` is called with (stage, done, total,
        distinct pieces).
        """
        counting = Counting(pattern, _texts(special_tokens), _threads(threads), memory)
        goal = Goal(vocab_size, epochs, tie)
        return cls(_core.Tokenizer.train(_corpus(source), counting, goal, progress))

    @classmethod
    def train_from_iterator(
        cls,
        texts: Iterable[str | bytes],
        *,
        vocab_size: int | None = None,
        epochs: int | None = None,
        pattern: str = "gpt2",
        tie: str = "ids",
        special_tokens: Sequence[str] = (),
        threads: int | None = None,
        memory: int | None = None,
        progress: TrainProgress | None = None,
    ) -> Tokenizer:
        """The BPE tokenizer trained on texts, which pieces never cross; see `train`."""
        if isinstance(texts, str | bytes):
            raise UsageError("train_from_iterator takes several texts; wrap a single one in a list")
        counting = Counting(pattern, _texts(special_tokens), _threads(threads), memory)
        goal = Goal(vocab_size, epochs, tie)
        return cls(_core.Tokenizer.train(Texts(texts), counting, goal, progress))

    @classmethod
    def train_from_counts(
        cls,
        counts: PathLikeStr | Iterable[PathLikeStr],
        *,
        vocab_size: int | None = None,
        epochs: int | None = None,
        tie: str = "ids",
        threads: int | None = None,
        memory: int | None = None,
        progress: TrainProgress | None = None,
    ) -> Tokenizer:
        """The BPE tokenizer that `train` makes of all the text that count files stand for.

        They come from `count_pieces`, and say the pattern and the special tokens, which must be the
        same in all. Only the rule `first` asks for their order to be that of the texts. Raises
        `UsageError` where they do not agree, `DataError` where one is damaged.
        """
        counting = Counting(threads=_threads(threads), memory=memory)
        goal = Goal(vocab_size, epochs, tie)
        return cls(_core.Tokenizer.train(Saved(_paths(counts)), counting, goal, progress))

    @staticmethod
    def count_pieces(
        source: PathLikeStr | Iterable[PathLikeStr] | Iterable[bytes],
        path: PathLikeStr,
        *,
        pattern: str = "gpt2",
        special_tokens: Sequence[str] = (),
        threads: int | None = None,
        memory: int | None = None,
        progress: TrainProgress | None = None,
    ) -> int:
        """Saves how often text holds each piece, for `train_from_counts`.

        Returns how many distinct pieces there are. Takes the text as `train` does, and writes the
        file whole or not at all.
        """
        counting = Counting(pattern, _texts(special_tokens), _threads(threads), memory)
        return _core.save_counts(_corpus(source), counting, path, progress)[0]

    @classmethod
    def from_merges(
        cls,
        merges: Sequence[tuple[int, int]] | NDArray[Any],
        pattern: str = "gpt2",
        special_tokens: Sequence[str] = (),
    ) -> Tokenizer:
        """The tokenizer of merges: ids are bytes, then merges in order, then special tokens.

        >>> Tokenizer.from_merges([(104, 105)]).encode("hi").tolist()
        [256]
        """
        pairs = [(int(left), int(right)) for left, right in merges]
        return cls(_core.Tokenizer.from_merges(pairs, pattern, _texts(special_tokens)))

    @classmethod
    def from_file(
        cls,
        path: PathLikeStr,
        pattern: str | None = None,
        special_tokens: Mapping[str, int] | None = None,
    ) -> Tokenizer:
        """The tokenizer in a file or folder, in whichever format its name says.

        `*.json` is a `tokenizer.json`, but `vocab.json` comes with a `merges.txt` beside it;
        `*.tiktoken` is ranks (which need a pattern: given, or known from a published name such as
        `cl100k_base.tiktoken`) and may be given special tokens, as in `from_tiktoken`; a folder
        holds a `tokenizer.json`, or that pair.
        """
        path = Path(fspath(path))
        if path.suffix == ".tiktoken":
            return cls.from_tiktoken(path, pattern or _published_pattern(path), special_tokens)
        if pattern is not None:
            raise UsageError(f"{path} says its own pattern; pattern={pattern!r} is for .tiktoken")
        if special_tokens is not None:
            raise UsageError(
                f"{path} says its own special tokens; special_tokens= is for .tiktoken"
            )
        is_folder = path.is_dir()
        if path.name in VOCAB_NAMES or (is_folder and not (path / "tokenizer.json").exists()):
            folder, vocabs = (path, VOCAB_NAMES) if is_folder else (path.parent, (path.name,))
            for vocab in vocabs:
                for merges in MERGES_NAMES:
                    if (folder / vocab).exists() and (folder / merges).exists():
                        return cls.from_gpt2(folder / vocab, folder / merges)
        return cls.from_huggingface(path)

    @classmethod
    def from_huggingface(cls, path: PathLikeStr) -> Tokenizer:
        """The tokenizer in a Hugging Face `tokenizer.json`, or in a folder that holds one.

        Ids are those of `encode(text, add_special_tokens=False)`. Raises `DataError` where the file
        asks for what this program does not do exactly: normalizers, other pre-tokenizers than
        ByteLevel or a regex, byte fallback, dropout, stripping added tokens.
        """
        return cls(_core.Tokenizer.load_huggingface(path))

    @classmethod
    def from_tiktoken(
        cls,
        path: PathLikeStr,
        pattern: str = "gpt2",
        special_tokens: Mapping[str, int] | None = None,
    ) -> Tokenizer:
        """The tokenizer in a `.tiktoken` file of ranks.

        `special_tokens` maps texts to ids; by default r50k, p50k, cl100k and o200k get those that
        tiktoken gives them.
        """
        specials = None if special_tokens is None else list(special_tokens.items())
        return cls(_core.Tokenizer.load_tiktoken(path, pattern, specials))

    @classmethod
    def from_gpt2(cls, vocab: PathLikeStr, merges: PathLikeStr) -> Tokenizer:
        """The tokenizer in GPT-2's `vocab.json` and `merges.txt`.

        A token that no merge makes, such as `<|endoftext|>`, is a special token.
        """
        return cls(_core.Tokenizer.load_gpt2(vocab, merges))

    # -- saving one ---------------------------------------------------------------------------

    def save(self, path: PathLikeStr) -> None:
        """Writes the tokenizer in the format that the name says, whole or not at all.

        `*.json` becomes a `tokenizer.json` that Hugging Face's library loads to the same ids,
        `*.tiktoken` ranks (without pattern and special tokens, for which it has no place), and a
        folder, or a name without a suffix, gets a `tokenizer.json`.
        """
        path = Path(fspath(path))
        if path.suffix == ".tiktoken":
            self._core.save_tiktoken(path)
        elif path.suffix == ".json":
            self._core.save_huggingface(path)
        elif path.is_dir() or not path.suffix:
            path.mkdir(parents=True, exist_ok=True)
            self._core.save_huggingface(path / "tokenizer.json")
        else:
            raise UsageError(
                f"cannot tell a format from the name {path}; end it in .json or .tiktoken, "
                "or name a folder"
            )

    def save_gpt2(self, vocab: PathLikeStr, merges: PathLikeStr) -> None:
        """Writes GPT-2's pair of files; the pattern must be gpt2."""
        self._core.save_gpt2(vocab, merges)

    # -- text to ids --------------------------------------------------------------------------

    def encode(
        self,
        text: Text,
        *,
        allowed_special: Names = (),
        disallowed_special: Names = "all",
        threads: int | None = None,
    ) -> NDArray[np.uint32]:
        """The ids of a text, as an array of its own.

        Bytes need not be UTF-8. Ids do not depend on `threads` (by default one a core, for texts
        that are worth it). Raises `UsageError` where the text spells a special token that is
        neither allowed nor made plain text.
        """
        allowed, refused = _names(allowed_special), _names(disallowed_special)
        return self._core.encode(text, allowed, refused, _threads(threads))

    def encode_ordinary(self, text: Text, *, threads: int | None = None) -> NDArray[np.uint32]:
        """The ids of a text in which special tokens are plain text.

        >>> Tokenizer.byte(["<|x|>"]).encode_ordinary("<|x|>").tolist()
        [60, 124, 120, 124, 62]
        """
        return self._core.encode(text, [], [], _threads(threads))

    def encode_with_offsets(
        self,
        text: Text,
        *,
        unit: Literal["bytes", "characters"] = "bytes",
        allowed_special: Names = (),
        disallowed_special: Names = "all",
        threads: int | None = None,
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]:
        """The ids of a text and, of shape (ids, 2), where each begins and ends in it.

        In characters, a token that holds part of a character spans the whole of it.

        >>> ids, spans = Tokenizer.byte().encode_with_offsets("é!", unit="characters")
        >>> spans.tolist()
        [[0, 1], [0, 1], [1, 2]]
        """
        if unit not in ("bytes", "characters"):
            raise UsageError(f"unit={unit!r} is neither 'bytes' nor 'characters'")
        allowed, refused = _names(allowed_special), _names(disallowed_special)
        ids, ends = self._core.encode_with_offsets(text, allowed, refused, _threads(threads))
        spans = np.stack([ends[:-1], ends[1:]], axis=1)
        return ids, spans if unit == "bytes" else _in_characters(spans, text)

    def encode_batch(
        self,
        texts: Sequence[Text],
        *,
        allowed_special: Names = (),
        disallowed_special: Names = "all",
        threads: int | None = None,
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]:
        """The ids of all texts, one after the other, and the place at which each text begins.

        Text `i` is `ids[offsets[i]:offsets[i + 1]]`.

        >>> ids, offsets = Tokenizer.byte().encode_batch(["hi", "", "you"])
        >>> offsets.tolist()
        [0, 2, 2, 5]
        """
        _require_texts(texts)
        allowed, refused = _names(allowed_special), _names(disallowed_special)
        return self._core.encode_batch(list(texts), allowed, refused, _threads(threads))

    def encode_to_list(
        self,
        text: Text,
        *,
        allowed_special: Names = (),
        disallowed_special: Names = "all",
        threads: int | None = None,
    ) -> list[int]:
        """The ids of a text as a list, for code that wants Python's own; an array takes less time.

        Equal ids are one int object, made by the first call (some 36 bytes for each id of the
        vocabulary).

        >>> Tokenizer.byte().encode_to_list("hi")
        [104, 105]
        """
        allowed, refused = _names(allowed_special), _names(disallowed_special)
        return self._core.encode_to_list(text, allowed, refused, _threads(threads))

    def encode_batch_to_lists(
        self,
        texts: Sequence[Text],
        *,
        allowed_special: Names = (),
        disallowed_special: Names = "all",
        threads: int | None = None,
    ) -> list[list[int]]:
        """The ids of each text, as `encode_to_list` has them.

        >>> Tokenizer.byte().encode_batch_to_lists(["hi", ""])
        [[104, 105], []]
        """
        _require_texts(texts)
        allowed, refused = _names(allowed_special), _names(disallowed_special)
        return self._core.encode_batch_to_lists(list(texts), allowed, refused, _threads(threads))

    def encode_file(
        self,
        path: PathLikeStr,
        *,
        allowed_special: Names = (),
        disallowed_special: Names = "all",
        threads: int | None = None,
    ) -> NDArray[np.uint32]:
        """The ids of a file's bytes; for more than memory holds there is `microgpt tokenize`."""
        return self.encode(
            Path(fspath(path)).read_bytes(),
            allowed_special=allowed_special,
            disallowed_special=disallowed_special,
            threads=threads,
        )

    def count(
        self, text: Text, *, allowed_special: Names = (), disallowed_special: Names = "all"
    ) -> int:
        """How many ids a text has, without making them."""
        return self._core.count(text, _names(allowed_special), _names(disallowed_special))

    def split(self, text: Text) -> list[bytes]:
        """The pieces that the pattern cuts a text into; merges never cross from one to the next.

        >>> Tokenizer.from_merges([], pattern="gpt2").split("Hello world's")
        [b'Hello', b' world', b"'s"]
        """
        return self._core.split(text)

    # -- ids to text --------------------------------------------------------------------------

    def decode(self, ids: Any, errors: str = "replace") -> str:
        """The text of ids: an integer, a list of them, or an array.

        Bytes that are not UTF-8 become U+FFFD; `errors` is as in `bytes.decode`. Raises
        `UsageError` for an id that has no token.
        """
        return self._core.decode(_ids(ids), errors)

    def decode_bytes(self, ids: Any) -> bytes:
        """The bytes of ids, exactly."""
        return self._core.decode_bytes(_ids(ids))

    def decode_batch(
        self,
        ids: Sequence[Any] | NDArray[Any],
        offsets: Sequence[int] | NDArray[Any] | None = None,
        errors: str = "replace",
    ) -> list[str]:
        """The texts of a list of ids each, or of what `encode_batch` returned.

        >>> tokenizer = Tokenizer.byte()
        >>> tokenizer.decode_batch(*tokenizer.encode_batch(["hi", "you"]))
        ['hi', 'you']
        """
        if offsets is None:
            return [self.decode(one, errors) for one in ids]
        flat, ends = _ids(ids), [int(end) for end in offsets]
        return [self.decode(flat[start:end], errors) for start, end in pairwise(ends)]

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """The text of ids as they come, in parts that never end inside a character.

        Joined, the parts are what `decode` gives for all the ids.

        >>> list(Tokenizer.byte().decode_stream([195, 169, 33]))
        ['é', '!']
        """
        stream = self._core.decode_stream()
        for id in ids:
            if text := stream.push(int(id)):
                yield text
        if text := stream.finish():
            yield text

    # -- what is inside -----------------------------------------------------------------------

    def token_bytes(self, id: int) -> bytes:
        """The bytes of one id."""
        return self._core.token_bytes(int(id))

    def token_id(self, token: Text) -> int | None:
        """The id whose bytes are exactly these, or None; a special token is known by its text."""
        return self._core.token_id(token)

    def tokens(self) -> list[bytes | None]:
        """The bytes of every id, in order; None for an id without a token.

        >>> Tokenizer.from_merges([(104, 105)]).tokens()[255:]
        [b'\\xff', b'hi']
        """
        return self._core.tokens()

    def unreachable_ids(self) -> NDArray[np.uint32]:
        """The ordinary ids that no text gives, because merging their bytes ends in other tokens."""
        return self._core.unreachable_ids()

    @property
    def vocab_size(self) -> int:
        """One more than the largest id: bytes, merges and special tokens, gaps included."""
        return self._core.vocab_size

    @property
    def kind(self) -> str:
        """`"byte"` or `"bpe"`."""
        return self._core.kind

    @property
    def pattern(self) -> str:
        """The name of the pattern, or the user's own regex."""
        return self._core.pattern

    @property
    def special_tokens(self) -> dict[str, int]:
        """The special tokens and their ids."""
        return self._core.special_tokens

    @property
    def end_of_text_id(self) -> int | None:
        """The id that stands between documents, or None."""
        return self._core.end_of_text_id

    @property
    def merges(self) -> NDArray[np.uint32]:
        """Left and right id of each merge, lowest rank first: shape (merges, 2)."""
        return self._core.merges

    @property
    def fingerprint(self) -> str:
        """A SHA-256 of all that decides ids, whatever file the tokenizer came from."""
        return self._core.fingerprint

    def __len__(self) -> int:
        """The vocabulary's size."""
        return self.vocab_size

    def __eq__(self, other: object) -> bool:
        """Whether both encode and decode alike."""
        if not isinstance(other, Tokenizer):
            return NotImplemented
        return self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        """A hash of the fingerprint."""
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        """Kind, size, pattern and special tokens."""
        specials = ", ".join(self.special_tokens) or "none"
        return (
            f"<Tokenizer {self.kind}: {self.vocab_size:,} ids, pattern {self.pattern}, "
            f"special tokens: {specials}>"
        )

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        """Copies to other processes travel as the text of a tokenizer.json."""
        return _from_json, (self._core.to_json(),)


def _from_json(text: str) -> Tokenizer:
    return Tokenizer(_core.Tokenizer.load_json(text))


def _corpus(source: PathLikeStr | Iterable[PathLikeStr] | Iterable[bytes]) -> Files | Texts:
    if isinstance(source, str | PathLike | list | tuple):
        return Files(_paths(source))
    return Texts(source)  # pyright: ignore[reportArgumentType]


def _paths(files: PathLikeStr | Iterable[Any]) -> list[PathLikeStr]:
    return [_path(file) for file in ([files] if isinstance(files, str | PathLike) else files)]


def _path(file: object) -> PathLikeStr:
    if isinstance(file, str | PathLike):
        return file
    raise UsageError(
        f"train takes paths, not {type(file).__name__}; for texts there is train_from_iterator"
    )


def _texts(special_tokens: Sequence[str]) -> list[str]:
    if isinstance(special_tokens, str):
        raise UsageError(f"special_tokens is a list of texts, such as [{special_tokens!r}]")
    return list(special_tokens)


def _require_texts(texts: Sequence[Text]) -> None:
    if isinstance(texts, str | bytes | bytearray | memoryview):
        raise UsageError("a batch is a list of texts; one text is for encode")


def _names(special: Names) -> list[str] | None:
    """The core's words: None for all, else a list."""
    if special == "all":
        return None
    if isinstance(special, str):
        raise UsageError(f"special tokens are 'all' or a set of texts, such as {{{special!r}}}")
    return list(special)


def _threads(threads: int | None) -> int | None:
    if threads is not None and threads < 1:
        raise UsageError(f"threads={threads} is less than 1; None uses the machine's cores")
    return threads


def _ids(ids: Any) -> NDArray[Any]:
    """An array in a type that the core reads, the caller's own where it is one already."""
    if type(ids) is list and (listed := _core.listed_ids(ids)) is not None:
        return listed
    array = np.asarray(ids)
    if array.ndim == 0:
        array = array.reshape(1)
    if array.ndim != 1:
        raise UsageError(f"ids of shape {array.shape} are no sequence; decode one row at a time")
    if array.size == 0:
        return np.empty(0, np.uint32)
    if array.dtype.kind not in "iu":
        raise UsageError(f"ids of type {array.dtype} are no integers that fit in 64 bits")
    if array.dtype in (np.uint16, np.uint32, np.int64):
        return array
    if array.dtype == np.uint64 and array.max() > np.iinfo(np.int64).max:
        raise UsageError(f"id {array.max()} has no token: it is too large")
    return array.astype(np.int64)


def _in_characters(spans: NDArray[np.uint64], text: Text) -> NDArray[np.uint64]:
    """Spans in bytes as spans in characters, widened to whole ones."""
    data = np.frombuffer(text.encode() if isinstance(text, str) else text, np.uint8)
    begun = np.zeros(len(data) + 1, np.uint64)
    np.cumsum((data & 0xC0) != 0x80, out=begun[1:])
    starts = begun[np.minimum(spans[:, 0] + 1, len(data))] - 1
    return np.stack([starts, begun[spans[:, 1]]], axis=1)


def _published_pattern(path: Path) -> str:
    known = {"r50k_base": "gpt2", "p50k_base": "gpt2", "cl100k_base": "cl100k"}
    known["o200k_base"] = "o200k"
    if path.stem not in known:
        raise UsageError(
            f"{path} holds no pattern; give one of {', '.join(PATTERNS)}, or a regex, as pattern"
        )
    return known[path.stem]
