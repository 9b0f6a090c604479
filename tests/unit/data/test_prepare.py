"""Making datasets, and finding those that are there."""

from __future__ import annotations

import gzip
import os
import random
from pathlib import Path

import numpy as np
import pytest

from microgpt import _core
from microgpt.data import prepare
from microgpt.data.prepare import Source, TokenizerChoice, chosen_for, find_or_make, name_for
from microgpt.data.shards import Dataset, Split
from microgpt.errors import DataError, UsageError
from microgpt.text.tokenizer import Tokenizer
from reference.dataset_split import documents_of, split_documents

SHARED = Path(__file__).parents[3] / "../shared/data"
LINES = "".join(f"{a} + {b} = {a + b};\n" for a in range(40) for b in range(40))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settled(path: str, text: str | bytes) -> str:
    """Writes a file whose time of change lies an hour back."""
    Path(path).write_bytes(text.encode() if isinstance(text, str) else text)
    past = os.stat(path).st_mtime - 3600
    os.utime(path, (past, past))
    return path


def ids_of(split: Split) -> list[int]:
    return split.read(0, split.tokens).tolist()


def without_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the input was read")

    monkeypatch.setattr(_core, "input_fingerprint", refuse)
    monkeypatch.setattr(_core, "write_dataset", refuse)


# Which tokenizer


@pytest.mark.parametrize(
    ("text_bytes", "distinct", "expected"),
    [
        (1_000, 60, ("byte", 256)),
        (1_115_390, 65, ("byte", 256)),
        (50_000_000, 15, ("byte", 256)),
        (2_000_000, 80, ("bpe", 1024)),
        (8_000_000, 80, ("bpe", 2048)),
        (54_000_000, 200, ("bpe", 4096)),
        (500_000_000, 200, ("bpe", 8192)),
        (5_000_000_000, 200, ("bpe", 16_384)),
        (50_000_000_000, 256, ("bpe", 32_768)),
    ],
)
def test_tokenizer_follows_size_and_alphabet(
    text_bytes: int, distinct: int, expected: tuple[str, int]
) -> None:
    assert chosen_for(text_bytes, distinct) == expected


def test_text_with_several_documents_gets_an_end_of_text_token() -> None:
    Path("one.txt").write_text("just a text")
    Path("two.txt").write_text("a text<|endoftext|>another")
    one = prepare.make_tokenizer(Source(("one.txt",)), TokenizerChoice())
    two = prepare.make_tokenizer(Source(("two.txt",)), TokenizerChoice())
    both = prepare.make_tokenizer(Source(("one.txt", "two.txt"), separator=""), TokenizerChoice())
    assert one.special_tokens == {}
    assert two.special_tokens == both.special_tokens == {"<|endoftext|>": 256}


def test_vocabulary_size_or_epochs_mean_bpe() -> None:
    settled("a.txt", LINES)
    source = Source(("a.txt",))
    assert prepare.make_tokenizer(source, TokenizerChoice(vocab_size=270)).vocab_size == 270
    by_epochs = prepare.make_tokenizer(source, TokenizerChoice(epochs=1))
    assert by_epochs.kind == "bpe"
    assert max(len(by_epochs.token_bytes(id)) for id in range(by_epochs.vocab_size)) == 2


def test_bpe_trains_on_the_documents_of_any_format() -> None:
    settled("a.txt", LINES)
    settled("a.txt.gz", gzip.compress(LINES.encode()))
    lines = "".join(f'{{"text": "{line};\\n"}}\n' for line in LINES.split(";\n") if line)
    settled("a.jsonl", lines)
    choice = TokenizerChoice(kind="bpe", vocab_size=300)
    plain, packed = (prepare.make_tokenizer(Source((f,)), choice) for f in ("a.txt", "a.txt.gz"))
    documents = prepare.make_tokenizer(Source(("a.jsonl",)), TokenizerChoice(vocab_size=301))
    assert plain.fingerprint == packed.fingerprint
    assert documents.merges.tolist() == plain.merges.tolist()


