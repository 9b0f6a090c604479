"""Ids, counts and bytes are tiktoken's, for its published vocabularies."""

import numpy as np
import pytest

from .conftest import CORPORA, PUBLISHED, corpus, generated, published, tiktoken_of

WHOLE = 1 << 30


def assert_equal(name, text):
    ours, theirs = published(name), tiktoken_of(name)
    ids = ours.encode_ordinary(text)
    np.testing.assert_array_equal(ids, theirs.encode_to_numpy(text, disallowed_special=()))
    assert ours.decode(ids) == text


@pytest.mark.parametrize("text", CORPORA)
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_beginning_of_a_corpus_has_tiktokens_ids(name, text):
    assert_equal(name, corpus(text, 600_000))


@pytest.mark.slow
@pytest.mark.parametrize("text", CORPORA)
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_whole_corpus_has_tiktokens_ids(name, text):
    assert_equal(name, corpus(text, WHOLE))


@pytest.mark.parametrize("name", PUBLISHED)
def test_generated_strings_have_tiktokens_ids(name):
    for seed in range(150):
        assert_equal(name, generated(seed))


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_many_generated_strings_have_tiktokens_ids(name):
    for seed in range(20_000):
        assert_equal(name, generated(seed, pieces=100))


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_code_point_has_tiktokens_ids(name):
    points = [point for point in range(0x110000) if not 0xD800 <= point < 0xE000]
    step = 1 << 15
    for start in range(0, len(points), step):
        some = map(chr, points[start : start + step : 7 if start > 0x30000 else 1])
        assert_equal(name, "".join(f"a{char}{char} {char}1" for char in some))


@pytest.mark.parametrize("name", PUBLISHED)
def test_special_tokens_are_tiktokens(name):
    ours, theirs = published(name), tiktoken_of(name)
    assert ours.special_tokens.items() >= theirs._special_tokens.items()
    text = "one<|endoftext|>two <|endoftext|><|endofprompt|>"
    np.testing.assert_array_equal(
        ours.encode(text, allowed_special="all"), theirs.encode(text, allowed_special="all")
    )
    np.testing.assert_array_equal(
        ours.encode(text, disallowed_special=()), theirs.encode_ordinary(text)
    )
    with pytest.raises(ValueError, match="endoftext"):
        theirs.encode(text)
    with pytest.raises(ValueError, match="endoftext"):
        ours.encode(text)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_token_has_tiktokens_bytes(name):
    ours, theirs = published(name), tiktoken_of(name)
    for token in theirs.token_byte_values():
        id = theirs.encode_single_token(token)
        assert ours.token_bytes(id) == token
        assert ours.token_id(token) == id


@pytest.mark.parametrize("length", [1, 15, 16, 17, 63, 64, 65, 100, 1000, 20_000])
@pytest.mark.parametrize(
    "letters", ["a", "ab", "abcdefghijklmnopqrstuvwxyz", " ", "0123456789", "é"]
)
def test_long_pieces_have_tiktokens_ids(length, letters):
    rng = np.random.default_rng(length)
    text = "".join(rng.choice(list(letters), length))
    for name in PUBLISHED:
        assert_equal(name, text)
