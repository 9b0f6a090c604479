"""Text -> dataset folder: a tokenizer chosen, made or loaded, and the text poured into shards.

`microgpt tokenize` and `microgpt train dataset.txt` meet here. A dataset belongs to its text by a
SHA-256 over the input files and the options that change what is read of them, and to its tokenizer
by the tokenizer's fingerprint; names and times prove nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from microgpt import _core
from microgpt.data.shards import MANIFEST_FILE, Dataset
from microgpt.errors import DataError, UsageError
from microgpt.progress import Progress
from microgpt.text.tokenizer import Counting, Goal, Tokenizer

DATASETS = Path("datasets")
"""Where datasets lie, each in a folder of its name."""
DEFAULT_INPUT = "dataset.txt"
END_OF_TEXT = "<|endoftext|>"
"""The special token that begins documents, and the default separator of a text's documents."""
STANDARD_INPUT = "-"
SHARD_TOKENS = 100_000_000
LARGEST_VOCABULARY = 1 << 24

SEEN_FILE = "seen.json"
"""In a dataset's folder: length and time of its inputs when they were last compared with it."""
_SETTLED_SECONDS = 2.0
"""A file changed more recently than this could change again without its time telling."""

_BYTE_TEXT_BYTES = 1_500_000
_BYTE_ALPHABET = 40
_VOCABULARIES = (
    (4_000_000, 1024),
    (10_000_000, 2048),
    (100_000_000, 4096),
    (1_000_000_000, 8192),
    (10_000_000_000, 16_384),
)
_LARGE_TEXT_VOCABULARY = 32_768

Report = Callable[[str, int, int, int], None]


@dataclass(frozen=True)
class Source:
    """What is read, and how its documents are found and divided; see `docs/formats.md`."""

    inputs: tuple[str, ...] = (DEFAULT_INPUT,)
    """Files, folders, patterns, or `-` for standard input."""
    include: tuple[str, ...] = ()
    """Patterns for files in folders; none: known extensions."""
    format: str = "auto"
    separator: str = END_OF_TEXT
    """What parts the documents of a text; empty: nothing does."""
    field: str = "text"
    valid_fraction: float | None = None
    """Share of the text kept for validation; None: by its size. 0: none."""
    seed: int = 0
    special_tokens: tuple[str, ...] = ()
    """Special tokens recognised where the text spells them."""
    standard_input: str | None = None
    """The file that holds what `-` stands for."""


@dataclass(frozen=True)
class TokenizerChoice:
    """Which tokenizer; what is None is chosen for the text."""

    kind: Literal["byte", "bpe"] | None = None
    vocab_size: int | None = None
    """Ids in all: bytes, merges and special tokens."""
    epochs: int | None = None
    pattern: str = "gpt2"
    tie: str = "ids"
    special_tokens: tuple[str, ...] = ()
    memory: int | None = None
    """Bytes that training may take; None: as much as it takes."""
    file: str | None = None
    """Use this one instead of making one."""

    def __post_init__(self) -> None:
        if self.file is not None and (self.kind or self.vocab_size or self.epochs):
            raise UsageError(
                "--tokenizer uses a tokenizer as it is: leave out --byte, --bpe, --vocab-size and "
                "--epochs"
            )
        if self.kind == "byte" and (self.vocab_size or self.epochs):
            raise UsageError(
                "--byte has 256 ids and the special tokens: leave out --vocab-size and --epochs, "
                "or train with --bpe"
            )
        if self.vocab_size is not None and not 256 <= self.vocab_size <= LARGEST_VOCABULARY:
            raise UsageError(
                f"--vocab-size is {self.vocab_size}, but must lie between 256 (the bytes) and "
                f"{LARGEST_VOCABULARY}"
            )
        if self.epochs is not None and self.epochs < 1:
            raise UsageError(f"--epochs is {self.epochs}, but must be at least 1")

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> TokenizerChoice:
        """Returns the choice in a command's options `byte`, `bpe`, `vocab_size` and `tokenizer`."""
        size = options.get("vocab_size")
        return cls(
            kind=kind_of(bool(options.get("byte")), bool(options.get("bpe") or size)),
            vocab_size=None if size is None else read_count("--vocab-size", str(size)),
            file=options.get("tokenizer"),
        )

    def admits(self, dataset: Dataset) -> bool:
        """Whether a dataset's tokenizer is one that this choice could have meant."""
        facts = dataset.manifest.tokenizer
        if self.file is not None:
            return facts.fingerprint == Tokenizer.from_file(self.file).fingerprint
        return self.kind in (None, facts.kind) and self.vocab_size in (None, facts.vocab_size)


