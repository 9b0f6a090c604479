"""Byte-level BPE as its definition says, slow and plain: the oracle of the encoder."""

from itertools import pairwise


def encode(piece, merges):
    """The ids of one piece: of all neighbours, join those whose merge ranks lowest, leftmost first.

    Ids are bytes 0-255, and 256 + rank for what the merge of that rank makes.
    """
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    parts = list(piece)
    while True:
        pairs = list(pairwise(parts))
        ranked = [(ranks[pair], place) for place, pair in enumerate(pairs) if pair in ranks]
        if not ranked:
            return parts
        rank, place = min(ranked)
        parts[place : place + 2] = [256 + rank]


def encode_ranked(piece, ids):
    """The ids of one piece as tiktoken defines them, from the id of every token's bytes."""
    if piece in ids:
        return [ids[piece]]
    parts = [piece[i : i + 1] for i in range(len(piece))]
    while True:
        joined = [left + right for left, right in pairwise(parts)]
        ranked = [(ids[token], place) for place, token in enumerate(joined) if token in ids]
        if not ranked:
            return [ids[part] for part in parts]
        _, place = min(ranked)
        parts[place : place + 2] = [joined[place]]


def token_bytes(merges):
    """The bytes of every id."""
    tokens = [bytes([byte]) for byte in range(256)]
    for left, right in merges:
        tokens.append(tokens[left] + tokens[right])
    return tokens


def random_merges(rng, count, alphabet):
    """At most `count` merges over the bytes of `alphabet`, any two earlier tokens in each.

    No two make the same bytes, as no training does; otherwise the order is wild.
    """
    merges, tokens = [], {bytes([byte]): byte for byte in alphabet}
    for _ in range(20 * count):
        left, right = rng.choice(list(tokens)), rng.choice(list(tokens))
        if len(merges) < count and left + right not in tokens and len(left + right) < 30:
            tokens[left + right] = 256 + len(merges)
            merges.append((tokens[left], tokens[right]))
    return merges
