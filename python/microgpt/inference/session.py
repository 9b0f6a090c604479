"""A trained run, loaded to be talked to: model, tokenizer, and the text that stands."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from microgpt.config import RunConfig
from microgpt.device import choose_device
from microgpt.errors import CheckpointError
from microgpt.inference.decoder import Decoder
from microgpt.inference.generate import Limits, Piece, TextStream, stream
from microgpt.inference.sampling import Sampling
from microgpt.model.gpt import GPT
from microgpt.model.weights import load_weights
from microgpt.run_folder import Checkpoint, RunFolder

if TYPE_CHECKING:
    from microgpt.text.tokenizer import Tokenizer

CPU_PARAMETERS = 20_000_000
"""Up to here the CPU decodes as fast as an accelerator, whose launches cost more than the work."""
SINGLE_THREAD_PARAMETERS = 2_000_000
"""Up to here one thread is quickest, whatever the machine."""


@dataclass(frozen=True)
class Likely:
    """A candidate for the next token."""

    id: int
    token: bytes
    probability: float


class Session:
    """A model and the text so far. `begin` sets a text, `reply` goes on from it."""

    def __init__(self, model: GPT, tokenizer: Tokenizer) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.decoder = Decoder(model)
        self.end_of_text = tokenizer.end_of_text_id
        self._text_stream = TextStream(tokenizer.token_bytes)
        self._lead = 0
        self._first: Tensor | None = None
        self._open = ""

    @property
    def stop_ids(self) -> frozenset[int]:
        """The ids after which a document is over."""
        return frozenset() if self.end_of_text is None else frozenset((self.end_of_text,))

    @property
    def text(self) -> str:
        """The text so far: prompts and replies, with the stop strings that ended them."""
        return self.tokenizer.decode(self.decoder.ids[self._lead :]) + self._open

    def begin(self, prompt: str) -> None:
        """Sets the text to `prompt`, as the beginning of a document.

        Before it stands the end-of-text id, as in training, or a line end where the tokenizer has
        none: without it a model of lines could not know that `13` is not the rest of `113`.
        """
        lead: list[int] = []
        if self.end_of_text is not None:
            lead = [self.end_of_text]
        elif not prompt.startswith("\n"):
            lead = self._ids("\n")
        self.decoder.restart()
        self._lead = len(lead)
        self._append(lead, prompt)

    def extend(self, text: str) -> None:
        """Appends `text` to the text so far."""
        if not self.decoder.ids:
            self.begin(text)
        elif text:
            self._append([], self._open + text)

    def reply(
        self, sampling: Sampling, limits: Limits, generator: torch.Generator
    ) -> Iterator[Piece]:
        """Yields the continuation of the text, which becomes part of it."""
        text_stream, first, skip = self._text_stream, self._first, len(self._open)
        self._text_stream = TextStream(self.tokenizer.token_bytes)
        self._first, self._open = None, ""
        return stream(self.decoder, text_stream, sampling, limits, generator, first, skip)

    def likely(self, count: int) -> list[Likely]:
        """Returns the `count` most likely next tokens, with their share at temperature 1."""
        logits = self.decoder.logits
        if self._first is not None:
            masked = torch.full_like(logits, float("-inf"))
            logits = masked.index_copy_(0, self._first, logits[self._first])
        shares, ids = logits.softmax(0).topk(min(count, len(logits)))
        return [
            Likely(id, self.tokenizer.token_bytes(id), share)
            for id, share in zip(ids.tolist(), shares.tolist(), strict=True)
        ]

    def _ids(self, text: str) -> list[int]:
        """Returns the ids of what a person typed, who may well mean a special token."""
        return self.tokenizer.encode(text, allowed_special="all").tolist()

    def _append(self, lead: list[int], text: str) -> None:
        """Feeds `lead` and `text`, whose last token may be left for the reply to complete.

        A text may end inside what training saw as one token (`= ` before ` 42`). So where other
        tokens begin with its last one, that one is taken back and the first of the reply must
        begin with its bytes.
        """
        ids = self._ids(text)
        feed = [*lead, *ids]
        self._text_stream = TextStream(self.tokenizer.token_bytes)
        self._first, self._open = None, ""
        something_before = len(feed) > 1 or self.decoder.ids
        longer = self._beginning_with(ids[-1]) if ids and something_before else []
        if len(longer) > 1:
            certain = sum(len(self._text_stream.push(id)) for id in ids[:-1])
            self._first, self._open = torch.tensor(longer), text[certain:]
            feed = feed[:-1]
        if feed:
            self.decoder.feed(feed)

    def _beginning_with(self, id: int) -> list[int]:
        """Returns the ids of the tokens that begin with this one's bytes, itself included."""
        start = self.tokenizer.token_bytes(id)
        return [other for other, token in enumerate(self._tokens) if token.startswith(start)]

    @cached_property
    def _tokens(self) -> list[bytes]:
        special = set(self.tokenizer.special_tokens.values())
        return [
            b"" if id in special else self.tokenizer.token_bytes(id)
            for id in range(self.tokenizer.vocab_size)
        ]