def test_contradicting_choices_are_refused() -> None:
    for choice in (
        {"file": "t.json", "kind": "bpe"},
        {"kind": "byte", "vocab_size": 300},
        {"vocab_size": 255},
        {"epochs": 0},
    ):
        with pytest.raises(UsageError):
            TokenizerChoice(**choice)
    with pytest.raises(UsageError, match="exclude each other"):
        TokenizerChoice.from_options({"byte": True, "bpe": True})
    with pytest.raises(UsageError, match="--vocab-size is 'many'"):
        TokenizerChoice.from_options({"vocab_size": "many"})


def test_counts_are_read_with_their_unit() -> None:
    assert [prepare.read_count("--x", t) for t in ("4096", "4k", "1M", "8_192")] == [
        4096, 4000, 1_000_000, 8192,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("dataset.txt", "dataset"),
        ("some/where/corpus.jsonl.gz", "corpus"),
        ("books/", "books"),
        ("books/*.txt", "books"),
        ("/*.txt", "dataset"),
        ("-", "stdin"),
        (".hidden", "hidden"),
    ],
)
def test_dataset_is_named_after_its_input(path: str, name: str) -> None:
    assert name_for(path) == name


# Finding and making


def test_dataset_is_made_once_and_then_found() -> None:
    path = settled("dataset.txt", LINES)
    first = find_or_make(path, {})
    assert first.folder == Path("datasets/dataset")
    written = (first.folder / "manifest.json").stat().st_mtime_ns
    second = find_or_make(path, {})
    assert second.fingerprint == first.fingerprint
    assert (second.folder / "manifest.json").stat().st_mtime_ns == written


def test_untouched_file_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    path = settled("dataset.txt", LINES)
    find_or_make(path, {})
    without_reading(monkeypatch)
    assert find_or_make(path, {}).train.tokens > 0


def test_touched_file_is_compared_by_its_content() -> None:
    path = settled("dataset.txt", LINES)
    first = find_or_make(path, {})
    os.utime(path)
    assert find_or_make(path, {}).folder == first.folder
    changed = LINES.replace("1 + 1 = 2;", "1 + 1 = 3;")
    settled(path, changed)
    assert find_or_make(path, {}).folder == Path("datasets/dataset-2")
    assert Dataset.open(first.folder).fingerprint == first.fingerprint, "the old one is kept"
    settled(path, LINES)
    assert find_or_make(path, {}).folder == first.folder


def test_same_length_and_time_but_fresh_is_not_trusted() -> None:
    Path("dataset.txt").write_text(LINES)
    dataset = find_or_make("dataset.txt", {})
    assert not (dataset.folder / prepare.SEEN_FILE).exists()


def test_dataset_of_another_name_and_split_is_found_by_content() -> None:
    path = settled("dataset.txt", LINES)
    source = Source((path,), valid_fraction=0.3, seed=5)
    made, written = prepare.prepare(source, TokenizerChoice(), Path("datasets/mine"))
    assert written
    assert find_or_make(path, {}).folder == made.folder


def test_other_tokenizer_gets_a_dataset_of_its_own() -> None:
    path = settled("dataset.txt", LINES)
    byte = find_or_make(path, {})
    bpe = find_or_make(path, {"vocab_size": "300"})
    assert bpe.folder == Path("datasets/dataset-2")
    assert bpe.manifest.tokenizer.vocab_size == 300
    assert find_or_make(path, {"byte": True}).folder == byte.folder
    assert find_or_make(path, {"bpe": True}).folder == bpe.folder
    assert find_or_make(path, {"tokenizer": str(bpe.tokenizer_path)}).folder == bpe.folder


def test_broken_dataset_is_passed_over_and_replaced() -> None:
    path = settled("dataset.txt", LINES)
    first = find_or_make(path, {})
    (first.folder / "train-00000.bin").unlink()
    assert find_or_make(path, {}).train.tokens == first.train.tokens


