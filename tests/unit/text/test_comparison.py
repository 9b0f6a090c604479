"""What `compare` says of two tokenizers holds."""

import pytest

from microgpt import Tokenizer
from microgpt.text.comparison import Difference, compare_on, overlap

from .conftest import corpus, published

LEFT = Tokenizer.from_merges([(104, 105), (32, 256)])
RIGHT = Tokenizer.from_merges([(105, 106), (104, 105)])


def test_overlap_counts_tokens_by_their_bytes():
    found = overlap(LEFT, RIGHT)
    assert (found.shared, found.only_left, found.only_right) == (257, 1, 1)
    assert found.same_id == 256
    same = overlap(LEFT, LEFT)
    assert (same.only_left, same.only_right, same.same_id) == (0, 0, 258)


def test_differences_lie_between_cuts_that_both_make():
    found = compare_on(LEFT, RIGHT, b"hij hij hi")
    assert found.tokens == (5, 7)
    assert found.bytes_per_token == (2.0, 10 / 7)
    assert found.differences == [
        Difference((b"hi", b"j"), (b"h", b"ij"), 1),
        Difference((b" hi", b"j"), (b" ", b"h", b"ij"), 1),
        Difference((b" hi",), (b" ", b"hi"), 1),
    ]
    assert (found.differing_bytes, found.compared_bytes) == (10, 10)
    assert all(seconds > 0 for seconds in found.seconds)


def test_a_tokenizer_differs_nowhere_from_itself():
    found = compare_on(LEFT, LEFT, b"hij hij hi")
    assert (found.differences, found.differing_bytes) == ([], 0)


@pytest.mark.parametrize("pair", [("r50k_base", "o200k_base"), ("cl100k_base", "r50k_base")])
def test_both_sides_of_every_difference_are_the_same_text(pair):
    left, right = map(published, pair)
    text = corpus("multilingual", 100_000).encode()
    found = compare_on(left, right, text)
    assert found.tokens == (left.count(text), right.count(text))
    counts = [one.count for one in found.differences]
    assert counts == sorted(counts, reverse=True)
    stretches = [(b"".join(one.left), one) for one in found.differences]
    assert all(b"".join(one.right) == stretch for stretch, one in stretches)
    assert sum(len(stretch) * one.count for stretch, one in stretches) == found.differing_bytes
    # Where both cut alike they give as many tokens.
    more = sum((len(one.right) - len(one.left)) * one.count for one in found.differences)
    assert found.tokens[1] - found.tokens[0] == more
