"""A saved tokenizer.json gives the same ids in Hugging Face's library, special tokens included."""

import json

import numpy as np
import pytest

from microgpt import Tokenizer

from .conftest import CORPORA, PUBLISHED, corpus, data_file, generated, published

tokenizers = pytest.importorskip("tokenizers")


@pytest.fixture(scope="module", params=PUBLISHED)
def pair(request, tmp_path_factory):
    """Ours, and theirs from the file that ours wrote."""
    path = tmp_path_factory.mktemp("saved") / "tokenizer.json"
    ours = published(request.param)
    ours.save(path)
    return ours, tokenizers.Tokenizer.from_file(str(path)), path


def assert_equal(ours, theirs, text):
    theirs_ids = theirs.encode(text, add_special_tokens=False).ids
    np.testing.assert_array_equal(ours.encode(text, allowed_special="all"), theirs_ids)


def test_saved_vocabularies_give_the_same_ids(pair):
    ours, theirs, _ = pair
    for name in CORPORA:
        assert_equal(ours, theirs, corpus(name, 600_000)[:100_000])
    for seed in range(40):
        assert_equal(ours, theirs, generated(seed))
    assert_equal(ours, theirs, "a<|endoftext|> b<|endoftext|><|endoftext|>")
    assert theirs.get_vocab_size(with_added_tokens=True) <= ours.vocab_size


def test_a_saved_vocabulary_loads_equal(pair):
    ours, _, path = pair
    again = Tokenizer.from_file(path)
    assert again == ours
    assert again.fingerprint == ours.fingerprint
    assert again.special_tokens == ours.special_tokens
    np.testing.assert_array_equal(again.merges, ours.merges)


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "o200k", "llama3", "qwen2", "none"])
def test_every_pattern_is_written_so_that_huggingface_cuts_alike(pattern, tmp_path):
    # One merge a pair of white space makes every cut visible in the ids.
    spaces = [(32, 32), (10, 10), (32, 10), (10, 32), (97, 98), (49, 49), (256, 256), (257, 257)]
    ours = Tokenizer.from_merges(spaces, pattern=pattern, special_tokens=["<|s|>"])
    ours.save(tmp_path / "tokenizer.json")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert Tokenizer.from_file(tmp_path).pattern == pattern
    for seed in range(60):
        assert_equal(ours, theirs, generated(seed))
    for tail in (" ", "\n", "\n\n  ", "  \n", " \n \n", "a \n", "11 1111\n\n\n"):
        assert_equal(ours, theirs, "ab " + tail)
        assert_equal(ours, theirs, tail + "ab")


def test_a_byte_tokenizer_loads_in_huggingface(tmp_path):
    ours = Tokenizer.byte(special_tokens=["<|endoftext|>"])
    ours.save(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert_equal(ours, theirs, "héllo <|endoftext|>\n")
    again = Tokenizer.from_file(tmp_path)
    assert (again.kind, again) == ("byte", ours)


def test_what_huggingface_trains_encodes_alike(tmp_path):
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=2000,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>", "</s>"],
        show_progress=False,
    )
    theirs.train_from_iterator([corpus("shakespeare", 200_000)], trainer)
    theirs.add_tokens(["Juliet", "  "])
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = Tokenizer.from_huggingface(tmp_path)
    assert ours.vocab_size == theirs.get_vocab_size()
    for text in ("shakespeare", "web"):
        assert_equal(ours, theirs, corpus(text, 600_000)[:100_000] + " </s>Juliet's  x<s>")
    # Ordinary added tokens are found whatever the caller allows, as there.
    assert ours.token_id("Juliet") in ours.encode("O Juliet!")


def test_ignore_merges_is_honoured(tmp_path):
    published("r50k_base").save(tmp_path / "tokenizer.json")
    saved = json.loads((tmp_path / "tokenizer.json").read_text())
    # " hello" loses its merges: only a lookup of the whole piece still finds it.
    merges = saved["model"]["merges"]
    saved["model"]["merges"] = [one for one in merges if "".join(one.split()) != "Ġhello"]
    for ignore, count in ((False, 2), (True, 1)):
        saved["model"]["ignore_merges"] = ignore
        (tmp_path / "tokenizer.json").write_text(json.dumps(saved))
        ours = Tokenizer.from_file(tmp_path)
        theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        assert len(ours.encode(" hello")) == count
        for text in (" hello hello", generated(1), corpus("shakespeare", 50_000)):
            assert_equal(ours, theirs, text)


def test_gpt2s_own_files_are_r50k():
    files = data_file("openai/encoder.json"), data_file("openai/vocab.bpe")
    ours = Tokenizer.from_gpt2(*files)
    assert ours.special_tokens == {"<|endoftext|>": 50256}
    assert ours == published("r50k_base")
