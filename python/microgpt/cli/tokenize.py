"""`microgpt tokenize`: a tokenizer trained on text, and the text written as token shards."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from microgpt.errors import UsageError
from microgpt.progress import Progress, count_text, size_text
from microgpt.text.display import cut_text, visible, wants_colour

if TYPE_CHECKING:
    import numpy as np

    from microgpt.data.prepare import Source, TokenizerChoice
    from microgpt.data.shards import Dataset
    from microgpt.text.tokenizer import Tokenizer

COUNTED_TOKENS = 50_000_000
"""Ids looked at for the share of the vocabulary in use."""
SAMPLE_TOKENS = 48
LONGEST_SHOWN = 8


@click.command(context_settings={"max_content_width": 100})
@click.argument("inputs", nargs=-1, metavar="[INPUT]...")
@click.option("--byte", is_flag=True, help="Byte tokenizer: 256 ids, one a byte. Nothing to train.")
@click.option("--bpe", is_flag=True, help="BPE tokenizer, trained on INPUT.")
@click.option(
    "--epochs",
    type=click.IntRange(1),
    metavar="N",
    help="Train BPE for N epochs. In one epoch only tokens that existed when it began are joined, "
    "so tokens at most double in length.",
)
@click.option(
    "--vocab-size", metavar="N", help="Train BPE to N ids, bytes and special tokens included (4k)."
)
@click.option(
    "--pattern",
    metavar="NAME",
    help="How BPE cuts text into pieces that tokens never cross: gpt2, cl100k, o200k, llama3, "
    "qwen2, none, or a regex.  [default: gpt2]",
)
@click.option(
    "--tie",
    type=click.Choice(["ids", "hf", "lexical", "first"]),
    help="Which of two equally frequent pairs BPE joins first.  [default: ids]",
)
@click.option(
    "--special-token",
    "special_tokens",
    multiple=True,
    metavar="TEXT",
    help="A token of its own wherever INPUT spells it, such as '<|user|>'. May be repeated.",
)
@click.option(
    "--tokenizer",
    "tokenizer_file",
    metavar="FILE",
    help="Use this tokenizer (tokenizer.json, .tiktoken, or a folder) and train none.",
)
@click.option(
    "--memory",
    metavar="SIZE",
    help="What training BPE may take, such as 2GB; counts beyond it go to temporary files.",
)
@click.option(
    "--count-only",
    is_flag=True,
    help="Only count INPUT's pieces, and write them to --out FILE.  [default: NAME.counts]",
)
@click.option(
    "--from-counts",
    is_flag=True,
    help="INPUT are files that --count-only wrote: train BPE on them all, and write the tokenizer "
    "to --out FILE.  [default: tokenizer.json]",
)
@click.option("--name", metavar="NAME", help="Write datasets/NAME/; INPUT's name if not given.")
@click.option("--out", "-o", metavar="PATH", help="Write this folder (or file) instead.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["auto", "text", "jsonl", "parquet"]),
    default="auto",
    show_default=True,
    help="How INPUT holds documents; auto: by the file's extension. gzip and zstd are recognised.",
)
@click.option(
    "--separator",
    metavar="TEXT",
    help="What parts the documents of a text; \\n and \\t are understood, '' parts nothing.  "
    "[default: <|endoftext|>]",
)
@click.option(
    "--field",
    default="text",
    show_default=True,
    metavar="NAME",
    help="The JSON key or Parquet column that holds a document's text.",
)
@click.option(
    "--include",
    multiple=True,
    metavar="PATTERN",
    help="In folders, read the files that match, such as '*.py'. May be repeated.",
)
@click.option(
    "--valid-fraction",
    type=click.FloatRange(0, 0.9),
    metavar="X",
    help="Share kept for validation, 0 for none.  [default: 0.1 up to 1 MB, else 0.05, at most "
    "about 20 MB]",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    help="Chooses the documents that are kept for validation.",
)
@click.option(
    "--shard-tokens", metavar="N", default="100M", show_default=True, help="Tokens in a shard file."
)
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Threads; all if not given.")
@click.option("--force", is_flag=True, help="Replace a dataset, or file, of the same name.")
def command(inputs: tuple[str, ...], **options: Any) -> None:
    """Turn text into token shards: datasets/NAME/ with a tokenizer, training and validation ids.

    INPUT is text, JSON lines or Parquet, plain or compressed: files, folders, patterns such as
    'books/*.txt', or - for standard input. Without INPUT, dataset.txt is read. Without --byte,
    --bpe or --tokenizer, bytes are chosen for small texts and BPE for larger ones.

    \b
    Examples:
      microgpt tokenize
      microgpt tokenize --bpe --epochs 50
      microgpt tokenize books/ --vocab-size 8k --name books
      microgpt tokenize src/ --include '*.rs' --include '*.py' --name code
      microgpt tokenize web.jsonl.zst --field content --tokenizer r50k_base.tiktoken
      microgpt tokenize part1/ --count-only -o part1.counts
      microgpt tokenize part1.counts part2.counts --from-counts --vocab-size 32k
    """
    from microgpt.data import prepare

    choice = _choice(options)
    if options["from_counts"]:
        return _train_from_counts(inputs, choice, options)
    inputs = inputs or (prepare.DEFAULT_INPUT,)
    prepare.require_input(inputs[0])
    source = prepare.Source(
        inputs=inputs,
        include=options["include"],
        format=options["format_"],
        separator=_separator(options["separator"], prepare.END_OF_TEXT),
        field=options["field"],
        valid_fraction=options["valid_fraction"],
        seed=options["seed"],
        special_tokens=options["special_tokens"],
    )
    if options["count_only"]:
        return _count(source, choice, options)
    with Progress("tokenize") as bar:
        dataset, written = prepare.prepare(
            source,
            choice,
            _folder(options, inputs[0]),
            shard_tokens=prepare.read_count("--shard-tokens", options["shard_tokens"]),
            threads=options["threads"],
            force=options["force"],
            report=bar.core,
        )
    _print_report(dataset, choice.vocab_size)
    click.echo(f"{'wrote' if written else 'up to date:'} {dataset.folder}/")
    click.echo(f"next: microgpt train {_next_argument(dataset, inputs)}")
    return None


def _count(source: Source, choice: TokenizerChoice, options: dict[str, Any]) -> None:
    """Writes the counts of a corpus' pieces."""
    from microgpt.data import prepare

    _refuse(
        "--count-only trains nothing",
        options,
        ("byte", "vocab_size", "epochs", "tie", "tokenizer_file", "name", "valid_fraction"),
    )
    path = _free_file(options, f"{prepare.name_for(source.inputs[0])}.counts")
    with Progress("count") as bar:
        pieces, text_bytes = prepare.save_counts(source, choice, path, options["threads"], bar.core)
    click.echo(f"counted     {size_text(text_bytes)}, {pieces:,} distinct pieces")
    click.echo(f"wrote {path}, {size_text(path.stat().st_size)}")
    click.echo(f"next: microgpt tokenize {path} OTHER.counts --from-counts --vocab-size N")


