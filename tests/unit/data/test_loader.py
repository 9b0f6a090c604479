"""Rows are a pure function of (seed, step), and an epoch reads each window once."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from microgpt.config import IGNORED
from microgpt.data.loader import Ahead, ArrayIds, LineRules, Loader, shuffled
from microgpt.data.shards import Split
from microgpt.errors import DataError
from reference.dataset_folder import write_split


def split_of(tmp_path: Path, ids, shard_tokens: int = 1000) -> Split:
    files = write_split(tmp_path, "train", list(ids), "uint16", shard_tokens)
    return Split.from_files([tmp_path / file["file"] for file in files])


@given(count=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
def test_shuffled_is_a_permutation(count, key):
    keys = np.full(count, key, np.uint64)
    places = shuffled(np.arange(count, dtype=np.uint64), count, keys)
    assert sorted(places.tolist()) == list(range(count))


def test_shuffled_differs_by_key_and_leaves_little_in_place():
    indices = np.arange(10_000, dtype=np.uint64)
    one = shuffled(indices, 10_000, np.full(10_000, 1, np.uint64))
    two = shuffled(indices, 10_000, np.full(10_000, 2, np.uint64))
    for places in (one, two):
        assert (places == indices).sum() < 20
        neighbours = np.abs(np.diff(places.astype(np.int64)))
        assert 3000 < neighbours.mean() < 3700  # a third of the range
    assert (one == two).sum() < 20


def test_an_epoch_reads_each_window_once_and_targets_follow_inputs(tmp_path):
    split = split_of(tmp_path, range(5000))
    loader = Loader(split, context=16, batch_rows=8, seed=3)
    steps = loader.rows_per_epoch // 8
    starts = []
    for step in range(steps):
        inputs, targets = loader.batch(step)
        assert (inputs[:, 1:] == targets[:, :-1]).all()
        assert (targets[:, -1] == inputs[:, -1] + 1).all()
        starts.extend(inputs[:, 0].tolist())
    assert len(set(starts)) == steps * 8
    assert len({start % 16 for start in starts}) == 1
    assert starts != sorted(starts)


def test_epochs_cut_at_different_places_in_different_orders(tmp_path):
    split = split_of(tmp_path, range(5000))
    loader = Loader(split, context=16, batch_rows=loader_rows(split, 16), seed=0)
    epochs = [loader.batch(step)[0][:, 0] for step in range(6)]
    assert len({int(starts[0]) % 16 for starts in epochs}) > 2
    assert len({tuple((starts // 16).tolist()) for starts in epochs}) == 6


def loader_rows(split: Split, context: int) -> int:
    return Loader(split, context, 1, 0).rows_per_epoch


def test_a_batch_depends_on_seed_and_step_alone(tmp_path):
    split = split_of(tmp_path, np.random.default_rng(0).integers(0, 256, 3000))
    ahead = Loader(split, context=8, batch_rows=4, seed=5)
    for step in range(300):
        ahead.batch(step)
    fresh = Loader(split, context=8, batch_rows=4, seed=5)
    for step in (299, 0, 150):
        for left, right in zip(ahead.batch(step), fresh.batch(step), strict=True):
            assert (left == right).all()
    other = Loader(split, context=8, batch_rows=4, seed=6)
    assert (other.batch(0)[0] != fresh.batch(0)[0]).any()


def test_batch_size_changes_the_cut_but_not_the_order_of_rows(tmp_path):
    split = split_of(tmp_path, range(3000))
    by_four = Loader(split, 8, 4, 1)
    by_six = Loader(split, 8, 6, 1)
    one = np.concatenate([by_four.batch(step)[0] for step in range(300)])
    two = np.concatenate([by_six.batch(step)[0] for step in range(200)])
    assert (one == two).all()


@pytest.mark.parametrize("tokens", [9, 10, 17, 18, 25])
def test_data_barely_longer_than_the_context_gives_rows_of_all_its_places(tmp_path, tokens):
    loader = Loader(split_of(tmp_path, range(tokens)), context=8, batch_rows=4, seed=0)
    seen = set()
    for step in range(200):
        seen |= set(loader.batch(step)[1].flat)
    assert seen == set(range(1, tokens))


def test_data_shorter_than_a_row_is_refused(tmp_path):
    with pytest.raises(DataError, match="has 8 tokens, but a row of context 8 takes 9"):
        Loader(split_of(tmp_path, range(8)), context=8, batch_rows=1, seed=0)


def sums() -> bytes:
    return b"".join(b"%d + %d = %d;\n" % (a, b, a + b) for a in range(12) for b in range(12))


def table(byte: int) -> np.ndarray:
    found = np.zeros(256, bool)
    found[byte] = True
    return found


def test_aligned_rows_begin_with_line_ends_and_miss_no_line(tmp_path):
    text = b"\n" + sums()
    loader = Loader(split_of(tmp_path, text), 32, 4, 0, LineRules(ends=table(10), align=True))
    lines = set()
    for step in range(120):
        for row in loader.batch(step)[0]:
            start = text.find(bytes(row.astype(np.uint8)))
            assert text[start] == 10
            lines.update(text[start + 1 : start + 33].split(b"\n")[:-1])
    assert lines == set(text.splitlines()[1:-1])  # no row can begin so late that it ends the text


def test_aligned_rows_begin_as_texts_do_where_the_tokenizer_marks_that(tmp_path):
    rules = LineRules(ends=table(10), align=True, begin=0)
    loader = Loader(split_of(tmp_path, b"\0" + sums()), 32, 4, 0, rules)
    for step in range(20):
        inputs, targets = loader.batch(step)
        assert (inputs[:, 0] == 0).all()
        assert (inputs[:, 1:] == targets[:, :-1]).all()


def test_a_line_longer_than_the_context_is_read_to_its_end(tmp_path):
    text = bytes(range(32, 120)) + b"\n" + b"b" * 40
    loader = Loader(split_of(tmp_path, text), 8, 4, 0, LineRules(ends=table(10), align=True))
    seen = set()
    for step in range(100):
        seen |= set(loader.batch(step)[1].flat)
    assert set(range(33, 120)) <= seen


def test_only_what_follows_the_mark_is_a_target(tmp_path):
    rules = LineRules(ends=table(10), align=True, marks=table(ord("=")))
    loader = Loader(split_of(tmp_path, b"1+1=2;\n3+4=7;\n9"), 14, 1, 0, rules)
    inputs, targets = loader.batch(0)
    assert bytes(inputs[0].astype(np.uint8)) == b"1+1=2;\n3+4=7;\n"
    shown = "".join("." if t == IGNORED else chr(t) for t in targets[0])
    assert shown == "...2;\n....7;\n."


def test_batches_made_ahead_are_the_loaders_own_in_any_order():
    loader = Loader(ArrayIds(np.arange(5000)), 16, 4, 1)
    ahead = Ahead(Loader(ArrayIds(np.arange(5000)), 16, 4, 1))
    for step in (0, 1, 2, 2000, 2001, 1, 2):
        for found, expected in zip(ahead.batch(step), loader.batch(step), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_what_goes_wrong_ahead_is_raised_where_the_batch_is_asked_for():
    class Broken(Loader):
        def batch(self, step):
            if step == 1:
                raise OSError("gone")
            return super().batch(step)

    ahead = Ahead(Broken(ArrayIds(np.arange(500)), 16, 4, 1))
    ahead.batch(0)
    with pytest.raises(OSError, match="gone"):
        ahead.batch(1)
