"""What `chat` and `generate` share: their options, and when a reply to a corpus of lines ends."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from microgpt.config import RunConfig
from microgpt.errors import DataError
from microgpt.run_folder import RUNS

if TYPE_CHECKING:
    from microgpt.inference.generate import Limits
    from microgpt.inference.sampling import Sampling
    from microgpt.inference.session import Loaded
    from microgpt.text.tokenizer import Tokenizer

Command = TypeVar("Command", bound=Callable[..., Any])

checkpoint_option = click.option(
    "--checkpoint",
    type=click.Choice(["best", "newest"]),
    default="best",
    show_default=True,
    help="Which weights of the run.",
)
"""`eval` has it too."""
LENGTH = 200
SHORT_LINE = 80
"""Characters up to which a line may be a whole answer."""


@dataclass(frozen=True)
class SamplingOptions:
    """The options as given; the parts of `inference` check them."""

    temperature: float
    top_k: int | None
    top_p: float
    min_p: float | None
    length: int
    stop: tuple[str, ...] | None
    """None: for the corpus to say (`corpus_stops`)."""
    seed: int | None
    runs: Path
    checkpoint: Literal["best", "newest"]
    device: str

    def load(self, run: str | None) -> Loaded:
        """Returns the session on `run`; None is the newest."""
        from microgpt.inference.session import load

        return load(run, self.runs, self.checkpoint, self.device)

    def sampling(self) -> Sampling:
        """Returns how ids are drawn."""
        from microgpt.inference.sampling import Sampling

        top_p = None if self.top_p == 1 else self.top_p
        return Sampling(self.temperature, self.top_k, top_p, self.min_p)

    def limits(self, loaded: Loaded) -> Limits:
        """Returns when a reply ends."""
        from microgpt.inference.generate import Limits

        stop = self.stop
        if stop is None:
            stop = corpus_stops(loaded.config, loaded.session.tokenizer)
        return Limits(self.length, stop, loaded.session.stop_ids)


def sampling_options(command: Command) -> Command:
    """Adds the options to a click command, which receives them as the argument `options`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def gathered(values: dict[str, Any]) -> SamplingOptions:
    """Returns the options among click's `values`."""
    stop = tuple(unescaped(text) for text in values.pop("stop"))
    whole = values.pop("no_stop")
    return SamplingOptions(stop=stop or (() if whole else None), **values)


_OPTIONS = [
    click.option(
        "--temperature",
        type=float,
        default=0.8,
        show_default=True,
        help="0 takes the most likely token each time, 1 draws as the model learnt.",
    ),
    click.option("--top-k", type=int, help="Draw from the K most likely tokens only."),
    click.option(
        "--top-p",
        type=float,
        default=0.95,
        show_default=True,
        help="Draw from the fewest tokens that have this share together; 1 is off.",
    ),
    click.option(
        "--min-p", type=float, help="Drop tokens below this fraction of the likeliest one's share."
    ),
    click.option(
        "--length", type=int, default=LENGTH, show_default=True, help="Most tokens of a reply."
    ),
    click.option(
        "--stop",
        multiple=True,
        metavar="TEXT",
        help=r"End a reply before TEXT (\n is a line end); may be given again. "
        "Without it: the line's end, where the corpus is short lines that all end alike.",
    ),
    click.option("--no-stop", is_flag=True, help="End a reply at its length alone."),
    click.option("--seed", type=int, help="Repeat the same draws."),
    click.option(
        "--runs",
        type=click.Path(path_type=Path),
        default=RUNS,
        show_default=True,
        help="Folder that holds the runs.",
    ),
    checkpoint_option,
    click.option(
        "--device",
        default="auto",
        show_default=True,
        help="cpu, cuda, mps; auto is the CPU for small models, else the quickest there is.",
    ),
]


def unescaped(text: str) -> str:
    r"""Returns `text` with \n, \t, \r and \\ read as in most programming languages."""
    known = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}
    result, escaped = "", False
    for letter in text:
        if escaped:
            result += known.get(letter, "\\" + letter)
        elif letter != "\\":
            result += letter
        escaped = letter == "\\" and not escaped
    return result + "\\" if escaped else result


def corpus_stops(config: RunConfig, tokenizer: Tokenizer) -> tuple[str, ...]:
    """Returns the line end where the run's dataset, if it is still there, is short alike lines."""
    from microgpt.data.shards import Dataset

    with contextlib.suppress(DataError, OSError):
        if config.data.dataset is not None:
            ids = Dataset.open(config.data.dataset).train
            text = tokenizer.decode(ids.read(0, min(ids.tokens, 8192)))
            return ("\n",) if is_alike_lines(text) else ()
    return ()


def is_alike_lines(text: str) -> bool:
    """Says whether `text` is lines that each stand alone, such as `13 + 29 = 42;`: at least 20,
    short, and nineteen of twenty with the same sign at their end."""
    lines = text.split("\n")[1:-1]  # The first and the last may be cut.
    ends = Counter(line[-1:] for line in lines)
    sign, count = ends.most_common(1)[0] if lines else ("", 0)
    alike = bool(sign) and not sign.isalnum() and count >= 0.95 * len(lines)
    return len(lines) >= 20 and alike and max(map(len, lines)) <= SHORT_LINE
