"""`microgpt tokenizer` as a user meets it: what it prints and what it refuses."""

from __future__ import annotations

import json

import pytest

from microgpt import Tokenizer


@pytest.fixture
def files(microgpt):
    """The caller, in a folder with two tokenizers and a text."""
    Tokenizer.from_merges([(104, 105), (256, 106)], special_tokens=["<|endoftext|>"]).save(
        microgpt.folder / "a.json"
    )
    Tokenizer.from_merges([(105, 106)]).save(microgpt.folder / "b.tiktoken")
    (microgpt.folder / "text").write_text("hij hij<|endoftext|>hi\n")
    return microgpt


def test_inspect_prints_what_is_inside(files) -> None:
    printed = files("tokenizer", "inspect", "a.json", "--text", "text").stdout
    assert "kind         bpe\n" in printed
    assert "ids          259: 258 ordinary, 1 special, 0 gaps\n" in printed
    assert "special      <|endoftext|> 258\n" in printed
    assert "longest      257 hij  256 hi  0 \\x00" in printed
    assert "unreachable  0\n" in printed
    assert "unused       254 0 \\x00" in printed
    assert (
        "    1       256 ########################################\n    2         1 #\n" in printed
    )


def test_inspect_prints_json(files) -> None:
    facts = json.loads(files("tokenizer", "inspect", "a.json", "--json").stdout)
    assert (facts["vocab_size"], facts["lengths"], facts["unused"]) == (
        259,
        {"1": 256, "2": 1, "3": 1},
        None,
    )
    assert len(facts["longest"]) == 8


def test_compare_prints_overlap_sizes_and_splits(files) -> None:
    arguments = ("tokenizer", "compare", "a.json", "b.tiktoken", "--pattern", "gpt2")
    assert "they differ\n" in files(*arguments).stdout
    printed = files(*arguments, "--text", "text").stdout
    assert "256 tokens shared (256 with one id), 3 only in A, 1 only in B" in printed
    assert "        2 times  [hij]  |  [h][ij]\n" in printed
    record = json.loads(files(*arguments, "--text", "text", "--json").stdout)
    assert record["text"]["tokens"] == [18, 21]
    assert record["text"]["differences"][0]["count"] == 2
    assert record["equal"] is False


def test_convert_writes_what_inspect_reads(files) -> None:
    done = files("tokenizer", "convert", "a.json", "pair", "--to", "gpt2")
    assert done.stdout == "wrote pair/vocab.json and pair/merges.txt\n"
    done = files("tokenizer", "convert", "pair/vocab.json", "c.tiktoken")
    assert "special_tokens={'<|endoftext|>': 258}" in done.stderr
    special = ("--special-token", "<|endoftext|>=258")
    files("tokenizer", "convert", "c.tiktoken", "c.json", "--pattern", "gpt2", *special)
    one, other = (files.folder / name for name in ("a.json", "c.json"))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (["inspect"], 2, "missing argument"),
        (["inspect", "nothing.json"], 1, "nothing.json: no such file"),
        (["inspect", "text"], 1, "not a tokenizer.json"),
        (["inspect", "b.tiktoken"], 2, "holds no pattern"),
        (["inspect", "b.tiktoken", "--pattern", "gpt3"], 2, "gpt3"),
        (["inspect", "."], 1, "tokenizer.json: no such file"),
        (["inspect", "a.json", "--text", "."], 1, "is a directory"),
        (["compare", "a.json"], 2, "missing argument"),
        (["compare", "a.json", "a.json", "--text", "empty"], 2, "is empty"),
        (["convert", "a.json", "a.json"], 2, "a.json exists"),
        (["convert", "a.json", "x.bin"], 2, "cannot tell a format"),
        (["convert", "a.json", "x", "--to", "tiktoken"], 2, "is a folder"),
        (["convert", "a.json", "text/x.json"], 1, "text: not a directory"),
        (["convert", "a.json", "x.json", "--special-token", "<|x|>=1"], 2, "says its own"),
        (["convert", "b.tiktoken", "x.json", "--special-token", "<|x|>"], 2, "TEXT=ID"),
        (["convert", "b.tiktoken", "x.json", "--pattern", "none", "--special-token", "x=5"], 1, ""),
    ],
)
def test_wrong_usage_is_one_line(files, arguments, status, complaint) -> None:
    (files.folder / "empty").touch()
    before = sorted(path.name for path in files.folder.iterdir())
    result = files("tokenizer", *arguments, status=status)
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert complaint in result.stderr
    assert sorted(path.name for path in files.folder.iterdir()) == before