def test_prepare_replaces_another_dataset_only_by_force() -> None:
    path = settled("dataset.txt", LINES)
    folder = Path("datasets/d")
    prepare.prepare(Source((path,)), TokenizerChoice(), folder)
    again, written = prepare.prepare(Source((path,)), TokenizerChoice(), folder)
    assert not written
    with pytest.raises(UsageError, match="the same text with another tokenizer: --force replaces"):
        prepare.prepare(Source((path,)), TokenizerChoice(epochs=1), folder)
    with pytest.raises(UsageError, match="other text or options: --force replaces"):
        prepare.prepare(Source((path,), seed=1), TokenizerChoice(), folder)
    settled(path, "other text, long enough for a tail")
    with pytest.raises(UsageError, match="other text or options"):
        prepare.prepare(Source((path,)), TokenizerChoice(), folder)
    assert Dataset.open(folder).fingerprint == again.fingerprint
    dataset, written = prepare.prepare(Source((path,)), TokenizerChoice(), folder, force=True)
    assert written
    assert dataset.manifest.source.text_bytes == 34


def test_missing_default_input_tells_how_to_get_one() -> None:
    with pytest.raises(DataError, match=r"dummy_data/addition_dummy\.py > dataset\.txt"):
        find_or_make("dataset.txt", {})


def test_special_tokens_become_their_ids_only_where_asked() -> None:
    Path("a.txt").write_text("<|user|>hi<|endoftext|>bye<|user|>")
    choice = TokenizerChoice(special_tokens=("<|user|>",))
    plain, _ = prepare.prepare(Source(("a.txt",), valid_fraction=0), choice, Path("plain"))
    source = Source(("a.txt",), valid_fraction=0, special_tokens=("<|user|>",))
    asked, _ = prepare.prepare(source, choice, Path("asked"))
    assert ids_of(asked.train) == [256, 257, *b"hi", 256, *b"bye", 257]
    assert ids_of(plain.train) == [256, *b"<|user|>hi", 256, *b"bye<|user|>"]
    unknown = Source(("a.txt",), special_tokens=("<|x|>",))
    with pytest.raises(UsageError, match=r"has no special token '<\|x\|>'"):
        prepare.prepare(unknown, TokenizerChoice(), Path("unknown"))


# The ids


def expected_ids(
    text: bytes, tokenizer: Tokenizer, source: Source, end_of_text: list[int]
) -> tuple[list[int], list[int]]:
    documents = documents_of(text, source.separator.encode()) if source.separator else [text]
    sides = split_documents(documents, source.valid_fraction, source.seed)
    train, valid = (
        [
            id
            for document in side
            for id in end_of_text + tokenizer.encode_ordinary(document).tolist()
        ]
        for side in sides
    )
    return train, valid


@pytest.mark.parametrize(
    ("file", "separator", "vocabulary"),
    [
        ("shakespeare.txt", "<|endoftext|>", "r50k"),
        ("tinystories-train.txt", "<|endoftext|>", "cl100k"),
        ("tinystories-valid.txt", "\n\n", "o200k"),
        ("wikitext-valid.txt", " = \n", "r50k"),
        ("web.txt", "\n\n", None),
    ],
)
def test_real_text_gives_the_ids_of_its_documents(
    file: str, separator: str, vocabulary: str | None
) -> None:
    path = SHARED.resolve() / file
    if not path.exists():
        pytest.skip(f"{path} is not here")
    choice = TokenizerChoice()
    if vocabulary is not None:
        choice = TokenizerChoice(file=str(path.parent / f"openai/{vocabulary}_base.tiktoken"))
    source = Source((str(path),), separator=separator, seed=3)
    dataset, _ = prepare.prepare(source, choice, Path("d"), shard_tokens=100_000)
    tokenizer = Tokenizer.from_file(dataset.tokenizer_path)
    end_of_text = [id] if (id := dataset.manifest.tokenizer.end_of_text_id) is not None else []
    train, valid = expected_ids(path.read_bytes(), tokenizer, source, end_of_text)
    assert ids_of(dataset.train) == train
    assert ids_of(dataset.valid) == valid
    assert dataset.valid.tokens > 0


