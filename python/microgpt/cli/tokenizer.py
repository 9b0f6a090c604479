"""`microgpt tokenizer`: look inside a tokenizer, compare two, convert between file formats."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from microgpt.errors import UsageError
from microgpt.progress import count_text, size_text

if TYPE_CHECKING:
    from microgpt.text.comparison import OnText, Overlap
    from microgpt.text.inspection import Inspection
    from microgpt.text.tokenizer import Tokenizer

SHOWN = 8
"""Tokens, ids or differences named in one list."""
BAR = 40
"""Characters of the longest bar of a histogram."""
LONG = 16
"""Lengths from here on share a line of the histogram."""
TEXT_BYTES = 100_000_000
"""Bytes of --text that are read."""

_pattern = click.option(
    "--pattern",
    metavar="NAME",
    help="How a .tiktoken file's text is cut: gpt2, cl100k, o200k, llama3, qwen2, none, or a "
    "regex. Other formats say it themselves, and published names are known.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


_WIDE = {"max_content_width": 100}


@click.group(context_settings=_WIDE)
def command() -> None:
    """Look inside a tokenizer, compare two, or convert one to another file format.

    A tokenizer is a tokenizer.json, a .tiktoken file of ranks, a vocab.json with its merges.txt, or
    a folder that holds one, such as a dataset or a run.
    """


@command.command(context_settings=_WIDE, short_help="Show what a tokenizer is made of.")
@click.argument("file", type=click.Path(path_type=Path))
@_pattern
@click.option(
    "--text",
    type=click.Path(path_type=Path),
    help="Also count the ids that this text does not use.",
)
@_json
def inspect(file: Path, pattern: str | None, text: Path | None, as_json: bool) -> None:
    """Show what a tokenizer is made of.

    Kind, pattern, sizes, special tokens, fingerprint; how many tokens there are of each length, and
    the longest; gaps between ids; tokens that no text gives, because merging their bytes ends in
    others; tokens that the pattern cuts where they stand alone. Bytes that are no text are shown as
    escapes, spaces as a dot.

    \b
    Examples:
      microgpt tokenizer inspect datasets/books
      microgpt tokenizer inspect cl100k_base.tiktoken --text books.txt
    """
    from microgpt.text import inspection

    tokenizer = _load(file, pattern)
    facts = inspection.inspect(tokenizer)
    unused = None
    if text is not None:
        ids = tokenizer.encode(_read(text), allowed_special="all")
        unused = inspection.unused_ids(tokenizer, ids)
    if as_json:
        record = asdict(facts) | {"longest": facts.longest[:SHOWN], "unused": unused}
        click.echo(json.dumps(record, indent=2))
    else:
        click.echo("\n".join(_inspection_lines(tokenizer, facts, unused)))


@command.command(
    context_settings=_WIDE, short_help="Compare two: vocabularies, tokens, speed and splits."
)
@click.argument("left", type=click.Path(path_type=Path))
@click.argument("right", type=click.Path(path_type=Path))
@click.option(
    "--text",
    type=click.Path(path_type=Path),
    help=f"Also compare what they make of this text (of its first {size_text(TEXT_BYTES)}).",
)
@_pattern
@_json
def compare(left: Path, right: Path, text: Path | None, pattern: str | None, as_json: bool) -> None:
    """Compare two tokenizers: vocabularies, and tokens, speed and splits on a text.

    Speed is that of this machine at this moment, on one thread, with warm caches. Special tokens in
    the text are plain text.

    \b
    Examples:
      microgpt tokenizer compare r50k_base.tiktoken datasets/books --text books.txt
      microgpt tokenizer compare a.json b.json --json
    """
    from microgpt.text import comparison

    names = (str(left), str(right))
    pair = (_load(left, pattern), _load(right, pattern))
    shared = comparison.overlap(*pair)
    data = None if text is None else _read(text)
    on_text = None if data is None else comparison.compare_on(*pair, data)
    if as_json:
        click.echo(json.dumps(_comparison_record(pair, shared, on_text), indent=2))
        return
    click.echo("\n".join(_comparison_lines(names, pair, shared)))
    if on_text is not None:
        click.echo("\n".join(_text_lines(on_text)))


@command.command(
    context_settings=_WIDE, short_help="Write another file format, if that gives the same ids."
)
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "format_",
    type=click.Choice(["json", "tiktoken", "gpt2"]),
    help="What to write where TARGET is a folder: tokenizer.json, or vocab.json with merges.txt.  "
    "[default: json]",
)
@_pattern
@click.option(
    "--special-token",
    "special_tokens",
    multiple=True,
    metavar="TEXT=ID",
    help="A special token of a .tiktoken SOURCE, which cannot hold any. May be repeated.",
)
@click.option("--force", is_flag=True, help="Replace files that are there.")
def convert(
    source: Path,
    target: Path,
    format_: str | None,
    pattern: str | None,
    special_tokens: tuple[str, ...],
    force: bool,
) -> None:
    """Write a tokenizer in another file format, if that gives the same ids.

    TARGET's name says the format: *.tiktoken is ranks, vocab.json comes with a merges.txt, any
    other *.json is a tokenizer.json, and a folder gets a tokenizer.json. What was written is read
    back and compared before it takes its name, so a file that is there is right.

    \b
    Examples:
      microgpt tokenizer convert cl100k_base.tiktoken cl100k.json
      microgpt tokenizer convert datasets/books books.tiktoken
      microgpt tokenizer convert r50k_base.tiktoken gpt2/ --to gpt2
      microgpt tokenizer convert my.tiktoken my.json --pattern o200k --special-token '<|x|>=900'
    """
    from microgpt.text import conversion

    tokenizer = _load(source, pattern, _special_ids(special_tokens))
    written = conversion.target_for(target, format_)
    conversion.convert(tokenizer, written, replace=force)
    click.echo(f"wrote {' and '.join(str(file) for file in written.files)}")
    if written.format == "tiktoken":
        specials = tokenizer.special_tokens
        click.echo(
            f"note: ranks hold no pattern and no special tokens; load them with "
            f"pattern={tokenizer.pattern!r}, special_tokens={specials!r}",
            err=True,
        )


def _load(
    path: Path, pattern: str | None, special_tokens: dict[str, int] | None = None
) -> Tokenizer:
    """Returns the tokenizer at `path`; a pattern is for ranks, and passed over by other formats."""
    from microgpt.text.tokenizer import Tokenizer

    if path.suffix != ".tiktoken":
        pattern = None
    return Tokenizer.from_file(path, pattern, special_tokens)


def _special_ids(given: tuple[str, ...]) -> dict[str, int] | None:
    specials = {}
    for one in given:
        text, equals, id = one.rpartition("=")
        if not equals or not (id.isascii() and id.isdigit()):
            raise UsageError(
                f"--special-token is {one!r}, but must be TEXT=ID, as in '<|x|>=50257'"
            )
        specials[text] = int(id)
    return specials or None


def _read(path: Path) -> bytes:
    """Returns the beginning of a text, and says so where there is more."""
    with open(path, "rb") as file:
        data = file.read(TEXT_BYTES + 1)
    if not data:
        raise UsageError(f"{path} is empty: there is no text to look at")
    if len(data) > TEXT_BYTES:
        click.echo(f"note: only the first {size_text(TEXT_BYTES)} of {path} are read", err=True)
    return data[:TEXT_BYTES]


# inspect


def _inspection_lines(
    tokenizer: Tokenizer, facts: Inspection, unused: list[int] | None
) -> list[str]:
    specials = ", ".join(f"{text} {id}" for text, id in facts.special_tokens.items())
    lines = [
        f"kind         {facts.kind}",
        f"pattern      {facts.pattern}",
        f"ids          {facts.vocab_size:,}: {sum(facts.lengths.values()):,} ordinary, "
        f"{len(facts.special_tokens):,} special, {len(facts.gaps):,} gaps",
        f"merges       {facts.merges:,}",
        f"special      {specials or 'none'}",
        f"end of text  {'none' if facts.end_of_text_id is None else facts.end_of_text_id}",
        f"fingerprint  {facts.fingerprint}",
        f"parts        {facts.partial_characters:,} tokens begin or end inside a character",
        f"longest      {_named(tokenizer, facts.longest)}",
        _named_count("unreachable", tokenizer, facts.unreachable),
        _named_count("cut alone", tokenizer, facts.cut),
    ]
    if unused is not None:
        lines.append(_named_count("unused", tokenizer, unused))
    return lines + _histogram(facts.lengths)


def _named_count(name: str, tokenizer: Tokenizer, ids: list[int]) -> str:
    return f"{name:<12} {len(ids):,} {_named(tokenizer, ids)}".rstrip()


def _named(tokenizer: Tokenizer, ids: list[int]) -> str:
    from microgpt.text.display import visible

    shown = "  ".join(
        f"{id} {_shortened(visible(tokenizer.token_bytes(id)))}" for id in ids[:SHOWN]
    )
    return shown + ("  ..." if len(ids) > SHOWN else "")


def _shortened(text: str) -> str:
    return text if len(text) <= 32 else f"{text[:24]}...({len(text)})"


def _histogram(lengths: dict[int, int]) -> list[str]:
    """Returns a line for each length in bytes; the long ones share one."""
    bars = {str(length): count for length, count in lengths.items() if length < LONG}
    rest = sum(count for length, count in lengths.items() if length >= LONG)
    if rest:
        bars[f"{LONG}+"] = rest
    most = max(bars.values())
    return ["bytes a token:"] + [
        f"  {length:>3} {count:>9,} {'#' * -(-count * BAR // most)}"
        for length, count in bars.items()
    ]


# compare


def _comparison_record(
    pair: tuple[Tokenizer, Tokenizer], shared: Overlap, on_text: OnText | None
) -> dict[str, Any]:
    record: dict[str, Any] = {"equal": pair[0] == pair[1], "vocabulary": asdict(shared)}
    if on_text is not None:
        differences = [
            {
                "count": one.count,
                "left": [token.decode("utf-8", "backslashreplace") for token in one.left],
                "right": [token.decode("utf-8", "backslashreplace") for token in one.right],
            }
            for one in on_text.differences[:SHOWN]
        ]
        record["text"] = asdict(on_text) | {"differences": differences}
    return record


def _comparison_lines(
    names: tuple[str, str], pair: tuple[Tokenizer, Tokenizer], shared: Overlap
) -> list[str]:
    return [
        *(f"{side}  {name}: {one!r}" for side, name, one in zip("AB", names, pair, strict=True)),
        "both encode and decode alike" if pair[0] == pair[1] else "they differ",
        f"vocabulary       {shared.shared:,} tokens shared ({shared.same_id:,} with one id), "
        f"{shared.only_left:,} only in A, {shared.only_right:,} only in B",
    ]


def _text_lines(on_text: OnText) -> list[str]:
    from microgpt.text.display import cut_text, wants_colour

    (left, right), seconds = on_text.tokens, on_text.seconds
    rates = [size_text(on_text.text_bytes / one) for one in seconds]
    share = on_text.differing_bytes / on_text.compared_bytes
    coloured = wants_colour()
    lines = [
        f"tokens           A {count_text(left)}, B {count_text(right)}: "
        f"B has {right / left:.4f} times as many",
        "bytes a token    A {:.3f}, B {:.3f}".format(*on_text.bytes_per_token),
        f"speed            A {rates[0]}/s, B {rates[1]}/s: "
        f"B is {seconds[0] / seconds[1]:.2f} times as fast",
        f"splits           {share:.1%} of the first {size_text(on_text.compared_bytes)} "
        "are cut differently",
    ]
    for one in on_text.differences[:SHOWN]:
        sides = (cut_text(one.left, coloured), cut_text(one.right, coloured))
        lines.append(f"{one.count:>9,} times  {sides[0]}  |  {sides[1]}")
    return lines
