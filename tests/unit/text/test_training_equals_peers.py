"""Merge for merge what rustbpe, ffbpe, gigatoken (rule `ids`) and tokenizers (rule `hf`) find."""

import pytest

from microgpt import Tokenizer

from .conftest import corpus

WHOLE = 1 << 30
LARGE = ("english", "code", "multilingual")
GPT2 = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""


def ours(text, vocab_size, tie):
    tokenizer = Tokenizer.train_from_iterator([text], vocab_size=vocab_size, tie=tie)
    return [tokenizer.token_bytes(id) for id in range(256, vocab_size)]


def of_rustbpe(text, vocab_size, folder):
    peer = pytest.importorskip("rustbpe").Tokenizer()
    peer.train_from_iterator(iter([text]), vocab_size, pattern=GPT2)
    ranked = sorted(peer.get_mergeable_ranks(), key=lambda token: token[1])
    return [bytes(token) for token, _ in ranked][256:]


def of_ffbpe(text, vocab_size, folder):
    model = pytest.importorskip("ffbpe").train_bpe(text, vocab_size=vocab_size)
    return sorted(model.vocab, key=model.vocab.__getitem__)[256:]


def of_gigatoken(text, vocab_size, folder):
    gigatoken = pytest.importorskip("gigatoken")
    path = folder / "text.txt"
    path.write_text(text, encoding="utf-8", newline="")
    source = gigatoken.TextFileSource([str(path)])
    tokens, _ = gigatoken.train_bpe(source, vocab_size, [], "raw_token_ids")
    return [tokens[id] for id in range(256, vocab_size)]


def of_tokenizers(text, vocab_size, folder):
    tokenizers = pytest.importorskip("tokenizers")
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    peer = tokenizers.Tokenizer(tokenizers.models.BPE())
    peer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False
    )
    peer.train_from_iterator([text], trainer)
    printed = {character: byte for byte, character in printable().items()}
    ranked = sorted(peer.get_vocab().items(), key=lambda token: token[1])[256:]
    return [bytes(printed[character] for character in token) for token, _ in ranked]


def printable():
    """The character that GPT-2's files print for each byte."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in own]
    return {byte: chr(byte) for byte in own} | {b: chr(256 + i) for i, b in enumerate(others)}


PEERS = {
    "rustbpe": (of_rustbpe, "ids"),
    "ffbpe": (of_ffbpe, "ids"),
    "gigatoken": (of_gigatoken, "ids"),
    "tokenizers": (of_tokenizers, "hf"),
}


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("peer", PEERS)
def test_the_beginning_of_a_corpus_gives_the_peers_tokens(peer, name, tmp_path):
    train, tie = PEERS[peer]
    text = corpus(name, 1_500_000)
    assert ours(text, 6000, tie) == train(text, 6000, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("peer", PEERS)
def test_a_whole_corpus_gives_the_peers_tokens(peer, name, tmp_path):
    train, tie = PEERS[peer]
    text = corpus(name, WHOLE)
    assert ours(text, 32_768, tie) == train(text, 32_768, tmp_path)
