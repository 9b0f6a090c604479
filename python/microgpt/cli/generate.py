"""`microgpt generate`: continue a prompt, for scripts."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from microgpt.cli import require_training
from microgpt.cli.sampling_options import gathered, sampling_options
from microgpt.device import calm_threads
from microgpt.errors import UsageError

if TYPE_CHECKING:
    import torch

    from microgpt.inference.generate import Limits
    from microgpt.inference.sampling import Sampling
    from microgpt.inference.session import Session


@click.command("generate")
@click.argument("prompt", required=False)
@click.option("--run", help="Name or path of the run; without it the newest.")
@click.option("--lines", is_flag=True, help="Each line of standard input is a prompt of its own.")
@click.option("--num-samples", type=int, default=1, show_default=True, help="Replies to a prompt.")
@click.option("--echo", is_flag=True, help="Print the prompt before its reply.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print an object a line: prompt, text, ids, probabilities (each id's share at "
    "temperature 1), ending, seconds, tokens_per_second, and whether the context ran over.",
)
@sampling_options
def command(
    prompt: str | None,
    run: str | None,
    lines: bool,
    num_samples: int,
    echo: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """Continue PROMPT, or what comes on standard input (less one line end), with a trained model.

    What is printed is the continuation alone, as it is drawn. The prompt is read as the beginning
    of a document.
    """
    require_training("generate")
    calm_threads()
    prompts = _prompts(prompt, lines)
    if num_samples < 1:
        raise UsageError(f"--num-samples is {num_samples}, but must be at least 1")
    from microgpt.inference.sampling import new_generator

    options = gathered(values)
    sampling = options.sampling()
    loaded = options.load(run)
    limits = options.limits(loaded)
    generator = new_generator(options.seed)
    for text in prompts:
        for _ in range(num_samples):
            if as_json:
                record = _record(loaded.session, text, sampling, limits, generator)
                click.echo(json.dumps(record, ensure_ascii=False))
                continue
            if echo:
                click.echo(text, nl=False)
            loaded.session.begin(text)
            for piece in loaded.session.reply(sampling, limits, generator):
                click.echo(piece.text, nl=False)
            click.echo()


def _prompts(prompt: str | None, lines: bool) -> list[str]:
    """Returns the prompts, from the argument or from standard input."""
    if prompt is not None:
        if lines:
            raise UsageError("--lines reads prompts from standard input: leave out the argument")
        return [prompt]
    if sys.stdin.isatty():
        raise UsageError("no prompt: give it as an argument, or on standard input")
    data = sys.stdin.buffer.read()
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"the prompt on standard input is no UTF-8 at byte {error.start}"
        ) from None
    if lines:  # of bytes: a str also ends lines at form feeds and the like
        return [line.decode() for line in data.splitlines()]
    return [text.removesuffix("\n")]


def _record(
    session: Session, prompt: str, sampling: Sampling, limits: Limits, generator: torch.Generator
) -> dict[str, Any]:
    """Returns one reply and what there is to know of it."""
    start = time.perf_counter()
    session.begin(prompt)
    pieces = list(session.reply(sampling, limits, generator))
    seconds = time.perf_counter() - start
    return {
        "prompt": prompt,
        "text": "".join(piece.text for piece in pieces),
        "ids": [piece.id for piece in pieces],
        "probabilities": [round(piece.probability, 6) for piece in pieces],
        "ending": pieces[-1].ending if pieces else "length",
        "seconds": round(seconds, 6),
        "tokens_per_second": round(len(pieces) / seconds, 1),
        "context_ran_over": session.decoder.window_start > 0,
    }
