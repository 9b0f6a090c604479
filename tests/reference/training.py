"""Byte-pair training as its definition says, slow and plain: the oracle of the trainer."""

from collections import Counter
from itertools import pairwise


def printable_ranks():
    """Each byte's place when bytes are ordered by the characters that GPT-2's files print."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in own]
    return {byte: place for place, byte in enumerate(own + others)}


def by_ids(tied, tokens, text):
    return min(tied)


def by_printable(tied, tokens, text):
    ranks = printable_ranks()
    return min(tied, key=lambda pair: [ranks.get(id, id) for id in pair])


def by_bytes(tied, tokens, text):
    return max(tied, key=lambda pair: [tokens[id] for id in pair])


def by_place(tied, tokens, text):
    return next(pair for piece in text for pair in pairwise(piece) if pair in tied)


TIES = {"ids": by_ids, "hf": by_printable, "lexical": by_bytes, "first": by_place}


def join(piece, pair, id):
    """The piece with the pair joined into `id`, from left to right."""
    joined = []
    for token in piece:
        # What was joined is `id`, which is in no pair yet, so it cannot be joined again.
        if joined and (joined[-1], token) == pair:
            joined[-1] = id
        else:
            joined.append(token)
    return joined


def train(pieces, merges, tie="ids", epochs=None):
    """At most `merges` merges, and `epochs` epochs, of a corpus given as all of its pieces."""
    text, tokens, found = [list(piece) for piece in pieces], [bytes([b]) for b in range(256)], []
    begun, epoch_start = 0, 0
    while len(found) < merges:
        counts = Counter(pair for piece in text for pair in pairwise(piece))
        if not counts:
            break
        most = max(counts.values())
        tied = {pair for pair, count in counts.items() if count == most}
        pair = TIES[tie](tied, tokens, text)
        if max(pair) >= epoch_start:
            if begun == epochs:
                break
            begun, epoch_start = begun + 1, len(tokens)
        text = [join(piece, pair, len(tokens)) for piece in text]
        tokens.append(tokens[pair[0]] + tokens[pair[1]])
        found.append(pair)
    return found
