"""What `inspect` says of a tokenizer holds."""

import json
from base64 import b64encode

import numpy as np

from microgpt import Tokenizer
from microgpt.text.inspection import inspect, unused_ids

from .conftest import published

MERGES = [(104, 105), (256, 106), (195, 169)]


def test_facts_of_a_small_tokenizer():
    tokenizer = Tokenizer.from_merges(MERGES, special_tokens=["<|endoftext|>"])
    facts = inspect(tokenizer)
    assert (facts.kind, facts.pattern, facts.vocab_size, facts.merges) == ("bpe", "gpt2", 260, 3)
    assert (facts.tokens, facts.gaps, facts.end_of_text_id) == (260, [], 259)
    assert facts.lengths == {1: 256, 2: 2, 3: 1}
    assert facts.longest[:3] == [257, 256, 258]
    assert facts.partial_characters == 128
    assert (facts.unreachable, facts.cut) == ([], [])
    assert facts.fingerprint == tokenizer.fingerprint


def test_gaps_are_ids_without_a_token():
    facts = inspect(published("cl100k_base"))
    assert facts.gaps == [100256, *range(100261, 100276)]
    assert facts.tokens == 100277 - 16
    assert facts.unreachable == []


def test_a_token_that_merges_end_elsewhere_is_unreachable(tmp_path):
    # "hi!" is joined of "h" and "i!", but (h, i) comes first: no text ever gives it.
    tokenizer = Tokenizer.from_merges([(104, 105), (105, 33), (104, 257)], pattern="none")
    assert inspect(tokenizer).unreachable == [258]
    assert 258 not in tokenizer.encode("hi!")
    # With ignore_merges a piece that is the token gives it after all, where the pattern allows it.
    tokenizer.save(tmp_path / "tokenizer.json")
    saved = json.loads((tmp_path / "tokenizer.json").read_text())
    saved["model"]["ignore_merges"] = True
    (tmp_path / "tokenizer.json").write_text(json.dumps(saved))
    whole = Tokenizer.from_file(tmp_path)
    assert inspect(whole).unreachable == []
    assert whole.encode("hi!").tolist() == [258]
    saved["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    (tmp_path / "tokenizer.json").write_text(json.dumps(saved))
    assert inspect(Tokenizer.from_file(tmp_path)).unreachable == [258]


def test_ranks_that_no_merges_form_are_reached_as_whole_pieces(tmp_path):
    tokens = [*(bytes([byte]) for byte in range(256)), b"abc", b"a b"]
    lines = [f"{b64encode(token).decode()} {id}\n" for id, token in enumerate(tokens)]
    (tmp_path / "x.tiktoken").write_text("".join(lines))
    tokenizer = Tokenizer.from_tiktoken(tmp_path / "x.tiktoken")
    assert tokenizer.encode("abc").tolist() == [256]
    assert inspect(tokenizer).unreachable == [257]


def test_a_token_that_the_pattern_cuts_is_named():
    tokenizer = Tokenizer.from_merges([(97, 32), (256, 98)])
    assert inspect(tokenizer).cut == [256, 257]
    assert inspect(Tokenizer.from_merges([(97, 32), (256, 98)], pattern="none")).cut == []


def test_unused_ids_are_those_that_a_text_leaves_out():
    tokenizer = Tokenizer.from_merges(MERGES, special_tokens=["<|x|>"])
    ids = tokenizer.encode(bytes(reversed(range(256))) + b" hi")
    assert unused_ids(tokenizer, ids) == [257, 258, 259]
    gapped = published("cl100k_base")
    assert 100256 not in unused_ids(gapped, np.arange(100))


def test_tokens_are_the_bytes_of_every_id():
    tokenizer = published("cl100k_base")
    tokens = tokenizer.tokens()
    assert len(tokens) == tokenizer.vocab_size
    assert tokens[100256] is None
    assert all(tokenizer.token_bytes(id) == tokens[id] for id in range(0, 100256, 97))
