"""Encoding against its definition, on pieces of every length, in threads, and after a fork."""

import multiprocessing
import os
import random
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microgpt import Tokenizer
from microgpt.errors import UsageError
from reference.bpe import encode, encode_ranked, random_merges

from .conftest import PUBLISHED, corpus, generated, published


@pytest.mark.parametrize("seed", range(40))
def test_random_merges_give_the_ids_of_the_definition(seed):
    rng = random.Random(seed)
    alphabet = b"ab" if seed % 2 else b"abcd\xc3\xff"
    merges = random_merges(rng, rng.randrange(1, 40), alphabet)
    tokenizer = Tokenizer.from_merges(merges, pattern="none")
    for length in (*range(1, 24), 63, 64, 65, 66, 130, 300):
        piece = bytes(rng.choice(alphabet) for _ in range(length))
        assert tokenizer.encode(piece).tolist() == encode(piece, merges), piece


@given(st.binary(max_size=90), st.integers(0, 10))
@settings(max_examples=200, deadline=None)
def test_any_bytes_give_the_ids_of_the_definition(piece, seed):
    merges = random_merges(random.Random(seed), 60, sorted(set(piece)) or [0])
    tokenizer = Tokenizer.from_merges(merges, pattern="none")
    ids = tokenizer.encode(piece)
    assert ids.tolist() == encode(piece, merges)
    assert tokenizer.decode_bytes(ids) == piece


@pytest.mark.parametrize("seed", range(20))
def test_ranks_that_no_merges_form_give_tiktokens_ids(seed, tmp_path):
    """Random tokens with random ranks: some have no split, so pieces and all cuts count."""
    from base64 import b64encode

    rng = random.Random(seed)
    tokens = {bytes([byte]) for byte in range(256)}
    while len(tokens) < 300:
        tokens.add(bytes(rng.choice(b"abc") for _ in range(rng.randrange(2, 7))))
    tokens = sorted(tokens, key=lambda token: (len(token) > 1, rng.random()))
    lines = [f"{b64encode(token).decode()} {id}\n" for id, token in enumerate(tokens)]
    (tmp_path / "x.tiktoken").write_text("".join(lines))
    tokenizer = Tokenizer.from_tiktoken(tmp_path / "x.tiktoken", pattern="none")
    ids = {token: id for id, token in enumerate(tokens)}
    for length in (*range(1, 20), 64, 65, 100):
        piece = bytes(rng.choice(b"abc") for _ in range(length))
        assert tokenizer.encode(piece).tolist() == encode_ranked(piece, ids), piece
    tokenizer.save(tmp_path / "y.tiktoken")
    assert (tmp_path / "y.tiktoken").read_text() == (tmp_path / "x.tiktoken").read_text()


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_megabyte_without_a_split_point_takes_under_two_seconds(name):
    rng = random.Random(1)
    kinds = {
        "one letter": b"a" * 1_000_000,
        "letters": bytes(rng.choices(b"abcdefghijklmnopqrstuvwxyz", k=1_000_000)),
        "spaces": b" " * 1_000_000 + b"x",
        "line ends": b"\n" * 1_000_000,
        "digits": bytes(rng.choices(b"0123456789", k=1_000_000)),
        "signs": bytes(rng.choices(b"=-#", k=1_000_000)),
        "not UTF-8": bytes(rng.choices(range(128, 256), k=1_000_000)),
    }
    for kind, text in kinds.items():
        begun = time.perf_counter()
        ids = published(name).encode(text, threads=1)
        assert time.perf_counter() - begun < 2, kind
        assert published(name).decode_bytes(ids) == text


def test_one_piece_of_letters_encodes_alike_in_one_call_and_after_others():
    tokenizer = published("cl100k_base")
    word = "".join(random.Random(2).choices("abcdefgh", k=200_000))
    first = tokenizer.encode(word)
    tokenizer.encode(corpus("web", 600_000))
    np.testing.assert_array_equal(tokenizer.encode(word), first)


@pytest.mark.parametrize("threads", [2, 3, 8, None])
@pytest.mark.parametrize("name", PUBLISHED)
def test_ids_do_not_depend_on_threads(name, threads):
    tokenizer = published(name)
    text = corpus("code", 3_000_000) + generated(3) + "<|endoftext|>" + corpus("web", 600_000)
    for allowed in ((), "all"):
        options = {"allowed_special": allowed, "disallowed_special": ()}
        one = tokenizer.encode(text, threads=1, **options)
        np.testing.assert_array_equal(tokenizer.encode(text, threads=threads, **options), one)
        assert tokenizer.count(text, **options) == len(one)


def test_a_batch_is_its_texts_one_by_one():
    tokenizer = published("r50k_base")
    rng, text = random.Random(4), corpus("english", 2_000_000)
    cuts = sorted(rng.sample(range(len(text)), 3000))
    texts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    texts += ["", b"\xff\xfe", "", bytearray(b"abc"), memoryview(b"def")]
    for threads in (1, 2, None):
        ids, offsets = tokenizer.encode_batch(texts, threads=threads)
        assert (ids.dtype, offsets.dtype, len(offsets)) == (np.uint32, np.uint64, len(texts) + 1)
        assert offsets[-1] == len(ids)
        for i, one in enumerate(texts):
            np.testing.assert_array_equal(ids[offsets[i] : offsets[i + 1]], tokenizer.encode(one))
    ids, offsets = tokenizer.encode_batch([])
    assert (len(ids), offsets.tolist()) == (0, [0])


