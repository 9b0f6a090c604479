"""Byte-level BPE as its definition says, slow and plain: the oracle of the encoder."""


def encode(piece, merges):
    """The ids of one piece: of all neighbours, join those whose merge ranks lowest, leftmost first.

    Ids are bytes 0-255, and 256 + rank for what the merge of that rank makes.
    """
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    parts = list(piece)
    while True:
        pairs = list(zip(parts, parts[1:], strict=False))
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
        joined = [left + right for left, right in zip(parts, parts[1:], strict=False)]
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
    """`count` merges over the bytes of `alphabet`, any earlier tokens joined to any."""
    merges, symbols = [], list(alphabet)
    while len(merges) < count:
        pair = (rng.choice(symbols), rng.choice(symbols))
        if pair not in merges:
            merges.append(pair)
            symbols.append(255 + len(merges))
    return merges
