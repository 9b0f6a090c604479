"""What ids mean for lines, from what the settings say of them and from the tokenizer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from microgpt.config import DataConfig
from microgpt.data.loader import LineRules
from microgpt.errors import UsageError
from microgpt.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Rules:
    """What lines mean for the rows of training, for any loss, and for that of answers. None: there
    is nothing to heed."""

    training: LineRules | None
    evaluation: LineRules | None
    answers: LineRules | None


def line_rules(data: DataConfig, tokenizer: Tokenizer) -> Rules:
    """Returns which ids end lines and which hold the markers, where `data` asks for it.

    Raises:
        UsageError: no token holds a marker.
    """
    if data.align is None and data.loss_after is None and data.answers_after is None:
        return Rules(None, None, None)
    tokens = [tokenizer.token_bytes(id) for id in range(tokenizer.vocab_size)]
    ends = np.array([token.endswith(b"\n") for token in tokens])
    begin = tokenizer.end_of_text_id
    if begin is not None:
        ends[begin] = True
    aligned = data.align == "lines"

    def rules(marks: NDArray[np.bool_] | None) -> LineRules | None:
        return LineRules(ends, aligned, begin, marks) if aligned or marks is not None else None

    learned = _holding(tokens, data.loss_after, "--loss-after")
    answers = _holding(tokens, data.answers_after, "--answers-after")
    return Rules(rules(learned), rules(None), None if answers is None else rules(answers))


def _holding(tokens: list[bytes], marker: str | None, flag: str) -> NDArray[np.bool_] | None:
    if marker is None:
        return None
    held = np.array([marker.encode() in token for token in tokens])
    if not held.any():
        raise UsageError(
            f"{flag} is {marker!r}, but no single token holds it: give one character, or use --byte"
        )
    return held
