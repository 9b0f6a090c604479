"""What to do with a dataset on a machine, where the user leaves it open.

Two pure steps: `plan_shape` chooses context, model and batch; then somebody measures what a step of
that takes, and `plan_budget` chooses how many. Each returns a configuration and remarks for people,
and never changes what the user gave, except that a context longer than the data is cut to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from microgpt.config import SIZES, ModelConfig, RunConfig, TrainingConfig, updated
from microgpt.device import has_fast_bfloat16
from microgpt.errors import DataError, UsageError
from microgpt.model.fused import fits
from microgpt.model.sizes import flops_per_token, parameter_count, shape_for, training_memory
from microgpt.progress import count_text, duration_text, size_text
from microgpt.training import schedule
from microgpt.training.evaluate import evaluation_rows

DEFAULT_MINUTES = {"cpu": 5.0, "mps": 5.0, "cuda": 10.0}
"""Budget where none is given; fewer where the passes run out first."""
MAX_EPOCHS = 30
"""Passes over the data, at most, where no budget is given: beyond, small models learn by heart."""
MIN_STEPS = 200
"""Unless the budget is given, a run has at least so many steps: fewer teach nothing."""
SUSTAINED_FLOPS = {"cpu": 15e9, "mps": 2e12, "cuda": 6e13}
"""Operations a second that training comes to, each core of a CPU; only the order matters, since it
chooses the size of the model, not the number of steps."""
MAX_CORES = 16
TOKENS_PER_PARAMETER = 10
"""For the size that a budget can train: a byte carries less than the tokens of the scaling laws,
whose ratio is 20, but small models are trained for use rather than for the least compute."""
PARAMETERS_PER_TOKEN = 2.1
"""Most parameters for each token of training text."""
PARAMETERS = (30_000, 1_000_000_000)
MOST_PARAMETERS = 10**14
"""Where a vocabulary or a setting asks for more than that, there is no plan."""
BATCH_GROWTH = 0.38
"""The best batch grows as the tokens of the run to this power."""
BATCH_SCALE = 7.0
BATCH_TOKENS = {"cpu": (256, 8192), "mps": (2048, 32_768), "cuda": (8192, 262_144)}
FULL_RATE_TOKENS = 2048
"""Batches of fewer tokens take a lower rate of Muon, by the square root of what they have of it."""
LEAST_RATE = 0.5
"""The share of the rate that the smallest batches take; less was not measured."""
CONTEXTS = ((300_000_000, 1024), (30_000_000, 512), (2_000_000, 256), (300_000, 128), (0, 64))
"""Context for so many tokens of text, at least: more text has more to say about long reach."""
MAX_CONTEXT = {"cpu": 256, "mps": 512, "cuda": 1024}
MANY_PASSES = 4
"""In so many passes a model with more parameters than its text has tokens learns it by heart, if
nothing is done about that."""
AVERAGE_OF_MANY = 0.2
"""Share of the steps that weights are then averaged over. The longer average forgets some of it;
where each token is seen about once, the shorter default is better."""
DROPOUT_OF_MANY = 0.1
"""Dropout then, but not where lines have answers: questions learnt by heart do those no harm."""
EVALUATIONS = 20
FEWEST_EVALUATIONS = 5
EVALUATION_SHARE = 0.1
"""Of a budget of time, what evaluations may take unless they are the fewest."""
MEMORY_SHARE = 0.6
"""Of a GPU's memory that the estimate for one micro-batch may take."""

Given = Mapping[str, Any]


@dataclass(frozen=True)
class Facts:
    """What matters about a dataset."""

    train_tokens: int
    valid_tokens: int
    vocab_size: int
    answers_after: str | None = None
    """What answers follow on nearly every line, where they do."""


@dataclass(frozen=True)
class Machine:
    """What matters about a machine."""

    device: str
    """"cpu", "mps" or "cuda"."""
    cores: int
    gpu_memory_bytes: int | None = None


