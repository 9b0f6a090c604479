"""Streams against the whole text, stops, and the window when the context is full."""

import dataclasses

import pytest
import torch

from microgpt.config import ModelConfig
from microgpt.errors import UsageError
from microgpt.inference.decoder import Decoder
from microgpt.inference.generate import Limits, StopGate, TextStream, stream
from microgpt.inference.sampling import Sampling, new_generator
from microgpt.model import GPT
from reference.tiny_tokenizer import TinyTokenizer

CONFIG = ModelConfig(vocab_size=256, context=16, n_layer=1, n_head=2, n_embd=16)
GREEDY = Sampling(temperature=0)


class Scripted:
    """Stands where a decoder does; after each id its logits ask for the next of a script."""

    def __init__(self, ids, vocab=256):
        self.script, self.vocab, self.ids = list(ids), vocab, []

    @property
    def logits(self):
        logits = torch.zeros(self.vocab)
        logits[self.script[len(self.ids)]] = 50.0
        return logits

    def feed(self, ids):
        self.ids.extend(ids)


def replay(data, limits, tokenizer=None, **more):
    tokenizer = tokenizer or TinyTokenizer()
    decoder = Scripted(data, tokenizer.vocab_size)
    pieces = stream(
        decoder, TextStream(tokenizer.token_bytes), GREEDY, limits, new_generator(0), **more
    )
    return list(pieces), decoder


def test_no_piece_ends_inside_a_character():
    text = "aé漢🙂b"
    pieces, _ = replay(text.encode(), Limits(length=len(text.encode())))
    assert "".join(piece.text for piece in pieces) == text
    assert [piece.text for piece in pieces] == ["a", "", "é", "", "", "漢", "", "", "", "🙂", "b"]
    assert pieces[-1].ending == "length"


def test_a_character_cut_by_the_length_is_marked_once():
    pieces, _ = replay("a🙂".encode(), Limits(length=3))
    assert "".join(piece.text for piece in pieces) == "a\ufffd"


def test_stop_string_ends_the_reply_and_is_not_part_of_it():
    pieces, decoder = replay(b"42;\n7 + 1", Limits(length=9, stop=(";\n",)))
    assert "".join(piece.text for piece in pieces) == "42"
    assert pieces[-1].ending == "stop"
    # The text in the model's view holds the stop, so that a next line follows naturally.
    assert bytes(decoder.ids) == b"42;\n"


def test_what_only_began_like_a_stop_string_comes_through():
    pieces, _ = replay(b"ab-aba-", Limits(length=7, stop=("abc", "ba--")))
    assert "".join(piece.text for piece in pieces) == "ab-aba-"


def test_end_of_text_ends_the_reply_unseen():
    tokenizer = TinyTokenizer(special_tokens=["<|endoftext|>"])
    limits = Limits(length=9, stop_ids=frozenset((256,)))
    pieces, decoder = replay([*b"hi", 256, *b"more"], limits, tokenizer)
    assert "".join(piece.text for piece in pieces) == "hi"
    assert pieces[-1].ending == "end_of_text"
    assert decoder.ids == list(b"hi")


def test_first_id_is_drawn_from_the_given_ones():
    pieces, _ = replay(b"xb", Limits(length=2), first=torch.tensor([97, 99]), skip=1)
    assert pieces[0].id in (97, 99)
    assert pieces[0].probability == pytest.approx(0.5)
    assert pieces[0].text == ""
    assert pieces[1].text == "b"


@pytest.mark.parametrize("stop", [("ab",), ("b", "abc"), ("aab", "ba"), ("漢a",)])
def test_stop_gate_equals_a_cut_of_the_whole_text(stop):
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        letters = torch.randint(4, (12,), generator=generator).tolist()
        text = "".join("abc漢"[i] for i in letters)
        cuts = [(text.find(s) + len(s), text.find(s)) for s in stop if s in text]
        gate, passed = StopGate(stop), ""
        for letter in text:
            passed += gate.push(letter)
            assert not any(s in passed for s in stop)
            if gate.stopped:
                break
        assert passed + gate.release() == (text[: min(cuts)[1]] if cuts else text)
        assert gate.stopped == bool(cuts)


def test_zero_length_draws_nothing():
    assert replay(b"x", Limits(length=0))[0] == []


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [({"length": -1}, "length is -1"), ({"stop": ("a", "")}, "a stop string is empty")],
)
def test_impossible_limits_are_refused(limits, sentence):
    with pytest.raises(UsageError, match=sentence):
        Limits(**limits)


@pytest.mark.parametrize("position", ["rope", "learned", "sinusoidal", "none"])
def test_every_logit_is_the_uncached_models_for_the_window(position):
    torch.manual_seed(0)
    model = GPT(dataclasses.replace(CONFIG, position=position)).eval()
    ids = torch.randint(256, (60,)).tolist()
    decoder = Decoder(model)
    starts = set()
    decoder.feed(ids[:5])
    for id in ids[5:]:
        decoder.feed([id])
        starts.add(decoder.window_start)
        window = torch.tensor([decoder.ids[decoder.window_start :]])
        assert 8 <= window.size(1) <= 16 or decoder.window_start == 0
        torch.testing.assert_close(decoder.logits, model(window)[0, -1], rtol=1e-5, atol=1e-5)
    assert decoder.ids == ids
    assert starts == {0, 9, 18, 27, 36, 45}


def test_a_prompt_longer_than_the_context_keeps_its_last_half_context():
    model = GPT(CONFIG).eval()
    ids = torch.randint(256, (40,)).tolist()
    decoder = Decoder(model)
    decoder.feed(ids)
    assert decoder.window_start == 32
    torch.testing.assert_close(decoder.logits, model(torch.tensor([ids[32:]]))[0, -1])


def test_a_context_of_one_position_still_generates():
    model = GPT(dataclasses.replace(CONFIG, context=1)).eval()
    decoder = Decoder(model)
    decoder.feed(list(b"abc"))
    pieces = stream(
        decoder, TextStream(TinyTokenizer().token_bytes), GREEDY, Limits(length=5), new_generator(0)
    )
    assert len(list(pieces)) == 5


def test_greedy_text_repeats_bit_for_bit_from_a_seed():
    model = GPT(CONFIG).eval()

    def ids(seed):
        decoder = Decoder(model)
        decoder.feed(list(b"hello"))
        tokens = TextStream(TinyTokenizer().token_bytes)
        drawn = stream(decoder, tokens, Sampling(1.0), Limits(length=40), new_generator(seed))
        return [piece.id for piece in drawn]

    assert ids(1) == ids(1) != ids(2)
