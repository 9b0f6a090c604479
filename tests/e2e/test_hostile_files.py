"""Files made to do harm: each is answered by one line, soon, by the command line and the API."""

from __future__ import annotations

import base64
import json
import struct
import time

import pytest

from microgpt import Tokenizer, _core
from microgpt.errors import DataError, UsageError

RANKS = "".join(f"{base64.b64encode(bytes([byte])).decode()} {byte}\n" for byte in range(256))


def rank(token: bytes, id: int | str) -> str:
    return f"{base64.b64encode(token).decode()} {id}\n"


def tokenizer_json(**changes) -> str:
    """Returns a tokenizer.json of 256 bytes and "hi", with changes to its model."""
    file = json.loads(Tokenizer.from_merges([(104, 105)])._core.to_json())
    for name, value in changes.items():
        if isinstance(value, dict) and name == "vocab":
            file["model"][name].update(value)
        else:
            file["model"][name] = value
    return json.dumps(file)


HOSTILE = {
    "an id that claims 32 GB.tiktoken": RANKS + rank(b"hi", 2**32 - 1),
    "an id past 64 bits.tiktoken": RANKS + rank(b"hi", 10**30),
    "an id that is no number.tiktoken": RANKS + rank(b"hi", "NaN"),
    "an id twice.tiktoken": RANKS + rank(b"hi", 255),
    "a token twice.tiktoken": RANKS + rank(b"hi", 256) + rank(b"hi", 257),
    "a byte missing.tiktoken": RANKS.replace(rank(b"a", 97), ""),
    "cut off.tiktoken": RANKS[:-6],
    "a token of 100 kB that nothing makes.tiktoken": RANKS + rank(b"ab" * 50_000, 256),
    "binary.tiktoken": b"\x7fELF" + bytes(range(256)) * 64,
    "an id that claims 32 GB.json": tokenizer_json(vocab={"x y": 2**32 - 1}),
    "an id past 64 bits.json": tokenizer_json(vocab={"xy": 10**30}),
    "an id below zero.json": tokenizer_json(vocab={"xy": -1}),
    "an id that is a fraction.json": tokenizer_json(vocab={"xy": 256.5}),
    "a number that is none.json": tokenizer_json(dropout=float("nan")),
    "a number without end.json": tokenizer_json(dropout=float("inf")),
    "an id twice.json": tokenizer_json(vocab={"xy": 97}),
    "two tokens for one byte.json": tokenizer_json().replace('"b": 98', '"a": 98'),
    "a token of no bytes.json": tokenizer_json(vocab={"日本": 300}),
    "a merge of itself.json": tokenizer_json(merges=["h i", "hi hi"]),
    "a merge twice.json": tokenizer_json(merges=["h i", "h i"]),
    "a merge of nothing.json": tokenizer_json(merges=["h "]),
    "a merge without end.json": tokenizer_json(merges=["h" * 1_000_000]),
    "deep arrays.json": "[" * 1_000_000,
    "deep objects.json": '{"model":' * 200_000,
    "deep pre_tokenizer.json": '{"pre_tokenizer": ' + '{"a":' * 100_000,
    "cut off.json": tokenizer_json()[:2000],
    "no UTF-8.json": b'{"model": {"vocab": {"\xff\xfe": 1}}}',
    "a lone surrogate.json": tokenizer_json().replace('"hi"', '"\\ud800"'),
    "a regex without end.json": tokenizer_json().replace(
        '"pre_tokenizer": {',
        '"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Split", "behavior": '
        '"Isolated", "pattern": {"Regex": "' + "(" * 50_000 + '"}}, {"type": "ByteLevel", '
        '"add_prefix_space": false, "use_regex": false}]}, "unused": {',
    ),
    "a regex that claims gigabytes.json": tokenizer_json().replace(
        '"pre_tokenizer": {',
        '"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Split", "behavior": '
        '"Isolated", "pattern": {"Regex": "((a{1000}){1000}){1000}"}}, {"type": "ByteLevel", '
        '"add_prefix_space": false, "use_regex": false}]}, "unused": {',
    ),
    "empty.json": "",
    "zeros.json": bytes(100_000),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_tokenizer_is_refused_in_one_line(microgpt, name: str) -> None:
    content = HOSTILE[name]
    path = microgpt.folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    pattern = {"pattern": "gpt2"} if path.suffix == ".tiktoken" else {}
    began = time.perf_counter()
    with pytest.raises((DataError, UsageError)) as raised:
        Tokenizer.from_file(path, **pattern)
    flags = ("--pattern", "gpt2") if pattern else ()
    result = microgpt("tokenizer", "inspect", name, *flags, status=raised.value.exit_code)
    assert time.perf_counter() - began < 5
    assert result.stdout == ""
    assert result.stderr == f"error: {str(raised.value).replace(f'{microgpt.folder}/', '')}\n"
    assert len(result.stderr) < 2000


def test_gaps_between_ids_are_no_harm(tmp_path) -> None:
    (tmp_path / "x.tiktoken").write_text(RANKS + rank(b"hi", 4_000_000))
    tokenizer = Tokenizer.from_file(tmp_path / "x.tiktoken", "gpt2")
    assert tokenizer.encode("hi").tolist() == [4_000_000]
    with pytest.raises(UsageError, match="gap"):
        tokenizer.decode([3_999_999])


def test_deep_values_that_nobody_reads_are_no_harm(tmp_path) -> None:
    deep = "[" * 300_000 + "]" * 300_000
    (tmp_path / "x.json").write_text(f'{tokenizer_json()[:-1]}, "x": {deep}}}')
    assert Tokenizer.from_file(tmp_path / "x.json").encode("hi").tolist() == [256]


def test_a_chain_of_doublings_ends_before_memory_does() -> None:
    merges = [(104, 104), *((256 + step, 256 + step) for step in range(60))]
    with pytest.raises(UsageError, match="268435456 bytes"):
        Tokenizer.from_merges(merges)


SHARD = struct.pack("<3i", 20240520, 1, 2**29)


@pytest.mark.parametrize(
    "shard",
    [b"", SHARD, SHARD + bytes(1012), SHARD + bytes(1014), struct.pack("<3i", 1, -1, -1) * 400],
    ids=["empty", "cut header", "1 GB claimed", "1 id of 2^29", "foreign"],
)
def test_a_shard_that_claims_what_it_has_not_is_refused(tmp_path, shard: bytes) -> None:
    side = {"documents": 1, "text_bytes": 1, "tokens": 2**29}
    told = {"file": "train-00000.bin", "tokens": 2**29, "bytes": 2**63, "ids_sha256": "0" * 64}
    source = {"inputs": [], "text_bytes": 1, "fingerprint": "", "notes": []}
    options = {"field": "", "format": "auto", "include": [], "seed": 0, "separator": ""}
    manifest = {
        "format": "microgpt-dataset",
        "version": 2,
        "tokenizer": {"fingerprint": "", "vocab_size": 256, "end_of_text_id": None, "kind": "byte"},
        "dtype": "uint16",
        "source": source | {"options": options | {"special_tokens": [], "valid_fraction": None}},
        "split": {"seed": 0, "fraction": 0.1, "rule": "none"},
        "train": side | {"shards": [told] * 3},
        "valid": side | {"shards": []},
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "train-00000.bin").write_bytes(shard)
    with pytest.raises(DataError, match=r"train-00000\.bin: the \w+ is not what the manifest"):
        _core.verify_dataset(tmp_path, progress=None)
