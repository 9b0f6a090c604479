"""What a tokenizer is made of, and which of its tokens text can never give."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from microgpt.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Inspection:
    """Facts about one tokenizer; lists of ids are ascending."""

    kind: str
    """`"byte"` or `"bpe"`."""
    pattern: str
    """The pattern's name, or the user's own regex."""
    vocab_size: int
    """One more than the largest id."""
    tokens: int
    """Ids that have a token: `vocab_size` less the gaps."""
    merges: int
    special_tokens: dict[str, int]
    end_of_text_id: int | None
    fingerprint: str
    gaps: list[int]
    """Ids below `vocab_size` without a token."""
    lengths: dict[int, int]
    """Ordinary tokens by their length in bytes, shortest first."""
    longest: list[int]
    """All ordinary ids, the longest tokens first."""
    partial_characters: int
    """Ordinary tokens that are no whole characters of UTF-8."""
    unreachable: list[int]
    """Ordinary tokens that no text gives: merging their bytes ends in other tokens."""
    cut: list[int]
    """Tokens of whole characters that the pattern cuts where they stand alone: text gives them in
    some surroundings only, or never."""


def inspect(tokenizer: Tokenizer) -> Inspection:
    """Returns the facts; takes about a microsecond a token."""
    specials = set(tokenizer.special_tokens.values())
    tokens = tokenizer.tokens()
    gaps = [id for id, token in enumerate(tokens) if token is None]
    ordinary = {
        id: token for id, token in enumerate(tokens) if token is not None and id not in specials
    }
    lengths = Counter(map(len, ordinary.values()))
    unreachable = tokenizer.unreachable_ids().tolist()
    whole = {id for id, token in ordinary.items() if _is_text(token)}
    return Inspection(
        kind=tokenizer.kind,
        pattern=tokenizer.pattern,
        vocab_size=tokenizer.vocab_size,
        tokens=tokenizer.vocab_size - len(gaps),
        merges=len(tokenizer.merges),
        special_tokens=tokenizer.special_tokens,
        end_of_text_id=tokenizer.end_of_text_id,
        fingerprint=tokenizer.fingerprint,
        gaps=gaps,
        lengths=dict(sorted(lengths.items())),
        longest=sorted(ordinary, key=lambda id: (-len(ordinary[id]), id)),
        partial_characters=len(ordinary) - len(whole),
        unreachable=unreachable,
        cut=[
            id for id in sorted(whole.difference(unreachable)) if _is_cut(tokenizer, ordinary[id])
        ],
    )


def unused_ids(tokenizer: Tokenizer, ids: NDArray[np.uint32]) -> list[int]:
    """Returns the ids with a token that are not among `ids`."""
    counts = np.bincount(ids, minlength=tokenizer.vocab_size)
    tokens = tokenizer.tokens()
    return [id for id in np.flatnonzero(counts == 0).tolist() if tokens[id] is not None]


def _is_text(token: bytes) -> bool:
    try:
        token.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_cut(tokenizer: Tokenizer, token: bytes) -> bool:
    return len(token) > 1 and len(tokenizer.split(token)) != 1
