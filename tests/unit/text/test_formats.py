"""Tokenizer files: what one format says, another says too; what lies is refused in one sentence."""

import base64
import copy
import json

import numpy as np
import pytest

from microgpt import Tokenizer
from microgpt.errors import DataError, UsageError

from .conftest import PUBLISHED, published, ranks_of

MERGES = [(104, 105), (256, 106), (195, 169)]


@pytest.fixture
def small():
    return Tokenizer.from_merges(MERGES, special_tokens=["<|endoftext|>", '<é ">'])


@pytest.fixture
def saved(small, tmp_path):
    small.save(tmp_path / "tokenizer.json")
    return json.loads((tmp_path / "tokenizer.json").read_text())


def load(content, tmp_path):
    path = tmp_path / "changed.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return Tokenizer.from_file(path)


def test_tokenizer_json_keeps_everything(small, tmp_path):
    small.save(tmp_path / "a" / "b")
    again = Tokenizer.from_file(tmp_path / "a" / "b")
    assert again == small
    assert again.special_tokens == {"<|endoftext|>": 259, '<é ">': 260}
    np.testing.assert_array_equal(again.merges, MERGES)
    assert again.encode("hijé").tolist() == [257, 258]
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["tokenizer.json"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_tiktoken_files_are_written_as_they_were_read(name, tmp_path):
    path = tmp_path / f"{name}.tiktoken"
    published(name).save(path)
    assert path.read_bytes() == ranks_of(name)
    assert Tokenizer.from_file(path) == published(name)


def test_gpt2s_pair_of_files_keeps_everything(small, tmp_path):
    small.save_gpt2(tmp_path / "vocab.json", tmp_path / "merges.txt")
    assert Tokenizer.from_file(tmp_path) == small
    other = Tokenizer.from_merges(MERGES, pattern="cl100k")
    with pytest.raises(UsageError, match="pattern, and this tokenizer's is cl100k"):
        other.save_gpt2(tmp_path / "v.json", tmp_path / "m.txt")


def test_a_users_regex_is_kept(tmp_path):
    ours = Tokenizer.from_merges(MERGES, pattern=r"\w+|[^\w]")
    ours.save(tmp_path / "tokenizer.json")
    assert Tokenizer.from_file(tmp_path).pattern == r"\w+|[^\w]"


def test_the_fingerprint_follows_what_decides_ids():
    tokenizers = [
        Tokenizer.from_merges(MERGES),
        Tokenizer.from_merges(MERGES[:2]),
        Tokenizer.from_merges(MERGES, pattern="cl100k"),
        Tokenizer.from_merges(MERGES, special_tokens=["<|x|>"]),
        Tokenizer.from_merges(MERGES, special_tokens=["<|y|>"]),
        Tokenizer.byte(),
    ]
    assert len({tokenizer.fingerprint for tokenizer in tokenizers}) == len(tokenizers)
    assert Tokenizer.from_merges(MERGES).fingerprint == tokenizers[0].fingerprint


def test_merges_that_ranks_cannot_say_are_not_saved_as_ranks(tmp_path):
    # (hi, !) ranks below (h, i): as ranks, "hi!" would be found from "h" and "i!".
    wild = Tokenizer.from_merges([(104, 105), (105, 33), (104, 257)])
    with pytest.raises(UsageError, match=r"save it as tokenizer\.json"):
        wild.save(tmp_path / "x.tiktoken")
    assert not (tmp_path / "x.tiktoken").exists()


def test_unknown_names_are_refused(small, tmp_path):
    with pytest.raises(UsageError, match="cannot tell a format"):
        small.save(tmp_path / "x.bin")
    (tmp_path / "mine.tiktoken").write_text("IQ== 0\n")
    with pytest.raises(UsageError, match="holds no pattern"):
        Tokenizer.from_file(tmp_path / "mine.tiktoken")
    with pytest.raises(UsageError, match="says its own pattern"):
        Tokenizer.from_file(tmp_path / "tokenizer.json", pattern="gpt2")


def test_the_system_refuses_by_its_own_errors(small, tmp_path):
    with pytest.raises(FileNotFoundError) as raised:
        Tokenizer.from_file(tmp_path / "nowhere.json")
    assert raised.value.filename == str(tmp_path / "nowhere.json")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        Tokenizer.from_file(tmp_path / "folder.json")
    with pytest.raises(OSError, match="directory"):
        small.save(tmp_path / "folder.json")
    with pytest.raises(FileNotFoundError):
        small.save(tmp_path / "no" / "where.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.json"]


# -- hostile tokenizer.json -----------------------------------------------------------------------


def model(**changes):
    return lambda file: file["model"].update(changes)


def added(**changes):
    return lambda file: file["added_tokens"][0].update(changes)


def entry(token, id):
    return lambda file: file["model"]["vocab"].__setitem__(token, id)


def without(token):
    return lambda file: file["model"]["vocab"].pop(token)


def top(**changes):
    return lambda file: file.update(changes)


def merge(one):
    return lambda file: file["model"]["merges"].append(one)


SPLIT = {"type": "Split", "pattern": {"Regex": "a"}, "behavior": "Isolated", "invert": False}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}