def kind_of(byte: bool, bpe: bool) -> Literal["byte", "bpe"] | None:
    """Returns the kind that two flags ask for; None where neither is given."""
    if byte and bpe:
        raise UsageError("--byte and --bpe (or --vocab-size) exclude each other: give one of them")
    return "byte" if byte else "bpe" if bpe else None


def read_size(flag: str, text: str) -> int:
    """Returns the bytes in a flag's text; `2GB` is 2,000,000,000, and `2GiB` 2 x 2^30."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kKmMgGtT]?)(i?)[bB]?", text.replace("_", ""))
    if match is None or (match[3] and not match[2]):
        raise UsageError(f"{flag} is {text!r}, but must be a size such as 500MB or 2GB")
    power = " kmgt".index(match[2].lower() or " ")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def read_count(flag: str, text: str) -> int:
    """Returns the integer in a flag's text; `4k` is 4,000 and `4096` is itself."""
    match = re.fullmatch(r"(\d+)([kKmM]?)", text.replace(",", "").replace("_", ""))
    if match is None:
        raise UsageError(f"{flag} is {text!r}, but must be a whole number such as 4096 or 8k")
    return int(match[1]) * {"": 1, "k": 1_000, "m": 1_000_000}[match[2].lower()]


def chosen_for(text_bytes: int, distinct_bytes: int) -> tuple[Literal["byte", "bpe"], int]:
    """Returns the kind of tokenizer, and its number of ids, that suit a text of this size.

    Bytes for small texts and small alphabets, whose few long words a model would only learn by
    heart; else BPE with more ids the more text there is to learn each of them from.
    """
    if text_bytes < _BYTE_TEXT_BYTES or distinct_bytes <= _BYTE_ALPHABET:
        return "byte", 256
    return "bpe", vocabulary_for(text_bytes)


def vocabulary_for(text_bytes: int) -> int:
    """Returns the number of BPE's ids that suits a text of this size."""
    for limit, vocab_size in _VOCABULARIES:
        if text_bytes < limit:
            return vocab_size
    return _LARGE_TEXT_VOCABULARY


def make_tokenizer(
    source: Source,
    choice: TokenizerChoice,
    report: Report | None = None,
    threads: int | None = None,
) -> Tokenizer:
    """Returns the tokenizer that `choice` names for the text of `source`.

    It has an end-of-text token where the text has several documents, or where one is asked for.

    Raises:
        UsageError, DataError, OSError: the input or the tokenizer's file cannot be read.
    """
    if choice.file is not None:
        return Tokenizer.from_file(choice.file)
    text_bytes, several_documents, distinct_bytes = _core.survey_inputs(source)
    specials = list(dict.fromkeys([*([END_OF_TEXT] * several_documents), *choice.special_tokens]))
    kind, vocab_size = chosen_for(text_bytes, distinct_bytes)
    asked = choice.kind or ("bpe" if choice.vocab_size or choice.epochs else kind)
    if asked == "byte":
        return Tokenizer.byte(specials)
    if choice.vocab_size is not None or choice.epochs is not None:
        vocab_size = choice.vocab_size
    else:
        vocab_size = max(vocab_size, _VOCABULARIES[0][1])
    counting = Counting(choice.pattern, specials, threads, choice.memory)
    goal = Goal(vocab_size, choice.epochs, choice.tie)
    return Tokenizer(_core.Tokenizer.train(source, counting, goal, report))


def save_counts(
    source: Source,
    choice: TokenizerChoice,
    path: Path,
    threads: int | None = None,
    report: Report | None = None,
) -> tuple[int, int]:
    """Saves the counts of a corpus' pieces; returns its distinct pieces and its bytes.

    The end-of-text token is always among the special tokens: counts are for text in several files.

    Raises:
        UsageError, DataError, OSError: the input cannot be read, or the file not written.
    """
    with _kept_standard_input(source) as source:
        specials = list(dict.fromkeys([END_OF_TEXT, *choice.special_tokens]))
        counting = Counting(choice.pattern, specials, threads, choice.memory)
        return _core.save_counts(source, counting, path, report)


def train_from_counts(
    counts: Sequence[str],
    choice: TokenizerChoice,
    threads: int | None = None,
    report: Report | None = None,
) -> Tokenizer:
    """Returns the tokenizer for the text that count files stand for, of a size that suits it.

    Raises:
        UsageError, DataError, OSError: the files cannot be read, or do not agree.
    """
    vocab_size = choice.vocab_size
    if vocab_size is None and choice.epochs is None:
        vocab_size = vocabulary_for(_core.counted_bytes(counts))
    return Tokenizer.train_from_counts(
        counts,
        vocab_size=vocab_size,
        epochs=choice.epochs,
        tie=choice.tie,
        threads=threads,
        memory=choice.memory,
        progress=report,
    )


