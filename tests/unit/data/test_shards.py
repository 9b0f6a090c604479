"""Reading dataset folders and shards."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from microgpt.data.shards import Dataset, Split
from microgpt.errors import DataError
from reference.dataset_folder import shard_bytes, write_dataset_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_dataset_folder(tmp_path / "toy", list(range(100, 123)), [7, 8, 9], shard_tokens=10)


def test_open_dataset_tells_what_the_manifest_tells(folder: Path) -> None:
    dataset = Dataset.open(folder)
    assert dataset.train.tokens == 23
    assert dataset.valid.tokens == 3
    assert dataset.manifest.tokenizer.vocab_size == 256
    assert [shard.file for shard in dataset.manifest.train.shards] == [
        "train-00000.bin", "train-00001.bin", "train-00002.bin",
    ]  # fmt: skip
    assert dataset.tokenizer_path == folder / "tokenizer.json"
    assert len(dataset.fingerprint) == 64


def test_every_range_reads_the_same_across_shard_edges(folder: Path) -> None:
    split = Dataset.open(folder).train
    for start in range(24):
        for end in range(start, 24):
            ids = split.read(start, end - start)
            assert ids.dtype == np.uint16
            assert ids.tolist() == list(range(100, 123))[start:end]


def test_range_outside_the_split_is_refused(folder: Path) -> None:
    split = Dataset.open(folder).train
    for start, length in ((-1, 2), (20, 4), (0, -1), (24, 0)):
        with pytest.raises(IndexError, match="split of 23 ids"):
            split.read(start, length)


def test_ids_are_read_only(folder: Path) -> None:
    ids = Dataset.open(folder).train.read(0, 5)
    with pytest.raises(ValueError, match="read-only"):
        ids[0] = 1


def test_large_vocabulary_reads_as_uint32(tmp_path: Path) -> None:
    ids = [0, 65_535, 65_536, 199_999]
    dataset = Dataset.open(write_dataset_folder(tmp_path / "big", ids, [], vocab_size=200_000))
    assert dataset.train.dtype == np.uint32
    assert dataset.train.read(0, 4).tolist() == ids


def test_missing_validation_set_is_an_empty_split(tmp_path: Path) -> None:
    valid = Dataset.open(write_dataset_folder(tmp_path / "d", [1, 2], [])).valid
    assert valid.tokens == 0
    assert valid.read(0, 0).tolist() == []


def test_headerless_nanogpt_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "train.bin"
    np.array([5, 50_256, 7], "<u2").tofile(path)
    assert Split.from_files([path]).read(0, 3).tolist() == [5, 50_256, 7]


def test_split_survives_pickling_for_worker_processes(folder: Path) -> None:
    split = Dataset.open(folder).train
    split.read(0, 23)
    assert pickle.loads(pickle.dumps(split)).read(5, 10).tolist() == list(range(105, 115))


def test_folder_without_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is no dataset: it has no manifest\.json"):
        Dataset.open(tmp_path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is no JSON"),
        ("[]", "is no manifest"),
        ('{"format": "parquet"}', "is no manifest"),
        ('{"format": "microgpt-dataset", "version": 1}', "has version 1, but this program reads"),
        ('{"format": "microgpt-dataset", "version": 2}', "is malformed at 'tokenizer'"),
    ],
)
def test_foreign_manifest_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=sentence):
        Dataset.open(tmp_path)


def test_torn_shard_is_refused(folder: Path) -> None:
    shard = folder / "train-00001.bin"
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(DataError, match=r"train-00001\.bin is torn: its header tells of 10 ids"):
        Dataset.open(folder)


def test_lost_shard_is_named(folder: Path) -> None:
    (folder / "train-00002.bin").unlink()
    with pytest.raises(DataError, match=r"cannot read shard .*train-00002\.bin"):
        Dataset.open(folder)


def test_shard_of_another_dataset_is_refused(folder: Path) -> None:
    (folder / "valid-00000.bin").write_bytes(shard_bytes([1, 2], "uint16"))
    with pytest.raises(DataError, match="holds 2 uint16 ids, but the manifest tells of 3 uint16"):
        Dataset.open(folder)


def test_manifest_with_another_sum_is_refused(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["train"]["tokens"] = 24
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="tells of 24 ids, but its shards hold 23"):
        Dataset.open(folder)


def test_shards_of_different_width_do_not_mix(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(shard_bytes([1], "uint16"))
    (tmp_path / "b.bin").write_bytes(shard_bytes([1], "uint32"))
    with pytest.raises(DataError, match="they are not of one dataset"):
        Split.from_files([tmp_path / "a.bin", tmp_path / "b.bin"])


def test_odd_headerless_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"abc")
    with pytest.raises(DataError, match="no header, and an odd length of 3 bytes"):
        Split.from_files([tmp_path / "a.bin"])