def test_lists_hold_the_ids_of_arrays():
    tokenizer = published("o200k_base")
    text = corpus("multilingual", 100_000) + "<|endoftext|>"
    ids = tokenizer.encode_to_list(text, allowed_special="all")
    assert ids == tokenizer.encode(text, allowed_special="all").tolist()
    assert {type(id) for id in ids} == {int}
    texts = [text[:50], "", "<|endoftext|>", b"\xff"]
    lists = tokenizer.encode_batch_to_lists(texts, allowed_special="all")
    assert lists == [tokenizer.encode(one, allowed_special="all").tolist() for one in texts]
    with pytest.raises(UsageError, match="spells the special token"):
        tokenizer.encode_to_list(text)
    with pytest.raises(UsageError, match="a list of texts"):
        tokenizer.encode_batch_to_lists(text)


def test_equal_ids_in_lists_are_one_object_that_outlives_its_tokenizer():
    tokenizer = Tokenizer.from_merges([(104, 105), (256, 106)] + [(97, 97 + i) for i in range(300)])
    text = "a" + chr(97 + 20)
    first, second = tokenizer.encode_to_list(text * 2), tokenizer.encode_to_list(text)
    assert first[0] > 256
    assert all(id is second[0] for id in first)
    del tokenizer, first
    assert second[0] == 2 + 256 + 20


def test_a_large_array_keeps_its_ids_while_the_memory_of_others_is_used_again():
    tokenizer = Tokenizer.from_merges([(97, 98)], pattern="gpt2")
    texts = ["ab " * 400_000, "a b" * 400_000]
    kept = tokenizer.encode(texts[0])
    for _ in range(3):
        other = tokenizer.encode(texts[1])
        assert other[:6].tolist() == [97, 32, 98, 97, 32, 98]
        other[:] = 7
        again = tokenizer.encode_batch(texts[::-1])[0]
        assert again[-3:].tolist() == kept[-3:].tolist()
        del other, again
    view = kept[2:]
    del kept, tokenizer
    assert view.flags.writeable
    assert (view[::2] == 256).all()
    assert (view[1::2] == 32).all()


def test_many_python_threads_share_one_tokenizer():
    tokenizer = published("o200k_base")
    texts = [corpus("multilingual", 600_000)[i::3][:50_000] for i in range(3)]
    expected = [tokenizer.encode(text) for text in texts]
    wrong = []

    def work(seed):
        for i in range(20):
            place = (seed + i) % 3
            if not np.array_equal(tokenizer.encode(texts[place]), expected[place]):
                wrong.append(place)
            if tokenizer.encode_to_list(texts[place], threads=2) != expected[place].tolist():
                wrong.append(place)
            if tokenizer.decode(expected[place]) != texts[place]:
                wrong.append(place)
            if i % 5 == seed % 5 and tokenizer.count(texts[place]) != len(expected[place]):
                wrong.append(place)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