def prepare(
    source: Source,
    choice: TokenizerChoice,
    folder: Path,
    *,
    shard_tokens: int = SHARD_TOKENS,
    threads: int | None = None,
    force: bool = False,
    report: Report | None = None,
) -> tuple[Dataset, bool]:
    """Returns the dataset of `source` in `folder`, and whether it had to be written.

    A dataset that is there already is used when it is of the same text, options and tokenizer, and
    replaced only with `force`. A write that was broken off is continued.

    Raises:
        UsageError: `folder` holds another dataset, or is being written by another process.
        DataError, OSError: the input cannot be read, or the folder not written.
    """
    with _kept_standard_input(source) as source:
        present = None if force else opened(folder)
        if present is not None and not _is_of(present, source, report):
            raise UsageError(
                f"{folder} holds a dataset of other text or options: --force replaces it, "
                "--name NAME keeps both"
            )
        tokenizer = make_tokenizer(source, choice, report, threads)
        _require_known(tokenizer, source.special_tokens)
        if present is not None:
            if present.manifest.tokenizer.fingerprint == tokenizer.fingerprint:
                return present, False
            raise UsageError(
                f"{folder} holds the same text with another tokenizer: --force replaces it, "
                "--name NAME keeps both"
            )
        return _written(tokenizer, source, folder, shard_tokens, threads, report), True


def find_or_make(path: str, options: Mapping[str, Any]) -> Dataset:
    """Returns a dataset of the text at `path`, made in `datasets/` where none of it is there.

    `options` may name a tokenizer as `TokenizerChoice.from_options` reads them; without, any
    dataset of this text will do, the one that bears its name first.

    Raises:
        UsageError, DataError, OSError: the input cannot be read, or the dataset not written.
    """
    require_input(path)
    choice = TokenizerChoice.from_options(options)
    source = Source(inputs=(path,))
    with _kept_standard_input(source) as source, Progress("tokenize") as bar:
        for folder in _candidates(path):
            dataset = opened(folder)
            if dataset is None or not choice.admits(dataset):
                continue
            if _is_of(dataset, _read_like(dataset, source), bar.core):
                return dataset
        tokenizer = make_tokenizer(source, choice, bar.core)
        folder = _free_folder(path)
        return _written(tokenizer, source, folder, SHARD_TOKENS, None, bar.core)


@contextlib.contextmanager
def read_whole(path: str, tokenizer: Tokenizer, like: Dataset | None) -> Iterator[Dataset]:
    """Gives all of an input as the training side of a dataset, which is gone afterwards. Documents
    are found and divided as they were for `like`, or by the defaults.

    Raises:
        UsageError, DataError, OSError: the input cannot be read.
    """
    source = Source(inputs=(path,))
    if like is not None:
        source = _read_like(like, source)
    with _kept_standard_input(source) as source, tempfile.TemporaryDirectory() as temporary:
        source, folder = replace(source, valid_fraction=0.0), Path(temporary) / "dataset"
        yield _written(tokenizer, source, folder, SHARD_TOKENS, None, None)


def name_for(path: str) -> str:
    """Returns the name of an input, for its dataset and its runs: its file's name up to the first
    dot; of a pattern, that of the folder around it."""
    if path == STANDARD_INPUT:
        return "stdin"
    parts = Path(path).resolve().parts[1:]
    plain = [part for part in parts if not re.search(r"[*?\[]", part)]
    name = plain[-1] if plain else ""
    return name.split(".")[0] or name.strip(".") or "dataset"


def require_input(path: str) -> None:
    """Does nothing where `path` can be looked at.

    Raises:
        DataError: the default input is not there; the sentence tells a newcomer how to get one.
    """
    if path == DEFAULT_INPUT and not os.path.lexists(path):
        raise DataError(
            f"there is no {DEFAULT_INPUT} here: name a text file, or make one with "
            f"`python dummy_data/addition_dummy.py > {DEFAULT_INPUT}`"
        )


def _written(
    tokenizer: Tokenizer,
    source: Source,
    folder: Path,
    shard_tokens: int,
    threads: int | None,
    report: Report | None,
) -> Dataset:
    before = _stamps(source)
    _core.write_dataset(
        tokenizer._core,
        folder,
        source,
        shard_tokens=shard_tokens,
        threads=threads,
        progress=report,
    )
    _remember(folder, before)
    return Dataset.open(folder)


def _require_known(tokenizer: Tokenizer, special_tokens: tuple[str, ...]) -> None:
    for token in special_tokens:
        if token not in tokenizer.special_tokens:
            known = ", ".join(tokenizer.special_tokens) or "none"
            raise UsageError(f"the tokenizer has no special token {token!r}; it has: {known}")