def plan_shape(
    given: Given, facts: Facts, machine: Machine, parameters: int | None = None
) -> tuple[RunConfig, list[str]]:
    """Returns a configuration whose model and batch are decided, and remarks.

    `given` is the nested mapping of what preset, file and flags set; `parameters` a size to come
    near, instead of layers, heads and width.

    Raises:
        UsageError: settings that contradict one another, or a size that no shape comes near.
        DataError: fewer than two tokens to train on.
    """
    if facts.train_tokens < 2:
        raise DataError(
            f"the training set has {facts.train_tokens} tokens, but predicting one from another "
            "takes at least 2: give more text"
        )
    config = settings(given, parameters)
    config, remarks = _with_context(config, given, facts, machine)
    model = replace(config.model, vocab_size=facts.vocab_size)
    if not _named_sizes(given):
        tied_head = given.get("model", {}).get("tied_head")
        model = _shape(model, config.training, facts, machine, parameters, tied_head)
    config = _with_batch(replace(config, model=model), facts, machine)
    config = _with_rate(config, given)
    config, answers = _with_answers(config, given, facts)
    return _with_passes(config, given, facts, machine), remarks + answers


def settings(given: Given, parameters: int | None = None) -> RunConfig:
    """Returns the configuration that `plan_shape` begins with, which needs no data to be judged.

    Raises:
        UsageError: an unknown setting, a value that cannot be, or settings that contradict one
            another.
    """
    named = _named_sizes(given)
    if parameters is not None and named:
        raise UsageError(
            f"the model's size is given twice, by --params and by {', '.join(named)}: give one"
        )
    if parameters is not None and parameters < 1:
        raise UsageError(f"--params is {parameters}, but must be at least 1")
    base = RunConfig()
    kv_heads = given.get("model", {}).get("n_kv_head")
    if not named and isinstance(kv_heads, int) and kv_heads > 0:
        # The heads, which are planned, will be a multiple of these.
        base = replace(base, model=replace(base.model, n_head=kv_heads, n_embd=2 * kv_heads))
    return updated(base, dict(given), "settings")


def _named_sizes(given: Given) -> list[str]:
    return [key for key in SIZES if key in given.get("model", {})]