def _train_from_counts(
    counts: tuple[str, ...], choice: TokenizerChoice, options: dict[str, Any]
) -> None:
    """Writes the tokenizer for the text that count files stand for."""
    from microgpt.data import prepare

    _refuse(
        "--from-counts reads only count files, which say the pattern and the special tokens",
        options,
        ("count_only", "byte", "pattern", "special_tokens", "tokenizer_file", "name", "include"),
    )
    if not counts:
        raise UsageError("--from-counts has no INPUT: name the files that --count-only wrote")
    path = _free_file(options, "tokenizer.json")
    if path.suffix not in (".json", ".tiktoken"):
        raise UsageError(f"--out is {path}, but a tokenizer's file ends in .json or .tiktoken")
    with Progress("join") as bar:
        tokenizer = prepare.train_from_counts(counts, choice, options["threads"], bar.core)
    tokenizer.save(path)
    _note_small(tokenizer, choice.vocab_size)
    click.echo(_tokenizer_line(tokenizer, None))
    click.echo(f"longest     {_longest(tokenizer, range(tokenizer.vocab_size))}")
    click.echo(f"wrote {path}")
    click.echo(f"next: microgpt tokenize INPUT --tokenizer {path}")


def _refuse(why: str, options: dict[str, Any], names: tuple[str, ...]) -> None:
    flags = {"tokenizer_file": "--tokenizer", "special_tokens": "--special-token"}
    given = [flags.get(name, "--" + name.replace("_", "-")) for name in names if options[name]]
    if given:
        raise UsageError(f"{why}: leave out {', '.join(given)}")


def _free_file(options: dict[str, Any], default: str) -> Path:
    """Returns the file to write, which is there already only if it may be replaced."""
    path = Path(options["out"] or default)
    if path.is_dir():
        raise UsageError(f"--out is {path}, a folder: name a file")
    if path.exists() and not options["force"]:
        raise UsageError(f"{path} is there already: --force replaces it, --out writes another")
    return path


def _choice(options: dict[str, Any]) -> TokenizerChoice:
    from microgpt.data.prepare import TokenizerChoice, kind_of, read_count, read_size

    size = options["vocab_size"]
    only_bpe = [name for name in ("vocab_size", "epochs", "pattern", "tie") if options[name]]
    if options["byte"] and only_bpe and not options["bpe"]:
        flags = ", ".join("--" + name.replace("_", "-") for name in only_bpe)
        raise UsageError(f"--byte trains nothing: leave out {flags}, or give --bpe instead")
    file = options["tokenizer_file"]
    if file is not None and (only_bpe or options["byte"] or options["bpe"]):
        raise UsageError(
            "--tokenizer uses a tokenizer as it is: leave out --byte, --bpe, --vocab-size, "
            "--epochs, --pattern and --tie"
        )
    return TokenizerChoice(
        kind=kind_of(options["byte"], options["bpe"] or bool(only_bpe)),
        vocab_size=None if size is None else read_count("--vocab-size", size),
        epochs=options["epochs"],
        pattern=options["pattern"] or "gpt2",
        tie=options["tie"] or "ids",
        special_tokens=options["special_tokens"],
        memory=None if options["memory"] is None else read_size("--memory", options["memory"]),
        file=file,
    )


