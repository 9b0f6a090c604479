"""Ids back to bytes and text, whole and as they come."""

import random
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microgpt import Tokenizer
from microgpt.errors import UsageError

from .conftest import corpus, generated, published


def test_ids_come_in_any_integer_type():
    tokenizer = Tokenizer.byte()
    for dtype in (np.uint8, np.uint16, np.uint32, np.uint64, np.int8, np.int32, np.int64):
        assert tokenizer.decode(np.array([104, 105], dtype)) == "hi"
    strided = np.array([104, 0, 105, 0], np.uint32)[::2]
    assert tokenizer.decode(strided) == "hi"
    assert tokenizer.decode(np.array([105, 104], np.uint16)[::-1]) == "hi"
    assert tokenizer.decode((104, 105)) == "hi"
    assert tokenizer.decode(104) == "h"


def test_lists_decode_as_arrays_do():
    tokenizer = published("r50k_base")
    ids = tokenizer.encode(corpus("multilingual", 50_000))
    text = tokenizer.decode(ids)
    assert tokenizer.decode(ids.tolist()) == text
    assert tokenizer.decode(list(ids)) == text
    assert tokenizer.decode([np.int64(104)]) == tokenizer.decode([104])
    assert tokenizer.decode([]) == ""
    for wrong in ([True], [2**70], ["a"], [None], [1, [2]]):
        with pytest.raises((UsageError, ValueError)):
            tokenizer.decode(wrong)


@pytest.mark.parametrize("ids", [[-1], [256], [2**31], [2**40], [2**63], [1.5], [[1, 2]], ["a"]])
def test_what_is_no_id_is_refused(ids):
    with pytest.raises(UsageError):
        Tokenizer.byte().decode(ids)


def test_an_id_out_of_range_is_named_with_the_limit():
    with pytest.raises(UsageError, match=r"id 256 has no token: ids lie below .* 256"):
        Tokenizer.byte().decode(np.array([1, 256], np.uint16))
    # tiktoken's published lists leave gaps between ranks and special tokens.
    with pytest.raises(UsageError, match="id 100256 has no token: it is a gap"):
        published("cl100k_base").decode([100256])
    with pytest.raises(UsageError, match="id -3 has no token"):
        published("cl100k_base").token_bytes(-3)


def test_invalid_bytes_become_replacement_characters_or_errors():
    tokenizer = Tokenizer.byte()
    assert tokenizer.decode([255, 97, 0xE2, 0x82]) == "\ufffda\ufffd"
    assert tokenizer.decode([255, 97], errors="ignore") == "a"
    with pytest.raises(UnicodeDecodeError):
        tokenizer.decode([255], errors="strict")


@given(st.one_of(st.binary(max_size=60), st.text(max_size=30).map(str.encode)))
@settings(max_examples=300, deadline=None)
def test_a_stream_is_the_whole_wherever_it_is_cut(data):
    stream = Tokenizer.byte().decode_stream(data)
    assert "".join(stream) == data.decode(errors="replace")


def test_no_part_of_a_stream_ends_inside_a_character():
    tokenizer = published("r50k_base")
    for seed in range(20):
        text = generated(seed)
        parts = list(tokenizer.decode_stream(tokenizer.encode_ordinary(text)))
        assert "".join(parts) == text
        assert not any("\ufffd" in part for part in parts if "\ufffd" not in text)


def test_a_stream_of_one_long_invalid_token_is_quick():
    merges = [(255, 255)] + [(256 + i, 256 + i) for i in range(18)]
    tokenizer = Tokenizer.from_merges(merges)
    assert "".join(tokenizer.decode_stream([274])) == "\ufffd" * 2**19


def test_a_stream_may_be_pushed_from_many_threads():
    stream = Tokenizer.byte()._core.decode_stream()
    workers = [
        threading.Thread(target=lambda: [stream.push(97) for _ in range(1000)]) for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert stream.finish() == ""


def test_a_batch_decodes_from_lists_and_from_offsets():
    tokenizer = published("r50k_base")
    texts = ["one", "", "zwei Wörter", "三"]
    assert tokenizer.decode_batch(*tokenizer.encode_batch(texts)) == texts
    assert tokenizer.decode_batch([tokenizer.encode(text) for text in texts]) == texts


def test_large_arrays_decode_in_parts():
    tokenizer = published("r50k_base")
    rng = np.random.default_rng(random.Random(1).randrange(99))
    ids = rng.integers(0, 50256, 700_001).astype(np.uint16)
    expected = b"".join(tokenizer.token_bytes(id) for id in ids.tolist())
    assert tokenizer.decode_bytes(ids) == expected
    assert tokenizer.decode_bytes(ids.astype(np.int64)) == expected
