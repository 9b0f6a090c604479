"""The trainer finds exactly the merges of the definition, from files and from texts."""

import random
import signal
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microgpt import Tokenizer
from microgpt.errors import DataError, UsageError
from reference.training import TIES, train

SPECIAL = "<|endoftext|>"


def merges_of(tokenizer):
    return [tuple(pair) for pair in tokenizer.merges.tolist()]


def pieces_of(text, pattern="gpt2"):
    return Tokenizer.from_merges([], pattern=pattern).split(text)


def text_of(seed, words=400):
    """Words over few letters, so that pairs overlap, repeat and tie."""
    rng = random.Random(seed)
    return "".join(
        rng.choice([" ", "\n", "é", ". "]) + "".join(rng.choices("aabé", k=rng.randrange(9)))
        for _ in range(words)
    )


@pytest.mark.parametrize("tie", TIES)
@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "none", r"\w+|\W+"])
def test_merges_are_those_of_the_definition(tie, pattern):
    for seed in range(4):
        text = text_of(seed)
        found = Tokenizer.train_from_iterator([text], vocab_size=340, pattern=pattern, tie=tie)
        assert merges_of(found) == train(pieces_of(text, pattern), 84, tie)


@settings(deadline=None, max_examples=60)
@given(text=st.binary(min_size=1, max_size=200) | st.text("ab \n", min_size=1, max_size=200))
@pytest.mark.parametrize("tie", TIES)
def test_merges_of_any_bytes_are_those_of_the_definition(tie, text):
    found = Tokenizer.train_from_iterator([text], vocab_size=10_000, tie=tie)
    assert merges_of(found) == train(pieces_of(text), 10_000, tie)


@pytest.mark.parametrize("epochs", [1, 2, 3, 7])
def test_epochs_are_those_of_the_definition_and_a_prefix(epochs):
    text = text_of(5)
    found = merges_of(Tokenizer.train_from_iterator([text], epochs=epochs))
    assert found == train(pieces_of(text), 10_000, epochs=epochs)
    whole = merges_of(Tokenizer.train_from_iterator([text], vocab_size=10_000))
    assert found == whole[: len(found)]
    assert 0 < len(found) < len(whole)


def test_the_vocabulary_counts_bytes_merges_and_special_tokens():
    text = text_of(1)
    found = Tokenizer.train_from_iterator([text], vocab_size=300, special_tokens=[SPECIAL, "<|b|>"])
    assert found.vocab_size == 300
    assert found.special_tokens == {SPECIAL: 298, "<|b|>": 299}
    assert merges_of(found) == train(pieces_of(text), 42)


def test_vocab_size_stops_epochs():
    assert Tokenizer.train_from_iterator(["the cat"], vocab_size=258, epochs=9).vocab_size == 258


def test_training_ends_early_where_the_text_gives_no_more_pairs():
    assert merges_of(Tokenizer.train_from_iterator(["abcd"], vocab_size=1000)) == [
        (97, 98),
        (99, 100),
        (256, 257),
    ]


def test_special_tokens_cut_the_text_and_are_not_counted():
    text = f"ab{SPECIAL}ab{SPECIAL}{SPECIAL}cd"
    found = Tokenizer.train_from_iterator([text], vocab_size=1000, special_tokens=[SPECIAL])
    assert merges_of(found) == [(97, 98), (99, 100)]


@pytest.fixture
def folder(tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.txt").write_text(text_of(number), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("tie", ["ids", "hf", "lexical"])
def test_neither_threads_nor_the_order_of_files_nor_their_parting_matter(folder, tie):
    files = sorted(folder.iterdir())
    texts = [file.read_bytes() for file in files]
    settings = {"vocab_size": 500, "tie": tie}
    expected = Tokenizer.train(files, **settings).merges.tolist()
    for threads in (1, 2, 3):
        found = Tokenizer.train(files[::-1], threads=threads, **settings)
        assert found.merges.tolist() == expected
        found = Tokenizer.train_from_iterator(iter(texts), threads=threads, **settings)
        assert found.merges.tolist() == expected


def test_the_rule_first_reads_files_in_their_order_for_any_number_of_threads(folder):
    files = sorted(folder.iterdir())
    pieces = [piece for file in files for piece in pieces_of(file.read_bytes())]
    for threads in (1, 2, 3):
        found = Tokenizer.train(files, vocab_size=320, tie="first", threads=threads)
        assert merges_of(found) == train(pieces, 64, "first")


def test_texts_are_strings_or_bytes_and_pieces_do_not_cross_them():
    assert merges_of(Tokenizer.train_from_iterator(["ab", b"ab", "cd"], vocab_size=258)) == [
        (97, 98),
        (99, 100),
    ]


def random_letters(number):
    return "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz", k=number))


