"""The class that users meet: its examples, its words, its copies."""

import copy
import doctest
import pickle
import subprocess
import sys
from pathlib import Path

import microgpt
from microgpt import Tokenizer
from microgpt.text import tokenizer as module

from .conftest import published


def test_the_docstrings_examples_run():
    results = doctest.testmod(module)
    assert (results.failed, results.attempted > 10) == (0, True)


def test_the_documentations_examples_run():
    path = Path(__file__).parents[3] / "docs" / "tokenizer.md"
    results = doctest.testfile(str(path), module_relative=False)
    assert (results.failed, results.attempted > 5) == (0, True)


def test_importing_microgpt_is_light():
    code = "import sys, microgpt; print({'torch', 'numpy', 'click'} & set(sys.modules))"
    printed = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert printed == "set()\n"
    code = "import sys; from microgpt import Tokenizer; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"


def test_public_names_exist():
    assert {"Tokenizer", "__version__"} <= set(dir(microgpt))
    for name in microgpt.__all__:
        assert getattr(microgpt, name) is not None


def test_repr_says_what_it_is():
    tokenizer = Tokenizer.from_merges([(104, 105)], pattern="cl100k", special_tokens=["<|x|>"])
    expected = "<Tokenizer bpe: 258 ids, pattern cl100k, special tokens: <|x|>>"
    assert repr(tokenizer) == expected


def test_copies_are_equal():
    tokenizer = published("r50k_base")
    for same in (copy.copy(tokenizer), copy.deepcopy(tokenizer)):
        assert same == tokenizer
    assert pickle.loads(pickle.dumps(tokenizer)) == tokenizer
    assert len({tokenizer, copy.copy(tokenizer)}) == 1
    assert tokenizer != Tokenizer.byte()
    assert tokenizer != 3


def test_merges_are_an_array_of_pairs():
    assert Tokenizer.byte().merges.shape == (0, 2)
    merges = published("r50k_base").merges
    assert merges.shape == (50_000, 2)
    again = Tokenizer.from_merges(Tokenizer.from_merges([(104, 105), (256, 106)]).merges)
    assert again.encode("hij").tolist() == [257]


def test_encode_file_is_encode_of_its_bytes(tmp_path):
    (tmp_path / "text").write_bytes("héllo\r\n\xff".encode("latin-1"))
    tokenizer = published("r50k_base")
    ids = tokenizer.encode_file(tmp_path / "text")
    assert ids.tolist() == tokenizer.encode((tmp_path / "text").read_bytes()).tolist()


def test_token_id_is_the_inverse_of_token_bytes():
    tokenizer = published("cl100k_base")
    assert tokenizer.token_id(tokenizer.token_bytes(4000)) == 4000
    assert tokenizer.token_id("<|endoftext|>") == 100257
    assert tokenizer.token_id(b"no such token at all") is None
