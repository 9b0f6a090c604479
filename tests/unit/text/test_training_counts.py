"""More text than memory, and counts saved from parts of it, give the same merges."""

import lzma

import pytest

from microgpt import Tokenizer
from microgpt.errors import DataError, UsageError

from .conftest import data_file

SPECIAL = "<|endoftext|>"
TEXTS = ["low lower lowest low", f"new newer{SPECIAL}newest é\n", "", "low new 12 12"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Five files of real text in many scripts, which has many distinct pieces."""
    with lzma.open(data_file("multilingual.txt.xz"), "rb") as file:
        text = file.read(5_000_000)
    folder = tmp_path_factory.mktemp("parts")
    for number in range(5):
        part = text[number * 1_000_000 : (number + 1) * 1_000_000]
        (folder / f"{number}.txt").write_bytes(part)
    return sorted(folder.iterdir())


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder for temporary files, which has to be empty in the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("tie", ["ids", "hf", "lexical", "first"])
def test_counts_that_mostly_lie_on_disk_give_the_same_merges(parts, temporary, tie):
    goal = {"vocab_size": 600, "tie": tie}
    expected = Tokenizer.train(parts, **goal)
    # Tables of 8,192 pieces; the text has some 150,000.
    found = Tokenizer.train(parts, threads=2, memory=60_000_000, **goal)
    assert found == expected


def test_little_memory_counts_and_then_says_what_merging_takes(parts, temporary):
    with pytest.raises(UsageError, match="memory is limited to 3 MB"):
        Tokenizer.train(parts, vocab_size=600, threads=2, memory=3_000_000)


@pytest.mark.parametrize("tie", ["ids", "hf", "lexical", "first"])
def test_counts_of_parts_give_the_tokenizer_of_the_whole(parts, temporary, tmp_path, tie):
    counts = [tmp_path / f"{part.stem}.counts" for part in parts]
    for part, path in zip(parts, counts, strict=True):
        assert Tokenizer.count_pieces(part, path, memory=2 << 20, threads=2) > 10_000
    goal = {"vocab_size": 5_000, "tie": tie}
    expected = Tokenizer.train(parts, **goal)
    assert Tokenizer.train_from_counts(counts, **goal) == expected
    if tie != "first":
        assert Tokenizer.train_from_counts(counts[::-1], threads=1, **goal) == expected


def count_each(folder, texts, **settings):
    for number, text in enumerate(texts):
        Tokenizer.count_pieces(iter([text]), folder / f"{number}.counts", **settings)
    return sorted(folder.iterdir())


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "none", r"\w+|\W+"])
def test_pattern_and_special_tokens_are_those_of_the_counts(tmp_path, pattern):
    settings = {"pattern": pattern, "special_tokens": ["<|x|>", SPECIAL]}
    counts = count_each(tmp_path, [text for text in TEXTS if text], **settings)
    found = Tokenizer.train_from_counts(counts, vocab_size=270)
    assert found == Tokenizer.train_from_iterator(TEXTS, vocab_size=270, **settings)
    assert found.special_tokens == {"<|x|>": 268, SPECIAL: 269}


def test_a_file_of_counts_may_be_given_alone(tmp_path):
    (one,) = count_each(tmp_path, TEXTS[:1])
    assert Tokenizer.train_from_counts(one, epochs=2) == Tokenizer.train_from_iterator(
        TEXTS[:1], epochs=2
    )


def test_files_that_do_not_agree_or_are_no_counts_are_refused(tmp_path):
    one = tmp_path / "one.counts"
    other = tmp_path / "other.counts"
    Tokenizer.count_pieces(iter(TEXTS), one)
    Tokenizer.count_pieces(iter(TEXTS), other, pattern="cl100k")
    with pytest.raises(UsageError, match=r"other\.counts was counted with pattern cl100k, but"):
        Tokenizer.train_from_counts([one, other], vocab_size=300)
    with pytest.raises(UsageError, match="no count file: name at least one"):
        Tokenizer.train_from_counts([], vocab_size=300)
    whole = one.read_bytes()
    for broken in (b"", b"text", whole[:-1], whole[:-40], whole[:-33] + b"\0" + whole[-32:]):
        other.write_bytes(broken)
        with pytest.raises(DataError, match=r"other\.counts"):
            Tokenizer.train_from_counts([one, other], vocab_size=300)
    with pytest.raises(FileNotFoundError):
        Tokenizer.train_from_counts(tmp_path / "missing.counts", vocab_size=300)


def test_no_text_writes_no_counts(tmp_path):
    with pytest.raises(DataError, match="no text"):
        Tokenizer.count_pieces(iter([""]), tmp_path / "none.counts")
    with pytest.raises(OSError, match="gone"):
        Tokenizer.count_pieces(iter(["text"]), tmp_path / "gone" / "x.counts")
    assert list(tmp_path.iterdir()) == []
