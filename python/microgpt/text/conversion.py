"""A tokenizer file in another format, written only where it means the same."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from microgpt.errors import UsageError
from microgpt.text.tokenizer import MERGES_NAMES, VOCAB_NAMES, Tokenizer

FORMATS = ("json", "tiktoken", "gpt2")


@dataclass(frozen=True)
class Target:
    """Files of one format: `tokenizer.json`, ranks, or GPT-2's vocabulary and merges."""

    format: str
    files: tuple[Path, ...]


def target_for(path: Path, format: str | None) -> Target:
    """Returns the files to write at `path`, by its name where no format is given.

    `*.tiktoken` is ranks, `vocab.json` (or `encoder.json`) comes with its merges, any other
    `*.json` is a `tokenizer.json`, and a folder, or a name without a suffix, gets a
    `tokenizer.json`, or GPT-2's two files where the format says so.

    Raises:
        UsageError: name and format disagree, or neither says what to write.
    """
    if path.is_dir() or not path.suffix:
        format = format or "json"
        names = {"json": ("tokenizer.json",), "gpt2": ("vocab.json", "merges.txt")}
        if format not in names:
            raise UsageError(f"{path} is a folder; ranks need a name that ends in .tiktoken")
        return Target(format, tuple(path / name for name in names[format]))
    named = _format_of(path)
    if named is None:
        raise UsageError(
            f"cannot tell a format from the name {path}; end it in .json or .tiktoken, "
            "or name a folder"
        )
    if format not in (None, named):
        raise UsageError(f"{path} is named like the format {named}, not {format}")
    if named != "gpt2":
        return Target(named, (path,))
    merges = MERGES_NAMES[VOCAB_NAMES.index(path.name)]
    return Target(named, (path, path.with_name(merges)))


def convert(tokenizer: Tokenizer, target: Target, *, replace: bool = False) -> None:
    """Writes the tokenizer; what is written was read back, and encodes and decodes alike.

    Ranks hold neither pattern nor special tokens: they mean the same to a reader who is given them.

    Raises:
        UsageError: a file is there and `replace` is off, or the format cannot say what the
            tokenizer does. Nothing is written, or changed.
        OSError: the system refused; each file is the old one or the new one, whole.
    """
    for file in target.files:
        if file.exists() and not replace:
            raise UsageError(f"{file} exists; --force replaces it")
    folder = target.files[0].parent
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
    with tempfile.TemporaryDirectory(prefix=".convert-", dir=there) as scratch:
        written = tuple(Path(scratch) / file.name for file in target.files)
        try:
            again = _write_and_read(tokenizer, target.format, written)
        except UsageError as error:
            # The sentence names the file that was asked for, not the temporary one.
            asked = str(error).replace(str(written[0]), str(target.files[0]))
            raise UsageError(asked) from None
        if again != tokenizer:
            raise UsageError(
                f"cannot write {target.files[0]}: read back, it would give other ids; "
                "convert to a tokenizer.json"
            )
        folder.mkdir(parents=True, exist_ok=True)
        for file, final in zip(written, target.files, strict=True):
            os.replace(file, final)


def _write_and_read(tokenizer: Tokenizer, format: str, files: tuple[Path, ...]) -> Tokenizer:
    if format == "gpt2":
        tokenizer.save_gpt2(*files)
        return Tokenizer.from_gpt2(*files)
    tokenizer.save(files[0])
    if format == "json":
        return Tokenizer.from_huggingface(files[0])
    specials: Mapping[str, int] = tokenizer.special_tokens
    return Tokenizer.from_tiktoken(files[0], tokenizer.pattern, specials)


def _format_of(path: Path) -> str | None:
    if path.name in VOCAB_NAMES:
        return "gpt2"
    return {".json": "json", ".tiktoken": "tiktoken"}.get(path.suffix)