def _separator(text: str | None, default: str) -> str:
    """Returns the separator with its escapes read; a backslash before anything else is itself."""
    if text is None:
        return default
    parts = text.split("\\\\")
    return "\\".join(part.replace("\\n", "\n").replace("\\t", "\t") for part in parts)


def _folder(options: dict[str, Any], first_input: str) -> Path:
    from microgpt.data.prepare import DATASETS, name_for

    if options["out"] is not None:
        if options["name"] is not None:
            raise UsageError("--name and --out both say where to write: give one of them")
        return Path(options["out"])
    name = options["name"] if options["name"] is not None else name_for(first_input)
    if not name or name in (".", "..") or "/" in name or "\\" in name:
        raise UsageError(f"--name is {name!r}, but must be a folder's name; --out takes a path")
    return DATASETS / name


def _next_argument(dataset: Dataset, inputs: tuple[str, ...]) -> str:
    """Returns what `microgpt train` is to be given to use this dataset."""
    from microgpt.data.prepare import DATASETS, DEFAULT_INPUT

    is_default = inputs == (DEFAULT_INPUT,) and dataset.folder == DATASETS / "dataset"
    return DEFAULT_INPUT if is_default else f"{dataset.folder}"


# What came out


def _print_report(dataset: Dataset, asked_vocab_size: int | None) -> None:
    import numpy as np

    from microgpt.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_file(dataset.tokenizer_path)
    facts = dataset.manifest
    for note in facts.source.notes:
        click.echo(f"note: {note}", err=True)
    _note_small(tokenizer, asked_vocab_size)
    counts = np.zeros(tokenizer.vocab_size, np.int64)
    for start in range(0, min(dataset.train.tokens, COUNTED_TOKENS), 1 << 22):
        ids = dataset.train.read(start, min(1 << 22, dataset.train.tokens - start))
        counts += np.bincount(ids, minlength=tokenizer.vocab_size)
    click.echo(_tokenizer_line(tokenizer, counts))
    for name, split in (("train", facts.train), ("valid", facts.valid)):
        click.echo(_split_line(name, split))
    if tokenizer.kind == "bpe":
        click.echo(f"longest     {_longest(tokenizer, counts.nonzero()[0].tolist())}")
    click.echo(f"sample      {_sample(dataset, tokenizer)}")


def _note_small(tokenizer: Tokenizer, asked_vocab_size: int | None) -> None:
    if asked_vocab_size is not None and tokenizer.vocab_size < asked_vocab_size:
        click.echo(
            f"note: the text gives no more than {tokenizer.vocab_size} ids of the "
            f"{asked_vocab_size} asked for",
            err=True,
        )


def _tokenizer_line(tokenizer: Tokenizer, counts: np.ndarray | None) -> str:
    """Returns what a tokenizer is; with how often each id occurs, also how many are used."""
    used = ""
    if counts is not None:
        number = int((counts > 0).sum())
        used = f", {number} of them used ({number / tokenizer.vocab_size:.0%})"
    specials = " ".join(tokenizer.special_tokens)
    specials = f", special: {specials}" if specials else ""
    return f"tokenizer   {tokenizer.kind}, {tokenizer.vocab_size} ids{used}{specials}"


def _split_line(name: str, split: Any) -> str:
    if split.tokens == 0:
        return f"{name:<11} none"
    documents = "1 document" if split.documents == 1 else f"{split.documents:,} documents"
    return (
        f"{name:<11} {count_text(split.tokens)} tokens of {size_text(split.text_bytes)}, "
        f"{split.text_bytes / split.tokens:.3f} bytes a token, {documents}"
    )


def _longest(tokenizer: Tokenizer, ids: Iterable[int]) -> str:
    """Returns the longest tokens among ids."""
    special = set(tokenizer.special_tokens.values())
    longest = sorted(
        (id for id in ids if id not in special),
        key=lambda id: (-len(tokenizer.token_bytes(id)), id),
    )
    return "  ".join(visible(tokenizer.token_bytes(id)) for id in longest[:LONGEST_SHOWN])


def _sample(dataset: Dataset, tokenizer: Tokenizer) -> str:
    """Returns how the text's beginning splits: in colours on a terminal, else in brackets."""
    ids = dataset.train.read(0, min(SAMPLE_TOKENS, dataset.train.tokens)).tolist()
    return cut_text([tokenizer.token_bytes(id) for id in ids], wants_colour())