@dataclass(frozen=True)
class Loaded:
    """A session and where it came from."""

    session: Session
    run: RunFolder
    config: RunConfig
    checkpoint: Checkpoint


def load_model(
    run: RunFolder, which: Literal["best", "newest"]
) -> tuple[GPT, Tokenizer, RunConfig, Checkpoint]:
    """Returns the model of a run's checkpoint, on the CPU, with the tokenizer and the configuration
    that belong to it.

    Raises:
        CheckpointError: no sound checkpoint, or parts that do not belong together.
    """
    from microgpt.text.tokenizer import Tokenizer

    checkpoint = run.best_checkpoint() if which == "best" else run.newest_checkpoint()
    if checkpoint is None:
        raise CheckpointError(
            f"run {run.name!r} has no sound checkpoint: let it train until its first evaluation"
        )
    tokenizer = Tokenizer.from_file(run.tokenizer_path)
    checkpoint.require_tokenizer(tokenizer.fingerprint)
    config = run.read_config()
    model = GPT(config.model)
    load_weights(model, checkpoint.path / "model.safetensors")
    return model, tokenizer, config, checkpoint


def load(
    run: str | None,
    root: Path,
    which: Literal["best", "newest"] = "best",
    device: str = "auto",
) -> Loaded:
    """Returns a session on the run named or at path `run`; None is the newest under `root`.

    Raises:
        CheckpointError: no such run, no sound checkpoint in it, or parts that do not belong
            together.
        UsageError: the device is not there.
    """
    folder = RunFolder.newest(root) if run is None else RunFolder.open(run, root)
    model, tokenizer, config, checkpoint = load_model(folder, which)
    small = model.parameter_count() <= CPU_PARAMETERS
    where = "cpu" if device == "auto" and small else choose_device(device)
    model.to(where)
    if where == "cpu":
        _choose_threads(model)
    return Loaded(Session(model, tokenizer), folder, config, checkpoint)


def _choose_threads(model: GPT) -> None:
    """Keeps torch's threads only where they make a token faster here and now: for small models, and
    on a machine with other work, one is many times quicker."""
    several = torch.get_num_threads()
    if several == 1:
        return
    torch.set_num_threads(1)
    if model.parameter_count() <= SINGLE_THREAD_PARAMETERS:
        return
    alone = _token_seconds(model)
    torch.set_num_threads(several)
    if _token_seconds(model) > alone:
        torch.set_num_threads(1)


def _token_seconds(model: GPT) -> float:
    decoder = Decoder(model)
    times: list[float] = []
    for _ in range(min(4, model.config.context)):
        start = time.perf_counter()
        decoder.feed([0])
        times.append(time.perf_counter() - start)
    return min(times)