def _with_context(
    config: RunConfig, given: Given, facts: Facts, machine: Machine
) -> tuple[RunConfig, list[str]]:
    """Sets a context that the data can fill."""
    longest = facts.train_tokens - 1
    if "context" in given.get("model", {}):
        context = min(config.model.context, longest)
        remarks = []
        if context < config.model.context:
            remarks.append(
                f"the training set has {facts.train_tokens} tokens, so the context is {context} "
                f"instead of {config.model.context}"
            )
    else:
        usual = next(c for least, c in CONTEXTS if facts.train_tokens >= least)
        # Windows a quarter of the data at most, so that an epoch has a few.
        context = max(1, min(usual, MAX_CONTEXT[machine.device], longest // 4))
        remarks = []
    return replace(config, model=replace(config.model, context=context)), remarks


def _shape(
    model: ModelConfig,
    training: TrainingConfig,
    facts: Facts,
    machine: Machine,
    parameters: int | None,
    tied_head: bool | None,
) -> ModelConfig:
    """Chooses layers, heads and width."""
    if parameters is not None:
        return shape_for(parameters, facts.vocab_size, model, tied_head)
    minutes = training.minutes or DEFAULT_MINUTES[machine.device]
    flops = _sustained_flops(machine) * 60 * minutes
    affordable = math.sqrt(flops / (6 * TOKENS_PER_PARAMETER))
    wanted = min(affordable, PARAMETERS_PER_TOKEN * facts.train_tokens)
    wanted = min(max(wanted, PARAMETERS[0]), PARAMETERS[1])
    while True:  # a large vocabulary may ask for more than that by itself
        try:
            return shape_for(int(wanted), facts.vocab_size, model, tied_head)
        except UsageError:
            if wanted > MOST_PARAMETERS:
                raise
            wanted *= 1.25


def _sustained_flops(machine: Machine) -> float:
    cores = min(machine.cores, MAX_CORES) if machine.device == "cpu" else 1
    return SUSTAINED_FLOPS[machine.device] * cores


def _with_batch(config: RunConfig, facts: Facts, machine: Machine) -> RunConfig:
    """Sets the rows of a batch, of a micro-batch, and the tokens of an evaluation."""
    training, context = config.training, config.model.context
    rows = training.batch_rows
    if rows is None:
        tokens = _expected_tokens(config, facts, machine)
        least, most = BATCH_TOKENS[machine.device]
        wanted = 2 ** round(math.log2(BATCH_SCALE * tokens**BATCH_GROWTH))
        rows = max(1, min(max(wanted, least), most) // context)
        if training.micro_batch_rows is not None:
            rows = -(-rows // training.micro_batch_rows) * training.micro_batch_rows
    micro = training.micro_batch_rows or _micro_batch_rows(config, rows, machine)
    evaluate_tokens = training.evaluate_tokens
    if evaluate_tokens is None:
        evaluate_tokens = max(16_384, 8 * rows * context)
    training = replace(
        training, batch_rows=rows, micro_batch_rows=micro, evaluate_tokens=evaluate_tokens
    )
    return replace(config, training=training)


def _with_rate(config: RunConfig, given: Given) -> RunConfig:
    """Lowers Muon's rate for batches of few tokens, whose gradients are noisier."""
    assert config.training.batch_rows is not None
    tokens = config.training.batch_rows * config.model.context
    if "muon_lr" in given.get("optimizer", {}) or tokens >= FULL_RATE_TOKENS:
        return config
    share = max(LEAST_RATE, math.sqrt(tokens / FULL_RATE_TOKENS))
    rate = float(f"{config.optimizer.muon_lr * share:.2g}")
    return replace(config, optimizer=replace(config.optimizer, muon_lr=rate))


def _with_answers(config: RunConfig, given: Given, facts: Facts) -> tuple[RunConfig, list[str]]:
    """Decides what is open where lines have answers."""
    data, remarks = config.data, []
    marker = data.answers_after
    if "answers_after" not in given.get("data", {}):
        marker = facts.answers_after
    if marker is None:
        return config, []
    if data.answers_after is None:
        remarks.append(
            f"lines have answers after {marker!r}: the best checkpoint is that with the lowest "
            "validation loss on those"
        )
    if "align" not in given.get("data", {}):
        data = replace(data, align="lines")
        remarks.append(
            "rows begin where lines do, as a question asked by itself does (--align off: anywhere)"
        )
    if config.model.document_start is None:
        remarks.append(
            "attention looks back over the lines before; where lines have nothing to do with each "
            "other, --line-mask keeps it inside each, which learns them sooner"
        )
    if data.loss_after is None:
        remarks.append(
            f"questions are learnt too; with --loss-after {marker!r} only answers are, no better"
        )
    return replace(config, data=replace(data, answers_after=marker)), remarks


def _with_passes(config: RunConfig, given: Given, facts: Facts, machine: Machine) -> RunConfig:
    """Holds against learning by heart where passes and parameters allow that."""
    optimizer, training, model = config.optimizer, config.training, config.model
    tokens = _expected_tokens(config, facts, machine)
    if training.steps is not None and training.batch_rows is not None:
        tokens = training.steps * training.batch_rows * model.context
    if tokens < MANY_PASSES * facts.train_tokens or parameter_count(model) < facts.train_tokens:
        return config
    if optimizer.average_share is not None and "average_share" not in given.get("optimizer", {}):
        optimizer = replace(optimizer, average_share=AVERAGE_OF_MANY)
    if config.data.answers_after is None and "dropout" not in given.get("model", {}):
        model = replace(model, dropout=DROPOUT_OF_MANY)
    return replace(config, optimizer=optimizer, model=model)


def _expected_tokens(config: RunConfig, facts: Facts, machine: Machine) -> float:
    """About how many tokens the run will see, before anything was measured."""
    training = config.training
    if training.tokens is not None:
        return training.tokens
    if training.epochs is not None:
        return training.epochs * facts.train_tokens
    minutes = training.minutes or DEFAULT_MINUTES[machine.device]
    affordable = 60 * minutes * _sustained_flops(machine) / flops_per_token(config.model)
    return min(affordable, MAX_EPOCHS * facts.train_tokens)


def _micro_batch_rows(config: RunConfig, rows: int, machine: Machine) -> int:
    """The most rows, a divisor of the batch's, that the estimate fits into a GPU's memory."""
    if machine.gpu_memory_bytes is None:
        return rows
    bytes_each = 4 if config.training.dtype == "float32" else 2
    for parts in range(1, rows + 1):
        if rows % parts == 0:
            needed = training_memory(
                config.model,
                rows // parts,
                optimizer=config.optimizer.name,
                averaged=config.optimizer.average_share is not None,
                activation_bytes=bytes_each,
                recompute_activations=config.training.recompute_activations,
            ).total
            if needed <= MEMORY_SHARE * machine.gpu_memory_bytes:
                return rows // parts
    return 1


def plan_budget(
    config: RunConfig,
    facts: Facts,
    machine: Machine,
    step_seconds: float,
    evaluation_seconds: float = 0.0,
) -> RunConfig:
    """Returns `config` with the budget as steps, and all that follows from it decided."""
    training = config.training
    assert training.batch_rows is not None
    every, evaluations = training.evaluate_every, EVALUATIONS
    batch_tokens = training.batch_rows * config.model.context
    if training.steps is not None:
        steps = training.steps
    elif training.tokens is not None:
        steps = math.ceil(training.tokens / batch_tokens)
    elif training.epochs is not None:
        steps = math.ceil(training.epochs * facts.train_tokens / batch_tokens)
    else:
        seconds = 60 * (training.minutes or DEFAULT_MINUTES[machine.device])
        if every is None:
            in_share = EVALUATION_SHARE * seconds / max(evaluation_seconds, 1e-9)
            evaluations = int(max(FEWEST_EVALUATIONS, min(EVALUATIONS, in_share)))
            in_time = (seconds - evaluations * evaluation_seconds) / step_seconds
        else:
            in_time = seconds / (step_seconds + evaluation_seconds / every)
        if training.minutes is None:
            in_passes = MAX_EPOCHS * facts.train_tokens / batch_tokens
            in_time = max(MIN_STEPS, min(in_time, in_passes))
        steps = max(1, int(in_time))
    warmup, decay = schedule.resolve(config.schedule, steps)
    return replace(
        config,
        schedule=replace(config.schedule, warmup_steps=warmup, decay_steps=decay),
        training=replace(
            training,
            steps=steps,
            tokens=None,
            epochs=None,
            minutes=None,
            evaluate_every=every or max(1, steps // evaluations),
        ),
    )


def memory_bytes(config: RunConfig) -> int:
    """Returns what training is expected to hold at its peak, beside libraries."""
    training = config.training
    device = torch.device(training.device)
    return training_memory(
        config.model,
        training.micro_batch_rows or training.batch_rows or 1,
        optimizer=config.optimizer.name,
        averaged=config.optimizer.average_share is not None,
        activation_bytes=4 if training.dtype == "float32" else 2,
        recompute_activations=training.recompute_activations,
        fused=not training.needs_autograd and fits(config.model, device, training.dtype),
        chunked=device.type == "cpu",
        direction_bytes=2 if has_fast_bfloat16(device) else 4,
        evaluation_tokens=evaluation_rows(config.model.context, device) * config.model.context,
    ).total


def expected_seconds(config: RunConfig, step_seconds: float, evaluation_seconds: float) -> float:
    """Returns what the run of a resolved configuration will take."""
    training = config.training
    assert training.steps is not None
    assert training.evaluate_every is not None
    evaluations = math.ceil(training.steps / training.evaluate_every)
    return training.steps * step_seconds + evaluations * evaluation_seconds


def describe(config: RunConfig, facts: Facts, seconds: float, memory_bytes: int) -> list[str]:
    """Returns the plan in a few lines: what is done, in about so many seconds."""
    model, training, optimizer = config.model, config.training, config.optimizer
    assert training.batch_rows is not None
    assert training.steps is not None
    batch = training.batch_rows * model.context
    tokens = batch * training.steps
    rates = f"AdamW {optimizer.lr:g}"
    if optimizer.name == "muon":
        rates = f"Muon {optimizer.muon_lr:g} in the blocks, {rates} elsewhere"
    ways = f"{model.position}, {model.norm}, {model.feed_forward}"
    return [
        f"data   {count_text(facts.train_tokens)} tokens to train on, "
        f"{count_text(facts.valid_tokens)} to validate, {facts.vocab_size:,} ids",
        f"model  {model.n_layer} layers x {model.n_embd} wide, {model.n_head} heads, context "
        f"{model.context}: {parameter_count(model):,} parameters ({ways})",
        f"batch  {training.batch_rows} rows of {model.context} = {batch:,} tokens; "
        f"{training.steps:,} steps = {count_text(tokens)} tokens = "
        f"{tokens / facts.train_tokens:.3g} passes",
        f"rates  {rates}; {config.schedule.shape}, {config.schedule.warmup_steps} steps of "
        f"warm-up, {config.schedule.decay_steps} of decay",
        f"device {training.device}, {training.dtype}"
        + (f", {_threads(training.threads)}" if training.device == "cpu" else "")
        + f"; about {duration_text(seconds)}, {size_text(memory_bytes)} of "
        "memory",
    ]


def _threads(threads: int | None) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"
