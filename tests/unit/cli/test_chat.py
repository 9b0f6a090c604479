"""What a person types and what comes back, with a small model that was never trained."""

import os
import signal
import sys
import threading
from pathlib import Path

import pytest
import torch

from microgpt.cli import chat as chat_module
from microgpt.cli.chat import HELP, Chat
from microgpt.cli.sampling_options import is_alike_lines, unescaped
from microgpt.config import ModelConfig, RunConfig
from microgpt.inference.generate import Limits
from microgpt.inference.sampling import Sampling
from microgpt.inference.session import Loaded, Session
from microgpt.model import GPT
from microgpt.run_folder import Checkpoint, RunFolder
from reference.tiny_tokenizer import TinyTokenizer

CONFIG = ModelConfig(vocab_size=256, context=32, n_layer=1, n_head=2, n_embd=16, head_bias=True)


@pytest.fixture
def talk():
    torch.manual_seed(0)
    model = GPT(CONFIG)
    with torch.no_grad():
        model.head.weight.normal_()
        model.head.bias[:97] = model.head.bias[123:] = -100  # lower-case letters alone
    checkpoint = Checkpoint(Path("x"), {"step": 1500, "best": {"step": 1500, "valid_loss": 0.6512}})
    loaded = Loaded(
        Session(model, TinyTokenizer()), RunFolder(Path("sums")), RunConfig(CONFIG), checkpoint
    )
    return Chat(loaded, Sampling(), Limits(length=12), seed=1)


def said(talk, capsys, line):
    """What the line brings: (the model's text, notes)."""
    capsys.readouterr()
    talk.answer(line)
    captured = capsys.readouterr()
    return captured.out, captured.err


def test_banner_says_who_speaks_and_when_it_stops(talk):
    talk.set_limits(stop=("\n",))
    banner = talk.banner()
    assert "sums · 11,840 parameters · step 1,500 · validation loss 0.6512 · context 32" in banner
    assert "up to the end of the line or 12 tokens" in banner


def test_a_line_is_a_new_text_and_enter_goes_on(talk, capsys):
    first, _ = said(talk, capsys, "ab")
    assert talk.session.text == "ab" + first.removesuffix("\n")
    more, _ = said(talk, capsys, "")
    assert talk.session.text == "ab" + (first + more).replace("\n", "")
    assert len(talk.session.text) == 26
    said(talk, capsys, "cd")
    assert talk.session.text.startswith("cd")


def test_keep_goes_on_from_the_text_so_far(talk, capsys):
    said(talk, capsys, "ab")
    before = talk.session.text
    said(talk, capsys, "/keep")
    said(talk, capsys, "cd")
    assert talk.session.text.startswith(before + "cd")


def test_the_same_seed_gives_the_same_reply(talk, capsys):
    replies = []
    for _ in range(2):
        said(talk, capsys, "/seed 5")
        replies.append(said(talk, capsys, "ab")[0])
    assert replies[0] == replies[1] != said(talk, capsys, "ab")[0]


@pytest.mark.parametrize(
    ("line", "note", "attribute", "value"),
    [
        ("/temperature 0.5", "temperature is 0.5", "sampling.temperature", 0.5),
        ("/top-k 7", "top-k is 7", "sampling.top_k", 7),
        ("/top-k off", "top-k is off", "sampling.top_k", None),
        ("/top-p off", "top-p is off", "sampling.top_p", None),
        ("/min-p 0.05", "min-p is 0.05", "sampling.min_p", 0.05),
        ("/length 3", "length is 3", "limits.length", 3),
        (r"/stop ;\n", r"stop is ';\n'", "limits.stop", (";\n",)),
        ("/stop off", "stop is off", "limits.stop", ()),
        ("/seed 9", "seed is 9", "seed", 9),
        ("/temperature", "temperature is 0.8", "sampling.temperature", 0.8),
    ],
)
def test_commands_change_settings_and_say_so(talk, capsys, line, note, attribute, value):
    out, notes = said(talk, capsys, line)
    assert (out, notes) == ("", note + "\n")
    found = talk
    for name in attribute.split("."):
        found = getattr(found, name)
    assert found == value


