"""What ids mean for lines, from what the settings say of them and from the tokenizer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from microgpt.config import DataConfig
from microgpt.data.loader import Ids, LineRules
from microgpt.errors import UsageError
from microgpt.text.tokenizer import Tokenizer

MARKER_SAMPLE_TOKENS = 1 << 20
"""A marker must occur among so many tokens at the text's beginning."""


@dataclass(frozen=True)
class Rules:
    """What lines mean for the rows of training, for any loss, and for that of answers. None: there
    is nothing to heed."""

    training: LineRules | None
    evaluation: LineRules | None
    answers: LineRules | None

    @property
    def ends(self) -> NDArray[np.bool_] | None:
        """Which ids end lines, where anything heeds lines."""
        heeded = self.training or self.answers
        return None if heeded is None else heeded.ends


def line_rules(data: DataConfig, tokenizer: Tokenizer) -> Rules:
    """Returns which ids end lines and which hold the markers, where `data` asks for it.

    Raises:
        UsageError: no token holds a marker.
    """
    if data.align is None and data.loss_after is None and data.answers_after is None:
        return Rules(None, None, None)
    tokens = [token or b"" for token in tokenizer.tokens()]
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


def only_line_end(tokenizer: Tokenizer) -> int:
    """Returns the id of the one token that holds a line end.

    Raises:
        UsageError: there are others, which would end a line too.
    """
    holding = [id for id, token in enumerate(tokenizer.tokens()) if b"\n" in (token or b"")]
    if len(holding) != 1:
        other = tokenizer.token_bytes(holding[-1])
        raise UsageError(
            f"--line-mask needs a tokenizer in which one token ends lines, but {len(holding)} hold "
            f"a line end, such as {other!r}: use --byte"
        )
    return holding[0]


def require_marked(rules: Rules, split: Ids) -> None:
    """Does nothing where the beginning of the text holds the markers.

    Raises:
        UsageError: it does not, so nothing would be learnt, or judged.
    """
    for flag, found in (("--loss-after", rules.training), ("--answers-after", rules.answers)):
        if found is None or found.marks is None:
            continue
        ids = split.read(0, min(split.tokens, MARKER_SAMPLE_TOKENS))
        if not found.marks[ids].any():
            raise UsageError(
                f"the first {len(ids):,} tokens of the text do not hold what {flag} names: give a "
                "marker that lines have, or leave it out"
            )


def _holding(tokens: list[bytes], marker: str | None, flag: str) -> NDArray[np.bool_] | None:
    if marker is None:
        return None
    held = np.array([marker.encode() in token for token in tokens])
    if not held.any():
        raise UsageError(
            f"{flag} is {marker!r}, but no single token holds it: give one character, or use --byte"
        )
    return held
