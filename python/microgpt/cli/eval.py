"""`microgpt eval`: how well a trained model predicts, or answers, a whole set."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from microgpt.cli import require_training
from microgpt.cli.sampling_options import checkpoint_option
from microgpt.errors import DataError, UsageError

if TYPE_CHECKING:
    from microgpt.config import DataConfig
    from microgpt.data.loader import Ids
    from microgpt.device import Compute
    from microgpt.model.gpt import GPT
    from microgpt.run_folder import RunFolder
    from microgpt.text.tokenizer import Tokenizer

ERRORS_SHOWN = 5
MARKS_SHOWN = 64


@dataclass(frozen=True)
class _Loaded:
    """A run's model, ready to be asked."""

    run: RunFolder
    step: int
    model: GPT
    tokenizer: Tokenizer
    data: DataConfig
    compute: Compute


@click.command()
@click.argument("name", metavar="RUN")
@click.argument("data", metavar="DATA")
@click.option("--exact-match", is_flag=True, help="Count lines whose answer it gets exactly right.")
@click.option("--after", metavar="TEXT", help="What an answer follows on its line.  [default: =]")
@click.option(
    "--after-pattern",
    metavar="REGEX",
    help="The same as a regular expression; answers are also counted by what it finds, "
    "unless that is more than 64 different texts.",
)
@click.option("--lines-before", type=click.IntRange(0), default=0, metavar="N",
              help="Ask each question behind the N lines above it.")  # fmt: skip
@click.option("--split", type=click.Choice(["valid", "train"]), default="valid", show_default=True,
              help="Side of a dataset folder.")  # fmt: skip
@click.option("--stride", type=int, help="Tokens between windows; default: half the context.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, mps.")
@checkpoint_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(name: str, data: str, exact_match: bool, as_json: bool, **options: Any) -> None:
    """Measure RUN on DATA: a text file, or a dataset folder's validation (or training) side.

    Loss in nats per token, perplexity, and bits per byte of text, each token predicted once after
    at least half a context of others. With --exact-match, DATA's lines are questions such as
    `13 + 29 = 42;`, each asked by itself (or behind --lines-before), and answered greedily.
    """
    if options["after"] is not None and options["after_pattern"] is not None:
        raise UsageError("--after and --after-pattern both say what answers follow: give one")
    asks = options["after"] is not None or options["after_pattern"] is not None
    if not exact_match and (asks or options["lines_before"]):
        raise UsageError("--after, --after-pattern and --lines-before belong to --exact-match")
    require_training("eval")
    from microgpt.device import calm_threads

    calm_threads()
    loaded = _load(name, options["checkpoint"], options["device"])
    result: dict[str, Any] = {"run": loaded.run.name, "step": loaded.step, "data": data}
    if exact_match:
        result |= _exact(loaded, Path(data), options)
    else:
        result |= _loss(loaded, Path(data), options["split"], options["stride"])
    click.echo(json.dumps(result, ensure_ascii=False) if as_json else _as_text(result))


def _load(name: str, which: Literal["best", "newest"], device: str) -> _Loaded:
    from microgpt.device import Compute
    from microgpt.inference.session import load_model
    from microgpt.run_folder import RunFolder

    run = RunFolder.open(name)
    model, tokenizer, config, checkpoint = load_model(run, which)
    compute = Compute.of(device, config.training.dtype if device == "auto" else "auto")
    model.to(compute.device).eval()
    return _Loaded(run, checkpoint.step, model, tokenizer, config.data, compute)


# The loss


