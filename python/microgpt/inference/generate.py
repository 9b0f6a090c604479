"""Text streamed from a model, piece by piece, until a stop string, an end of text, or a length.

No piece ends inside a character, and none holds any part of a stop string.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from microgpt.errors import UsageError
from microgpt.inference.decoder import Decoder
from microgpt.inference.sampling import Sampling, draw, probabilities

Ending = Literal["length", "stop", "end_of_text"]


class TextStream:
    """Feeds on ids, gives text that never ends inside a character; U+FFFD for what is no UTF-8."""

    def __init__(self, token_bytes: Callable[[int], bytes]) -> None:
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, id: int) -> str:
        """Returns the text that `id` completes."""
        return self._decoder.decode(self._token_bytes(id))

    def finish(self) -> str:
        """Returns what is left, an unfinished character as U+FFFD."""
        return self._decoder.decode(b"", final=True)


@dataclass(frozen=True)
class Limits:
    """When a reply ends."""

    length: int = 200
    """Most ids drawn."""
    stop: tuple[str, ...] = ()
    """Strings that end it; they are not part of it."""
    stop_ids: frozenset[int] = frozenset()
    """Ids that end it, such as end-of-text."""

    def __post_init__(self) -> None:
        if self.length < 0:
            raise UsageError(f"length is {self.length}, but must not be negative")
        if "" in self.stop:
            raise UsageError("a stop string is empty: give at least one character")


@dataclass(frozen=True)
class Piece:
    """What one drawn id added."""

    id: int
    text: str
    """The text that is now certain; often empty, sometimes that of several ids."""
    probability: float
    """The id's share at temperature 1, before top-k, top-p and min-p."""
    ending: Ending | None
    """Why nothing follows, on the last piece."""


def stream(
    decoder: Decoder,
    text_stream: TextStream,
    sampling: Sampling,
    limits: Limits,
    generator: torch.Generator,
    first: Tensor | None = None,
    skip: int = 0,
) -> Iterator[Piece]:
    """Yields a `Piece` for each id drawn after what `decoder` holds, and feeds it to the decoder.

    Where `first` is given, the first id is one of these. The first `skip` characters of the text
    belong to the prompt and are left out. An end-of-text id is not fed.
    """
    gate = StopGate(limits.stop)
    for count in range(1, limits.length + 1):
        logits = decoder.logits
        if first is not None and count == 1:
            logits = torch.full_like(logits, float("-inf")).index_copy_(0, first, logits[first])
        id = draw(probabilities(logits, sampling), generator)
        probability = float((logits[id] - logits.logsumexp(0)).exp())
        ended = id in limits.stop_ids
        text = "" if ended else text_stream.push(id)
        if ended or count == limits.length:
            text += text_stream.finish()
        skipped = min(skip, len(text))
        skip -= skipped
        text = gate.push(text[skipped:])
        if not ended:
            decoder.feed([id])
        if gate.stopped:
            ending = "stop"
        elif ended:
            ending = "end_of_text"
        else:
            ending = "length" if count == limits.length else None
        yield Piece(id, text + gate.release() if ending else text, probability, ending)
        if ending:
            return


class StopGate:
    """Lets text through up to a stop string, and holds back what may become one.

    Of several, the one that is complete first counts, so the text does not depend on its pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = tuple(stops)
        self.stopped = False
        self._held = ""

    def push(self, text: str) -> str:
        """Returns the text that is now known to lie before any stop string."""
        self._held += text
        found = [(at + len(s), at) for s in self.stops if (at := self._held.find(s)) >= 0]
        if found:
            self.stopped = True
            passed, self._held = self._held[: min(found)[1]], ""
            return passed
        kept = max((_overlap(self._held, stop) for stop in self.stops), default=0)
        split = len(self._held) - kept
        passed, self._held = self._held[:split], self._held[split:]
        return passed

    def release(self) -> str:
        """Returns what was held back, where nothing follows that could make it a stop string."""
        passed, self._held = self._held, ""
        return passed


def _overlap(text: str, stop: str) -> int:
    """Returns the length of the longest end of `text` that begins `stop` and is not all of it."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