def opened(folder: Path) -> Dataset | None:
    """Returns the dataset in `folder`; None where there is none, or a broken one."""
    if not (folder / MANIFEST_FILE).is_file():
        return None
    try:
        return Dataset.open(folder)
    except DataError:
        return None


def _candidates(path: str) -> list[Path]:
    """Returns the dataset folders, that of the input's name first, then the newest."""
    name = name_for(path)
    folders = [manifest.parent for manifest in DATASETS.glob(f"*/{MANIFEST_FILE}")]

    def age(folder: Path) -> tuple[bool, float]:
        with contextlib.suppress(OSError):
            return folder.name != name, -(folder / MANIFEST_FILE).stat().st_mtime
        return True, 0.0

    return sorted(folders, key=age)


def _free_folder(path: str) -> Path:
    """Returns the folder for a new dataset: no finished dataset is in it."""
    name = name_for(path)
    folder, number = DATASETS / name, 1
    while (folder / MANIFEST_FILE).exists():
        number += 1
        folder = DATASETS / f"{name}-{number}"
    return folder


def _read_like(dataset: Dataset, source: Source) -> Source:
    """Returns `source` with the options that a dataset was read with."""
    options = dict(dataset.manifest.source.options)
    for key in ("include", "special_tokens"):
        options[key] = tuple(options.get(key, ()))
    try:
        return replace(source, **options)
    except TypeError as error:
        raise DataError(
            f"{dataset.folder / MANIFEST_FILE} has an unknown option: {error}"
        ) from error


def _is_of(dataset: Dataset, source: Source, report: Report | None) -> bool:
    """Whether `source`, read as it says, is the text that `dataset` was made from."""
    told = dataset.manifest.source
    before = _stamps(source)
    if sum(size for size, _ in before.values()) < sum(one.bytes for one in told.inputs):
        return False
    options_alone = _core_options(source) == _core_options(_read_like(dataset, source))
    if options_alone and before and before == _seen(dataset):
        return True
    if _core.input_fingerprint(source, progress=report) != told.fingerprint:
        return False
    _remember(dataset.folder, before)
    return True


def _core_options(source: Source) -> tuple[Any, ...]:
    return (
        tuple(source.include),
        source.format,
        source.separator,
        source.field,
        source.valid_fraction,
        source.seed,
        tuple(source.special_tokens),
    )


Stamps = dict[str, tuple[int, int]]


def _stamps(source: Source) -> Stamps:
    """Returns length and time of change, in nanoseconds, of each input file, in order."""
    stamps = {}
    for path, _ in _core.list_inputs(source):
        facts = os.stat(path)
        stamps[os.path.abspath(path)] = (facts.st_size, facts.st_mtime_ns)
    return stamps


def _seen(dataset: Dataset) -> Stamps | None:
    """Returns the stamps under which the inputs were last found to be this dataset's."""
    try:
        seen = json.loads((dataset.folder / SEEN_FILE).read_bytes())
        if seen["manifest"] != dataset.fingerprint:
            return None
        return {path: (int(size), int(changed)) for path, size, changed in seen["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(folder: Path, stamps: Stamps) -> None:
    """Notes that files with these stamps are the dataset's inputs, if stamps are to be trusted."""
    newest = max((changed for _, changed in stamps.values()), default=0)
    if time.time_ns() - newest < _SETTLED_SECONDS * 1e9:
        return
    fingerprint = hashlib.sha256((folder / MANIFEST_FILE).read_bytes()).hexdigest()
    files = [[path, size, changed] for path, (size, changed) in stamps.items()]
    text = json.dumps({"manifest": fingerprint, "files": files}, indent=1)
    temporary = folder / f"{SEEN_FILE}.{os.getpid()}.tmp"
    with contextlib.suppress(OSError):  # It only saves time.
        temporary.write_text(text + "\n", encoding="utf-8")
        os.replace(temporary, folder / SEEN_FILE)


@contextlib.contextmanager
def _kept_standard_input(source: Source) -> Iterator[Source]:
    """Gives `source` with standard input, where it is named, kept in a file to be read again."""
    if STANDARD_INPUT not in source.inputs or source.standard_input is not None:
        yield source
        return
    if sys.stdin.isatty():
        raise UsageError(
            "standard input is the terminal: pipe text in, as in `cat *.txt | microgpt tokenize -`"
        )
    DATASETS.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=DATASETS, prefix=".stdin-", suffix=".tmp")
    try:
        with open(handle, "wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
        yield replace(source, standard_input=name)
    finally:
        os.unlink(name)