def test_documents_of_all_sizes_and_seeds_follow_the_written_rule() -> None:
    shuffle = random.Random(7)
    for trial in range(40):
        count = shuffle.choice([1, 2, 19, 20, 21, 60, 99, 100, 250])
        longest = shuffle.choice([3, 30, 300, 20_000 // count])
        words = ["a\n", "é ", "\r\n", "b", "<|endoftext|", "€"]
        documents = [
            "".join(shuffle.choices(words, k=shuffle.randint(0, longest))) for _ in range(count)
        ]
        text = "<|endoftext|>".join(documents).encode()
        if not documents_of(text, b"<|endoftext|>"):
            continue
        Path("a.txt").write_bytes(text)
        fraction = shuffle.choice([None, 0.0, 0.05, 0.2, 0.5, 0.9])
        source = Source(("a.txt",), valid_fraction=fraction, seed=trial)
        dataset, _ = prepare.prepare(source, TokenizerChoice("byte"), Path("d"), force=True)
        end_of_text = [256] if dataset.manifest.tokenizer.vocab_size == 257 else []
        train, valid = expected_ids(text, Tokenizer.byte(), source, end_of_text)
        assert ids_of(dataset.train) == train, f"trial {trial}"
        assert ids_of(dataset.valid) == valid, f"trial {trial}"


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd"])
@pytest.mark.parametrize("kind", ["string", "large_string", "binary", "dictionary"])
def test_parquet_of_pyarrow_gives_its_rows(compression: str, kind: str) -> None:
    pa = pytest.importorskip("pyarrow", reason="pyarrow writes the files")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [None if n % 7 == 0 else f"row {n % 50} é" for n in range(3_000)]
    values: object = pa.array(rows, pa.string())
    if kind == "dictionary":
        values = values.dictionary_encode()  # pyright: ignore[reportAttributeAccessIssue]
    elif kind != "string":
        values = pa.array(rows, getattr(pa, kind)())
    table = pa.table({"id": range(3_000), "body": values})
    parquet.write_table(table, "a.parquet", compression=compression, row_group_size=1_100)
    source = Source(("a.parquet",), field="body", valid_fraction=0)
    dataset, _ = prepare.prepare(source, TokenizerChoice(), Path("d"))
    assert ids_of(dataset.train) == [
        id for row in rows if row is not None for id in (256, *row.encode())
    ]


def test_parquet_with_nested_or_numeric_column_is_refused() -> None:
    pa = pytest.importorskip("pyarrow", reason="pyarrow writes the files")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.table({"text": [1, 2], "list": [["a"], ["b"]]}), "a.parquet")
    for field in ("text", "list.list.element"):
        with pytest.raises(DataError, match="must hold one string or binary a row"):
            prepare.prepare(Source(("a.parquet",), field=field), TokenizerChoice(), Path("d"))
    with pytest.raises(DataError, match=r"no column .x., but text, "):
        prepare.prepare(Source(("a.parquet",), field="x"), TokenizerChoice(), Path("d"))


def test_threads_do_not_change_a_byte() -> None:
    generator = np.random.default_rng(0)
    words = np.array(["lorem ", "ipsum ", "dolor\n", "sit ", "amet, ", "<|endoftext|>"])
    settled("a.txt", "".join(generator.choice(words, 600_000)))
    choice = TokenizerChoice(vocab_size=280)
    contents = []
    for threads in (1, 2, 7):
        folder = Path(f"d{threads}")
        prepare.prepare(Source(("a.txt",)), choice, folder, threads=threads, shard_tokens=123_456)
        names = sorted(path.name for path in folder.iterdir())
        contents.append([(name, (folder / name).read_bytes()) for name in names])
    assert contents[0] == contents[1] == contents[2]
