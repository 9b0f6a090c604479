"""A tokenizer of bytes and a few longer tokens, the longest match first, in plain Python."""

import hashlib

import numpy as np


class TinyTokenizer:
    """What inference needs of `microgpt.Tokenizer`."""

    def __init__(self, longer=(), special_tokens=()):
        self.tokens = [bytes([b]) for b in range(256)] + [token.encode() for token in longer]
        self.kind = "bpe" if longer else "byte"
        self.special_tokens = {name: len(self.tokens) + i for i, name in enumerate(special_tokens)}
        self.tokens += [name.encode() for name in special_tokens]
        self.vocab_size = len(self.tokens)
        self.end_of_text_id = self.special_tokens.get("<|endoftext|>")
        self.fingerprint = hashlib.sha256(repr(self.tokens).encode()).hexdigest()

    def encode(self, text, allowed_special=()):
        data, ids = text.encode(), []
        plain = self.tokens[: self.vocab_size - len(self.special_tokens)]
        while data:
            matches = [i for i, token in enumerate(plain) if data.startswith(token)]
            best = max(matches, key=lambda i: len(plain[i]))
            ids.append(best)
            data = data[len(plain[best]) :]
        return np.array(ids, dtype=np.uint32)

    def token_bytes(self, id):
        return self.tokens[id]

    def decode(self, ids):
        return b"".join(self.tokens[i] for i in ids).decode(errors="replace")