@pytest.mark.parametrize(
    ("line", "note"),
    [
        ("/temperature hot", "/temperature takes a number, not 'hot'"),
        ("/temperature -1", "temperature is -1.0, but must lie in 0..100"),
        ("/top-k 0", "top-k is 0, but must be at least 1"),
        ("/top-p 2", "top-p is 2.0, but must lie in (0, 1]"),
        ("/length many", "/length takes a whole number, not 'many'"),
        ("/probs 0", "/probs shows at least 1 token, not 0"),
        ("/temprature 1", "no command /temprature: did you mean /temperature?"),
        ("/xyz", "no command /xyz: /help lists the commands"),
    ],
)
def test_a_bad_command_is_a_sentence_and_changes_nothing(talk, capsys, line, note):
    before = (talk.sampling, talk.limits, talk.seed)
    out, notes = said(talk, capsys, line)
    assert out == ""
    assert note in notes
    assert (talk.sampling, talk.limits, talk.seed) == before


def test_probs_lists_the_likeliest_tokens_after_the_text(talk, capsys):
    assert said(talk, capsys, "/text ab") == ("", "")
    out, _ = said(talk, capsys, "/probs 3")
    likeliest = talk.session.likely(3)
    assert len(out.splitlines()) == 3
    for line, likely in zip(out.splitlines(), likeliest, strict=True):
        assert line.startswith(f"{100 * likely.probability:6.2f} %")
    assert said(talk, capsys, "/text")[0] == "ab\n"


def test_a_slash_in_text_is_no_command(talk, capsys):
    for line in ("// a comment", "/usr/bin", "/ 2"):
        said(talk, capsys, line)
        assert talk.session.text.startswith(line)


def test_a_text_longer_than_the_context_says_so_once(talk, capsys):
    talk.set_limits(length=40)
    _, notes = said(talk, capsys, "ab")
    assert "longer than the context of 32 tokens: the model sees its last 16 to 32" in notes
    assert "longer than the context" not in said(talk, capsys, "")[1]


def test_help_names_every_command_and_each_one_works(talk, capsys):
    _, notes = said(talk, capsys, "/help")
    assert all(f"/{name}" in notes for name in HELP)
    for name in HELP.keys() - {"quit"}:
        assert talk.answer(f"/{name}")
    assert not talk.answer("/quit")
    assert "no command" not in capsys.readouterr().err


def test_ctrl_c_stops_a_reply_and_stays(talk, capsys):
    talk.set_limits(length=1_000_000)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    _, notes = said(talk, capsys, "ab")
    assert "[stopped; Enter goes on]" in notes
    talk.set_limits(length=2)
    assert talk.answer("")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_lines_of_a_pipe_are_read_without_a_terminal(monkeypatch):
    read, write = os.pipe()
    os.write(write, b"one\n\n two")
    os.close(write)
    with os.fdopen(read) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert list(chat_module._lines(False)) == ["one", "", " two"]


def test_escapes_are_read():
    assert unescaped(r"a\n\t\\n\x") == "a\n\t\\n\\x"
    assert unescaped("end\\") == "end\\"


def test_lines_that_stand_alone_are_told_from_prose_and_code():
    sums = "".join(f"{a} + {b} = {a + b};\n" for a in range(9) for b in range(9))
    assert is_alike_lines(sums)
    assert not is_alike_lines("First Citizen:\nBefore we go on, hear me.\n\nAll:\nSpeak!\n" * 20)
    assert not is_alike_lines("def f(x):\n    return x + 1\n\n\n" * 20)
    assert not is_alike_lines("one;\ntwo;\n")
    assert not is_alike_lines("")
    assert not is_alike_lines("a@@b##c$$d%%e^^f@@" * 100)
    assert not is_alike_lines(("x" * 200 + ";\n") * 30)