def steps(*pretokenizers):
    return top(pre_tokenizer={"type": "Sequence", "pretokenizers": list(pretokenizers)})


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (model(type="WordPiece"), 'its model is "WordPiece"'),
        (model(dropout=0.1), "dropout"),
        (model(byte_fallback=True), "byte_fallback"),
        (model(continuing_subword_prefix="##"), "prefix or suffix"),
        (model(end_of_word_suffix="</w>"), "prefix or suffix"),
        (model(vocab=[]), "an object of tokens and ids"),
        (model(vocab={}), "no token stands for the byte 0x00"),
        (model(merges={}), "an array of merges"),
        (model(merges=[["a"]]), "joins two tokens"),
        (model(merges=[["a", "b", "c"]]), "joins two tokens"),
        (model(merges=["ab"]), "has no space"),
        (model(merges=[3]), "a merge"),
        (top(model=None), "invalid type: null"),
        (top(truncation={"max_length": 512}), "truncation"),
        (top(padding={"strategy": "BatchLongest"}), "padding"),
        (top(normalizer={"type": "Lowercase"}), 'the normalizer "Lowercase"'),
        (top(normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}]}), "normalizer"),
        (top(pre_tokenizer=None), "its pre_tokenizer is without a type"),
        (top(pre_tokenizer={"type": "Whitespace"}), 'its pre_tokenizer is "Whitespace"'),
        (top(pre_tokenizer={**BYTES, "add_prefix_space": True}), "add_prefix_space"),
        (steps(), "its pre_tokenizer is"),
        (steps(SPLIT), "its pre_tokenizer is"),
        (steps(SPLIT, SPLIT, BYTES), "its pre_tokenizer is"),
        (steps({**SPLIT, "behavior": "MergedWithNext"}, BYTES), "MergedWithNext"),
        (steps({**SPLIT, "pattern": {"String": "a"}}, BYTES), "not by a regex"),
        (steps({**SPLIT, "pattern": {"Regex": "(("}}, BYTES), "regex"),
        (added(lstrip=True), "lstrip"),
        (added(single_word=True), "single_word"),
        (added(id=258), "has id 258, but the vocabulary gives it 259"),
        (added(id=-1), "invalid value"),
        (added(id=2**32 - 1, content="<|new|>"), "too large"),
        (added(content="", id=400), "is empty"),
        (added(content="xy <é", normalized=True), "overlaps"),
        (entry("new", 2**31), "too large"),
        (entry("new", 2**40), "invalid value"),
        (entry("new", "7"), "invalid type"),
        (entry("new", 97), "two tokens have the id 97"),
        (entry("▁new", 999), "'▁' stands for no byte"),
        (entry("", 999), "is empty"),
        (without("a"), "no token stands for the byte 0x61"),
        (without("hi"), '"hi", which is no token'),
        (merge("h zz"), '"zz", which is no token'),
        (merge("h i"), "which an earlier merge joins"),
        (merge("h ▁"), "stands for no byte"),
    ],
)
def test_files_that_lie_are_refused_in_a_sentence(saved, change, complaint, tmp_path):
    before = copy.deepcopy(saved)
    change(saved)
    assert saved != before
    with pytest.raises((DataError, UsageError)) as raised:
        load(saved, tmp_path)
    assert complaint in str(raised.value)
    assert "\n" not in str(raised.value)


