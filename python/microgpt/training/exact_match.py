"""Which answers a model gets exactly right.

Decoding greedily gives the right answer if, and only if, the most likely id after the prompt and
each part of the right answer is the answer's next one; so a forward pass over prompt and answer
together tells, and nothing is generated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from microgpt.config import IGNORED
from microgpt.device import Compute
from microgpt.model.gpt import GPT

ROWS = 256


@dataclass(frozen=True)
class Question:
    """Ids of a prompt (at least one) and of its answer."""

    prompt: Sequence[int]
    answer: Sequence[int]


def answered_exactly(model: GPT, questions: Sequence[Question], compute: Compute) -> list[bool]:
    """Returns, for each question, whether greedy decoding gives exactly its answer.

    Where prompt and answer are longer than the context, the prompt's beginning is not seen.
    """
    order = sorted(range(len(questions)), key=lambda i: _length(questions[i]))
    right = [False] * len(questions)
    was_training = model.training
    model.eval()
    for first in range(0, len(order), ROWS):
        group = order[first : first + ROWS]
        for i, hit in zip(group, _hits(model, [questions[i] for i in group], compute), strict=True):
            right[i] = hit
    model.train(was_training)
    return right


def _length(question: Question) -> int:
    return len(question.prompt) + len(question.answer)


def _hits(model: GPT, questions: Sequence[Question], compute: Compute) -> list[bool]:
    longest = min(max(map(_length, questions)) - 1, model.config.context)
    inputs = np.zeros((len(questions), longest), np.int64)
    goals = np.full((len(questions), longest), IGNORED, np.int64)
    for row, question in enumerate(questions):
        ids = [*question.prompt, *question.answer][-longest - 1 :]
        inputs[row, : len(ids) - 1] = ids[:-1]
        asked = min(len(question.answer), len(ids) - 1)
        goals[row, len(ids) - 1 - asked : len(ids) - 1] = ids[len(ids) - asked :]
    with torch.inference_mode(), compute.exact():
        likeliest = model(compute.tensor(inputs)).argmax(-1).cpu().numpy()
    return ((likeliest == goals) | (goals == IGNORED)).all(axis=1).tolist()


def greedy(model: GPT, prompt: Sequence[int], length: int, compute: Compute) -> list[int]:
    """Returns the `length` ids that greedy decoding gives after `prompt`."""
    ids = list(prompt)
    was_training = model.training
    model.eval()
    with torch.inference_mode(), compute.exact():
        for _ in range(length):
            window = np.array([ids[-model.config.context :]], np.int64)
            ids.append(int(model(compute.tensor(window))[0, -1].argmax()))
    model.train(was_training)
    return ids[len(prompt) :]
