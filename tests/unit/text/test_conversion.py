"""Every format says the same of a tokenizer, or is not written."""

import json

import pytest

from microgpt import Tokenizer
from microgpt.errors import UsageError
from microgpt.text.conversion import Target, convert, target_for

from .conftest import published

SMALL = Tokenizer.from_merges([(104, 105), (256, 106)], special_tokens=["<|endoftext|>"])


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("name", "format", "expected"),
    [
        ("a.json", None, ("json", ["a.json"])),
        ("a.tiktoken", None, ("tiktoken", ["a.tiktoken"])),
        ("vocab.json", None, ("gpt2", ["vocab.json", "merges.txt"])),
        ("encoder.json", "gpt2", ("gpt2", ["encoder.json", "vocab.bpe"])),
        ("folder", None, ("json", ["folder/tokenizer.json"])),
        ("folder", "gpt2", ("gpt2", ["folder/vocab.json", "folder/merges.txt"])),
    ],
)
def test_a_name_says_what_is_written(name, format, expected, tmp_path):
    target = target_for(tmp_path / name, format)
    assert target == Target(expected[0], tuple(tmp_path / file for file in expected[1]))


@pytest.mark.parametrize(
    ("name", "format", "complaint"),
    [
        ("a.bin", None, "cannot tell a format"),
        ("a.json", "tiktoken", "named like the format json"),
        ("folder", "tiktoken", "ends in .tiktoken"),
    ],
)
def test_a_name_that_says_nothing_or_something_else_is_refused(name, format, complaint, tmp_path):
    with pytest.raises(UsageError, match=complaint):
        target_for(tmp_path / name, format)


@pytest.mark.parametrize("name", ["a.json", "a.tiktoken", "vocab.json", "new/folder"])
@pytest.mark.parametrize(
    "tokenizer", [SMALL, Tokenizer.byte(), Tokenizer.byte(["<|endoftext|>"])], ids=repr
)
def test_what_is_written_is_read_back_equal(tokenizer, name, tmp_path):
    convert(tokenizer, target_for(tmp_path / name, None))
    specials = tokenizer.special_tokens if name.endswith(".tiktoken") else None
    pattern = tokenizer.pattern if name.endswith(".tiktoken") else None
    again = Tokenizer.from_file(tmp_path / name, pattern, specials)
    assert again == tokenizer
    assert again.kind == tokenizer.kind
    assert again.special_tokens == tokenizer.special_tokens
    assert not any(".convert" in name for name in names(tmp_path))


def test_a_chain_of_formats_ends_where_it_began(tmp_path):
    tokenizer = published("r50k_base")
    for name in ("a.json", "pair", "b.tiktoken", "c.json"):
        convert(tokenizer, target_for(tmp_path / name, "gpt2" if name == "pair" else None))
        ranked = name.endswith(".tiktoken")
        tokenizer = Tokenizer.from_file(tmp_path / name, "gpt2" if ranked else None)
        assert tokenizer == published("r50k_base")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "c.json").read_bytes()


def always_found(tmp_path):
    """A tokenizer whose added token is found in every text, as only tokenizer.json can say."""
    SMALL.save(tmp_path / "source.json")
    saved = json.loads((tmp_path / "source.json").read_text())
    saved["added_tokens"][0]["special"] = False
    (tmp_path / "source.json").write_text(json.dumps(saved))
    return Tokenizer.from_file(tmp_path / "source.json")


@pytest.mark.parametrize("name", ["new/x.tiktoken", "new/vocab.json"])
def test_what_a_format_cannot_say_is_refused_and_nothing_is_written(name, tmp_path):
    with pytest.raises(UsageError, match="would give other ids"):
        convert(always_found(tmp_path), target_for(tmp_path / name, None))
    wild = Tokenizer.from_merges([(104, 105), (105, 33), (104, 257)], pattern="cl100k")
    with pytest.raises(UsageError, match=rf"cannot write {tmp_path / name}: .*tokenizer\.json"):
        convert(wild, target_for(tmp_path / name, None))
    assert names(tmp_path) == ["source.json"]
    assert not (tmp_path / "new").exists()


def test_a_file_that_is_there_stays_unless_it_is_to_be_replaced(tmp_path):
    (tmp_path / "a.json").write_text("mine")
    target = target_for(tmp_path / "a.json", None)
    with pytest.raises(UsageError, match="exists"):
        convert(SMALL, target)
    assert (tmp_path / "a.json").read_text() == "mine"
    convert(SMALL, target, replace=True)
    assert Tokenizer.from_file(tmp_path / "a.json") == SMALL