def test_truncated_files_are_refused_at_every_length(saved, tmp_path):
    text = json.dumps(saved)
    for length in (0, 1, *range(2, len(text), 97), len(text) - 1):
        with pytest.raises(DataError):
            load(text[:length], tmp_path)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"model":' * 50_000, "null", "7", '"a"'])
def test_json_that_is_no_tokenizer_is_refused(content, tmp_path):
    with pytest.raises(DataError, match=r"not a tokenizer\.json"):
        load(content, tmp_path)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(b'{"model": {"vocab": {"\xff": 1}}}')
    with pytest.raises(DataError):
        Tokenizer.from_file(tmp_path)


def test_doubled_tokens_in_json_are_refused(saved, tmp_path):
    text = json.dumps(saved).replace('"b": ', '"a": ', 1)
    with pytest.raises(DataError, match=r"same token|no token stands"):
        load(text, tmp_path)


# -- hostile .tiktoken and GPT-2 files ------------------------------------------------------------


def ranks(tokens):
    return "".join(f"{base64.b64encode(token).decode()} {id}\n" for id, token in tokens)


ALL_BYTES = [(byte, bytes([byte])) for byte in range(256)]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "no token in it"),
        ("IQ==\n", "line 1: no space"),
        ("IQ== x\n", 'line 1: the rank "x" is no number'),
        ("IQ== -1\n", "is no number"),
        ("IQ== 99999999999999\n", "is no number"),
        ("IQ== 4294967295\n", "too large"),
        ("I? 0\n", "no base64"),
        (" 0\n", "is empty"),
        ("IQ== 0\nIg== 0\n", "line 2: two tokens have the id 0"),
        ("IQ== 0\nIQ== 1\n", "same token"),
        ("IQ== 0\n", "no token stands for the byte 0x00"),
        (ranks([*ALL_BYTES, (256, b"x" * 300)]), "300 bytes long"),
        ("\0\0\0 binary", "no base64"),
    ],
)
def test_ranks_that_lie_are_refused(content, complaint, tmp_path):
    (tmp_path / "x.tiktoken").write_text(content)
    with pytest.raises(DataError) as raised:
        Tokenizer.from_tiktoken(tmp_path / "x.tiktoken")
    assert complaint in str(raised.value)


def test_ranks_may_have_gaps_and_any_order(tmp_path):
    tokens = [(900, b"hi"), *((2 * byte + 1, token) for byte, token in ALL_BYTES)]
    (tmp_path / "x.tiktoken").write_text(ranks(tokens) + "\n")
    tokenizer = Tokenizer.from_tiktoken(
        tmp_path / "x.tiktoken", special_tokens={"<|x|>": 0, "<|y|>": 1000}
    )
    assert tokenizer.encode("hi!<|x|>", allowed_special="all").tolist() == [900, 67, 0]
    assert tokenizer.vocab_size == 1001
    tokenizer.save(tmp_path / "t.json")
    assert Tokenizer.from_file(tmp_path / "t.json") == tokenizer
    with pytest.raises(DataError, match="two tokens have the id 900"):
        Tokenizer.from_tiktoken(tmp_path / "x.tiktoken", special_tokens={"<|x|>": 900})


@pytest.mark.parametrize(
    ("vocab", "merges", "complaint"),
    [
        ("[]", "", "an object of tokens and ids"),
        ("{", "", "EOF"),
        ("{}", "h i\n", "is no token"),
        ("{}", "hi\n", "line 1: no space"),
        ("{}", "#version: 0.2\nh  i\n", "line 2"),
    ],
)
def test_gpt2_files_that_lie_are_refused(vocab, merges, complaint, tmp_path):
    (tmp_path / "vocab.json").write_text(vocab)
    (tmp_path / "merges.txt").write_text(merges)
    with pytest.raises(DataError) as raised:
        Tokenizer.from_file(tmp_path)
    assert complaint in str(raised.value) or "byte 0x00" in str(raised.value)
