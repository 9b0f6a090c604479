"""The forward-pass check counts exactly what greedy decoding would get right."""

import torch

from microgpt.config import ModelConfig
from microgpt.device import Compute
from microgpt.model.gpt import GPT
from microgpt.training.exact_match import Question, answered_exactly, greedy

CPU = Compute(torch.device("cpu"))


def untrained(context: int = 12) -> GPT:
    torch.manual_seed(0)
    model = GPT(ModelConfig(vocab_size=9, context=context, n_layer=2, n_head=2, n_embd=16))
    with torch.no_grad():
        model.head.weight.mul_(50)  # decided, so that rounding does not choose
    return model


def test_right_means_that_greedy_decoding_gives_the_answer():
    model = untrained()
    questions = []
    for number in range(60):
        prompt = [number % 9, number // 9, 3][: 1 + number % 3]
        answer = greedy(model, prompt, 1 + number % 4, CPU)
        if number % 2:
            answer[number % len(answer)] = (answer[number % len(answer)] + 1) % 9
        questions.append(Question(prompt, answer))
    expected = [number % 2 == 0 for number in range(60)]
    assert answered_exactly(model, questions, CPU) == expected


def test_a_prompt_longer_than_the_context_is_seen_from_its_end():
    model = untrained(context=6)
    prompt = [1, 2, 3, 4, 5, 6, 7, 8, 1, 2]
    answer = greedy(model, prompt[-6:], 1, CPU)
    assert answered_exactly(model, [Question(prompt, answer)], CPU) == [True]
    assert answered_exactly(model, [Question(prompt, [(answer[0] + 1) % 9])], CPU) == [False]
