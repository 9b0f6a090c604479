"""Prompts, and tokens that a prompt cut short."""

import torch

from microgpt.config import ModelConfig
from microgpt.inference.generate import Limits
from microgpt.inference.sampling import Sampling, new_generator
from microgpt.inference.session import Session
from microgpt.model import GPT
from reference.tiny_tokenizer import TinyTokenizer


def session(tokenizer):
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, context=32, n_layer=1, n_head=2, n_embd=16
    )
    model = GPT(config)
    with torch.no_grad():
        model.head.weight.normal_()
    return Session(model, tokenizer)


def reply(talk, length=8, **sampling):
    settings = Sampling(**{"temperature": 1.0, **sampling})
    return list(talk.reply(settings, Limits(length, stop_ids=talk.stop_ids), new_generator(1)))


def test_a_text_begins_with_a_line_end_where_there_is_no_end_of_text():
    talk = session(TinyTokenizer())
    talk.begin("13 + 29 = ")
    assert bytes(talk.decoder.ids) == b"\n13 + 29 = "
    talk.begin("\nab")
    assert bytes(talk.decoder.ids) == b"\nab"
    talk.begin("")
    assert bytes(talk.decoder.ids) == b"\n"


def test_a_text_begins_with_end_of_text_where_there_is_one():
    talk = session(TinyTokenizer(special_tokens=["<|endoftext|>"]))
    talk.begin("ab")
    assert talk.decoder.ids == [256, 97, 98]
    assert talk.stop_ids == {256}


def test_the_reply_becomes_part_of_the_text_that_extend_goes_on_from():
    talk = session(TinyTokenizer())
    talk.begin("ab")
    pieces = reply(talk, 3)
    talk.extend("cd")
    assert talk.decoder.ids == [10, 97, 98, *(piece.id for piece in pieces), 99, 100]
    before = talk.decoder.logits
    talk.extend("")
    assert torch.equal(talk.decoder.logits, before)


def test_the_first_token_may_complete_the_prompts_last_one():
    tokenizer = TinyTokenizer(longer=["= 4", "= 42", " x"])
    talk = session(tokenizer)
    talk.begin("13=")
    assert bytes(talk.decoder.ids) == b"\n13"  # taken back
    for seed in range(20):
        talk.begin("13=")
        pieces = list(talk.reply(Sampling(1.0), Limits(1), new_generator(seed)))
        assert tokenizer.token_bytes(pieces[0].id).startswith(b"=")
        assert "=" + pieces[0].text == tokenizer.token_bytes(pieces[0].id).decode()


def test_a_prompt_that_nothing_completes_is_fed_whole():
    talk = session(TinyTokenizer(longer=[" x"]))
    talk.begin("13=")
    assert bytes(talk.decoder.ids) == b"\n13="


def test_a_taken_back_token_shows_in_likely_and_costs_no_text():
    tokenizer = TinyTokenizer(longer=["éa", "éab"])
    talk = session(tokenizer)
    talk.begin("x éa")
    assert {likely.token for likely in talk.likely(5)} >= {"éa".encode(), "éab".encode()}
    text = "".join(piece.text for piece in reply(talk, 5))
    assert talk.text == "x éa" + text


def test_text_is_what_was_said_without_the_lead():
    talk = session(TinyTokenizer(longer=[" 42"], special_tokens=["<|endoftext|>"]))
    talk.begin("a = ")
    assert talk.text == "a = "
    talk.extend("b")
    assert talk.text == "a = b"


def test_likely_gives_the_models_own_shares_in_order():
    talk = session(TinyTokenizer())
    talk.begin("ab")
    likely = talk.likely(5)
    shares = talk.decoder.logits.softmax(0)
    assert [c.probability for c in likely] == sorted((c.probability for c in likely), reverse=True)
    assert likely[0].id == int(shares.argmax())
    assert likely[0].token == bytes([likely[0].id])
    assert abs(sum(c.probability for c in talk.likely(10_000)) - 1) < 1e-5
