"""Special tokens are ids only where the caller says so."""

import pytest

from microgpt import Tokenizer
from microgpt.errors import UsageError

END, START = "<|endoftext|>", "<|start|>"


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.byte(special_tokens=[END, START, "<|end", "[PAD]", "日本"])


def test_they_follow_the_other_ids(tokenizer):
    assert tokenizer.special_tokens == {
        END: 256,
        START: 257,
        "<|end": 258,
        "[PAD]": 259,
        "日本": 260,
    }
    assert tokenizer.vocab_size == 261
    assert tokenizer.end_of_text_id == 256
    assert Tokenizer.byte().end_of_text_id is None


def test_text_that_spells_one_is_an_error_by_default(tokenizer):
    complaint = r'special token "<\|endoftext\|>" at byte 3'
    for text in (f"é {END}", f"é {END}".encode()):
        with pytest.raises(UsageError, match=complaint):
            tokenizer.encode(text)
        with pytest.raises(UsageError, match=complaint):
            tokenizer.count(text)
        with pytest.raises(UsageError, match=complaint):
            tokenizer.encode_batch(["a", text])


def test_allowed_ones_become_ids_the_longest_first(tokenizer):
    ids = tokenizer.encode(f"a{END}{START}<|endx日本", allowed_special="all").tolist()
    assert ids == [97, 256, 257, 258, 120, 260]
    assert tokenizer.decode(ids) == f"a{END}{START}<|endx日本"
    assert tokenizer.count(f"a{END}{START}", allowed_special="all") == 3


def test_others_than_the_allowed_are_refused_or_plain(tokenizer):
    assert tokenizer.encode(f"a{END}", allowed_special={END}).tolist() == [97, 256]
    with pytest.raises(UsageError, match="start"):
        tokenizer.encode(f"a{END}{START}", allowed_special={END})
    ids = tokenizer.encode(f"{END}[PAD]", allowed_special=[END], disallowed_special=())
    assert ids.tolist() == [256, *b"[PAD]"]
    with pytest.raises(UsageError, match="PAD"):
        tokenizer.encode(f"{START}[PAD]", disallowed_special=["[PAD]"])
    assert tokenizer.encode(START, disallowed_special=["[PAD]"]).tolist() == list(START.encode())


def test_plain_text_never_gives_one(tokenizer):
    text = f"{END}[PAD]日本{START}"
    assert tokenizer.encode_ordinary(text).tolist() == list(text.encode())
    assert tokenizer.encode(text, disallowed_special=()).max() < 256


def test_merges_never_make_one():
    """Even where merges spell the text of the special token as far as a file could."""
    merges = [(60, 124), (124, 62), (256, 120)]
    tokenizer = Tokenizer.from_merges(merges, pattern="none", special_tokens=["<|x|>"])
    assert tokenizer.encode("<|x|>", disallowed_special=()).tolist() == [258, 257]
    with pytest.raises(UsageError, match="spelled like the ordinary token with id 258"):
        Tokenizer.from_merges(merges, special_tokens=["<|x"])


@pytest.mark.parametrize(
    ("specials", "complaint"),
    [
        (["<|x|>", "<|x|>"], "given twice"),
        ([""], "empty"),
        (["a"], "ordinary token with id 97"),
        ("<|x|>", "is a list of texts"),
    ],
)
def test_impossible_ones_are_refused(specials, complaint):
    with pytest.raises(UsageError, match=complaint):
        Tokenizer.byte(special_tokens=specials)


def test_unknown_names_are_refused_with_the_known(tokenizer):
    for option in ("allowed_special", "disallowed_special"):
        with pytest.raises(UsageError, match=r'"<\|nope\|>" is no special token .*PAD'):
            tokenizer.encode("a", **{option: {"<|nope|>"}})
        with pytest.raises(UsageError, match="a set of texts"):
            tokenizer.encode("a", **{option: END})