UNCUT = {
    "one letter": "a" * (1 << 20),
    "letters": random_letters(1 << 20),
    "spaces": " " * (1 << 20),
    "digits": "".join(random.Random(2).choices("0123456789", k=1 << 20)),
    "two letters": " x" * (1 << 19),
}


@pytest.mark.parametrize("kind", UNCUT)
@pytest.mark.parametrize("pattern", ["gpt2", "none"])
def test_a_megabyte_without_a_place_to_cut_trains_alike_on_any_number_of_threads(kind, pattern):
    text = UNCUT[kind]
    one, two = (
        Tokenizer.train_from_iterator([text], vocab_size=32_768, pattern=pattern, threads=threads)
        for threads in (1, 2)
    )
    assert one == two
    assert one.decode(one.encode(text[:1000])) == text[:1000]


def test_progress_is_told_from_the_calling_thread(folder):
    heard = []

    def hear(stage, done, total, pieces):
        heard.append(stage)
        assert pieces == 1 or (stage, pieces) == ("count", 0)
        assert threading.get_ident() == here
        assert total == {"count": 0, "merge": 60_000 - 256}[stage]
        assert done <= (total or len(text))

    here, text = threading.get_ident(), random_letters(3 << 20)
    Tokenizer.train_from_iterator([text], vocab_size=60_000, progress=hear)
    assert "merge" in heard


def test_an_error_from_progress_ends_the_training():
    def refuse(*told):
        raise RuntimeError("enough")

    text = random_letters(3 << 20)
    with pytest.raises(RuntimeError, match="enough"):
        Tokenizer.train_from_iterator([text], vocab_size=60_000, progress=refuse)


def test_an_error_from_the_texts_ends_the_training():
    def texts():
        yield "some text"
        raise OSError("the connection broke")

    with pytest.raises(OSError, match="the connection broke"):
        Tokenizer.train_from_iterator(texts(), vocab_size=300)


def numbers(seed, count):
    """Words that hardly ever repeat."""
    words = random.Random(seed).randbytes(8 * count).hex(" ", 8)
    return words.encode()


CASES_OF_CTRL_C = {
    "counting": ({"memory": None}, lambda: [numbers(0, 100_000)] * 200),
    "counting to disk": ({"memory": 4 << 20}, lambda: [numbers(n, 100_000) for n in range(100)]),
    "merging": ({"pattern": "none"}, lambda: [random_letters(8 << 20)]),
    "merging by first": ({"pattern": "none", "tie": "first"}, lambda: [random_letters(8 << 20)]),
}


@pytest.mark.parametrize("case", CASES_OF_CTRL_C)
def test_ctrl_c_ends_the_training_at_once(case):
    settings, make = CASES_OF_CTRL_C[case]
    texts, pressed = make(), []

    def press():
        pressed.append(time.monotonic())
        signal.raise_signal(signal.SIGINT)

    timer = threading.Timer(0.2, press)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        Tokenizer.train_from_iterator(texts, vocab_size=1_000_000, **settings)
    # A tenth of a second on a machine that does nothing else.
    assert time.monotonic() - pressed[0] < 0.5
    timer.join()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"vocab_size": 255}, "vocab_size is 255"),
        ({"vocab_size": 256, "special_tokens": ["<|x|>"]}, "257"),
        ({"epochs": 0}, "epochs is 0"),
        ({}, "vocab_size, epochs or both"),
        ({"vocab_size": 300, "tie": "lex"}, "ids, hf, lexical, first"),
        ({"vocab_size": 300, "special_tokens": [""]}, "special token"),
        ({"vocab_size": 300, "threads": 0}, "threads"),
        ({"vocab_size": 300, "memory": 0}, "memory=0 is no number of bytes"),
        ({"vocab_size": 300, "memory": 1 << 20, "threads": 2}, "2 threads take at least 2 MiB"),
    ],
)
def test_what_cannot_be_trained_to_is_refused_before_any_text_is_read(settings, sentence):
    def texts():
        raise AssertionError("text was read")
        yield

    with pytest.raises(UsageError, match=sentence):
        Tokenizer.train_from_iterator(texts(), **settings)


def test_no_text_is_a_data_error(tmp_path):
    empty = tmp_path / "empty.txt"
    empty.touch()
    with pytest.raises(DataError, match=r"empty\.txt"):
        Tokenizer.train(empty, vocab_size=300)
    for texts in ([], [""], [SPECIAL]):
        with pytest.raises(DataError, match="no text"):
            Tokenizer.train_from_iterator(texts, vocab_size=300, special_tokens=[SPECIAL])
    with pytest.raises(UsageError, match="no file"):
        Tokenizer.train([], vocab_size=300)


def test_files_that_cannot_be_read_are_named(tmp_path):
    for path in (tmp_path / "missing.txt", tmp_path):
        with pytest.raises(OSError, match=path.name):
            Tokenizer.train(path, vocab_size=300)