def _loss(loaded: _Loaded, data: Path, side: str, stride: int | None) -> dict[str, Any]:
    from microgpt.data.lines import line_rules
    from microgpt.training.evaluate import evaluate

    context = loaded.model.config.context
    if stride is None:
        stride = max(1, context // 2)
    if not 1 <= stride <= context:
        raise UsageError(f"--stride is {stride}, but must lie in 1..{context}, the context")
    lines = line_rules(loaded.data, loaded.tokenizer).evaluation
    with _text(loaded, data, side) as (ids, text_bytes):
        if ids.tokens < 2:
            raise DataError(f"{data} has {ids.tokens} tokens, but a loss takes at least 2")
        measured = evaluate(
            loaded.model, ids, text_bytes, context, loaded.compute, stride=stride, lines=lines
        )
    return {
        "loss": measured.loss,
        "perplexity": measured.perplexity,
        "bits_per_byte": measured.bits_per_byte,
        "tokens": measured.tokens,
        "bytes": text_bytes,
        "stride": stride,
    }


@contextmanager
def _text(loaded: _Loaded, data: Path, side: str) -> Iterator[tuple[Ids, int]]:
    """Gives the ids of a dataset's side, or of files read as the run's own text was, and the bytes
    they stand for."""
    from microgpt.data.prepare import opened, read_whole
    from microgpt.data.shards import MANIFEST_FILE, Dataset

    if not (data / MANIFEST_FILE).is_file():
        own = loaded.data.dataset
        like = None if own is None else opened(Path(own))
        with read_whole(str(data), loaded.tokenizer, like) as whole:
            yield whole.train, whole.manifest.train.text_bytes
        return
    dataset = Dataset.open(data)
    if dataset.manifest.tokenizer.fingerprint != loaded.tokenizer.fingerprint:
        raise DataError(
            f"{data} was made with another tokenizer than run {loaded.run.name!r}: give the text "
            "itself"
        )
    if side == "train":
        yield dataset.train, dataset.manifest.train.text_bytes
    else:
        yield dataset.valid, dataset.manifest.valid.text_bytes


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def _prompt(tokenizer: Tokenizer, text: bytes) -> list[int]:
    """Returns the ids of a question by itself: as in training, something before it says that it is
    no line's middle, which is an end-of-text id, or a line end where the tokenizer has none."""
    end = tokenizer.end_of_text_id
    if end is None:
        return tokenizer.encode_ordinary(b"\n" + text).tolist()
    return [end, *tokenizer.encode_ordinary(text).tolist()]


# The answers


def _exact(loaded: _Loaded, data: Path, options: dict[str, Any]) -> dict[str, Any]:
    from microgpt.data.questions import by_mark, mark_pattern, questions_of
    from microgpt.training.exact_match import Question, answered_exactly, greedy

    after = "=" if options["after"] is None else options["after"]
    mark = mark_pattern(after, options["after_pattern"])
    texts = questions_of(_read(data), mark, options["lines_before"])
    if not texts:
        named = repr(options["after_pattern"] or after)
        raise DataError(f"{data} has no line with {named}: name what answers follow with --after")
    questions = [
        Question(
            _prompt(loaded.tokenizer, text.before + text.asked),
            loaded.tokenizer.encode_ordinary(text.answer).tolist(),
        )
        for text in texts
    ]
    right = answered_exactly(loaded.model, questions, loaded.compute)
    errors = []
    for place in [i for i, hit in enumerate(right) if not hit][:ERRORS_SHOWN]:
        question, text = questions[place], texts[place]
        got = greedy(loaded.model, question.prompt, len(question.answer), loaded.compute)
        errors.append(
            {
                "prompt": text.asked.decode(errors="replace"),
                "answer": _shown(text.answer),
                "got": _shown(loaded.tokenizer.decode_bytes(got)),
            }
        )
    result = {"correct": sum(right), "lines": len(right), "share": sum(right) / len(right),
              "errors": errors}  # fmt: skip
    marks = by_mark(texts, right)
    if options["after_pattern"] is not None and len(marks) <= MARKS_SHOWN:
        result["by_mark"] = {
            mark: {"correct": correct, "lines": lines} for mark, (correct, lines) in marks.items()
        }
    return result


def _shown(answer: bytes) -> str:
    return answer.decode(errors="replace").removesuffix("\n")


def _as_text(result: dict[str, Any]) -> str:
    head = f"{result['run']} at step {result['step']:,} on {result['data']}: "
    if "loss" in result:
        return (
            f"{head}loss {result['loss']:.4f} nats a token, perplexity {result['perplexity']:.5g}, "
            f"{result['bits_per_byte']:.4f} bits per byte ({result['tokens']:,} tokens, "
            f"{result['bytes']:,} bytes)"
        )
    lines = [
        f"{head}{result['correct']:,} of {result['lines']:,} answers exactly right "
        f"({result['share']:.2%})"
    ]
    lines += [
        f"  {mark!r}  {m['correct']:,} of {m['lines']:,} ({m['correct'] / m['lines']:.2%})"
        for mark, m in result.get("by_mark", {}).items()
    ]
    lines += [
        f"  {e['prompt']} ->{e['got']!r} instead of {e['answer']!r}" for e in result["errors"]
    ]
    return "\n".join(lines)