def test_a_forked_child_encodes_as_its_parent_does():
    tokenizer = published("r50k_base")
    text = corpus("web", 600_000)
    expected = tokenizer.encode(text)
    stop = threading.Event()

    def busy():
        while not stop.is_set():
            tokenizer.encode(text[:2000], threads=2)

    worker = threading.Thread(target=busy)
    worker.start()
    try:
        for _ in range(10):
            child = os.fork()
            if child == 0:
                same = np.array_equal(tokenizer.encode(text, threads=2), expected)
                os._exit(0 if same else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        stop.set()
        worker.join()


def test_a_tokenizer_travels_to_other_processes():
    tokenizer = Tokenizer.from_merges([(104, 105)], special_tokens=["<|endoftext|>"])
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        ids = pool.apply(tokenizer.encode, ("hi",))
    assert ids.tolist() == [256]


def test_offsets_cut_the_text_into_its_tokens():
    tokenizer = published("cl100k_base")
    text = generated(5) + "<|endoftext|>" + generated(6)
    ids, spans = tokenizer.encode_with_offsets(text, allowed_special="all")
    data = text.encode()
    assert [data[a:b] for a, b in spans.tolist()] == [tokenizer.token_bytes(id) for id in ids]
    _, characters = tokenizer.encode_with_offsets(text, unit="characters", allowed_special="all")
    for (a, b), (start, end) in zip(characters.tolist(), spans.tolist(), strict=True):
        assert data[start:end] in text[a:b].encode()
        assert len(text[a:b].encode()) - (end - start) < 8
    with pytest.raises(UsageError, match="unit='words'"):
        tokenizer.encode_with_offsets(text, unit="words")


def test_text_may_be_str_bytes_bytearray_or_memoryview():
    tokenizer, text = published("r50k_base"), "naïve 日本 text"
    data = text.encode()
    for same in (data, bytearray(data), memoryview(data), np.frombuffer(data, np.uint8)):
        np.testing.assert_array_equal(tokenizer.encode(same), tokenizer.encode(text))
    for wrong in (3, None, ["a"], object()):
        with pytest.raises(TypeError, match="text is str or bytes, not"):
            tokenizer.encode(wrong)
    with pytest.raises(UsageError, match="lone surrogate"):
        tokenizer.encode("a\ud800")


@pytest.mark.parametrize("unit", ["naïve ", "日本 text ", "a😀 "])
def test_a_large_str_has_the_ids_of_its_utf8(unit):
    tokenizer = published("o200k_base")
    for length in (1 << 14, (1 << 14) + 1, 50_000):
        text = (unit * length)[:length]
        ids = tokenizer.encode(text.encode())
        # The second time the str keeps its UTF-8.
        for _ in range(2):
            np.testing.assert_array_equal(tokenizer.encode(text), ids)
        assert tokenizer.count(text) == len(ids)
        for place in (0, length // 2, length - 1):
            with pytest.raises(UsageError, match="lone surrogate"):
                tokenizer.encode(text[:place] + "\udfff" + text[place + 1 :])


@pytest.mark.parametrize("threads", [1, 3])
def test_a_str_that_is_encoded_in_parts_has_the_ids_of_its_utf8(threads):
    tokenizer = published("o200k_base")
    text = generated(8) + "naïve 日本 text, <|endoftext|> 😀\n" * 40_000
    ids = tokenizer.encode(text.encode(), allowed_special="all")

    def fresh():
        return "".join(list(text))  # one that was never encoded has not kept its UTF-8

    def encoded(method):
        return method(fresh(), allowed_special="all", threads=threads)

    np.testing.assert_array_equal(encoded(tokenizer.encode), ids)
    assert encoded(tokenizer.encode_to_list) == ids.tolist()
    np.testing.assert_array_equal(encoded(tokenizer.encode_with_offsets)[0], ids)
    assert tokenizer.count(fresh(), allowed_special="all") == len(ids)
    place = fresh().encode().index(b"<|endoftext|>")
    with pytest.raises(UsageError, match=f"at byte {place};"):
        tokenizer.encode(fresh(), threads=threads)


def test_the_empty_text_has_no_ids():
    for tokenizer in (Tokenizer.byte(), published("r50k_base")):
        for empty in ("", b""):
            assert tokenizer.encode(empty).shape == (0,)
            assert tokenizer.count(empty) == 0
            assert tokenizer.split(empty) == []
        assert tokenizer.decode([]) == ""


def test_bytes_that_are_not_utf8_come_back():
    rng = random.Random(7)
    for _ in range(200):
        data = rng.randbytes(rng.randrange(200))
        for name in PUBLISHED:
            assert published(name).decode_bytes(published(name).encode(data)) == data


def test_a_users_regex_cuts_the_text():
    tokenizer = Tokenizer.from_merges([(97, 98), (98, 97)], pattern=r"[a-z]|\d+")
    assert tokenizer.split("ab12 c") == [b"a", b"b", b"12", b" ", b"c"]
    assert tokenizer.encode("abab").tolist() == [97, 98, 97, 98]
    assert tokenizer.pattern == r"[a-z]|\d+"
    with pytest.raises(UsageError, match=r"\("):
        Tokenizer.from_merges([], pattern="(")
    with pytest.raises(UsageError, match="gpt3"):
        Tokenizer.from_merges([], pattern="gpt3")


def test_threads_below_one_are_refused():
    with pytest.raises(UsageError, match="threads=0"):
        Tokenizer.byte().encode("a", threads=0)


@pytest.mark.parametrize(
    ("merges", "complaint"),
    [
        ([(256, 97)], "merge 0 joins 256 and 97, but ids from 256 on are not made yet"),
        ([(97, 98), (97, 98)], "stand for the same token"),
        ([(97, 98), (98, 99), (256, 99), (97, 257)], "stand for the same token"),
        ([(97, 97)] + [(256 + i, 256 + i) for i in range(40)], "bytes in all"),
    ],
)
def test_merges_that_make_no_vocabulary_are_refused(merges, complaint):
    with pytest.raises(UsageError, match=complaint):
        Tokenizer.from_merges(merges)


@pytest.mark.parametrize("pattern", ["gpt2", "none"])
def test_ctrl_c_ends_a_long_encode(tmp_path, pattern):
    """In a process of its own, whose main thread is interrupted in the middle, of one piece too."""
    import signal
    import subprocess

    script = tmp_path / "encode.py"
    script.write_text(
        "from microgpt import Tokenizer\n"
        f"tokenizer = Tokenizer.from_merges([(97, 98)], pattern='{pattern}')\n"
        "text = b'abc def ghi ' * 3_000_000\n"
        "tokenizer.encode(text[:100])\n"
        "print('ready', flush=True)\n"
        "try:\n"
        "    while True:\n"
        "        tokenizer.encode(text, threads=1)\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
    )
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.02)
    begun = time.perf_counter()
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20)[0] == "interrupted\n"
    assert time.perf_counter() - begun < 2
