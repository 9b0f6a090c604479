"""Every knob of a run: frozen dataclasses, checked when made, read from and written to TOML.

Order of precedence: defaults < preset < `--config file.toml` < flags. A component receives its own
part (a model its `ModelConfig`), never the whole. `None` is "off" or "choose for me", as each field
says; after planning (`microgpt.training.plan`) a saved configuration holds no undecided value.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import tomllib
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from microgpt.errors import UsageError

OFF = "off"
"""How a file or a flag writes None for a setting whose default is not None."""

IGNORED = -100
"""The target of a position that does not count (torch's `ignore_index`): loaders give it, losses
heed it."""

BUDGETS = ("steps", "epochs", "tokens", "minutes")
"""Settings of `[training]`, of which a run has one."""
SIZES = ("n_layer", "n_head", "n_embd")
"""Settings of `[model]` that decide its size; where none is given, it is planned."""

Position = Literal["rope", "learned", "sinusoidal", "none"]
Norm = Literal["rmsnorm", "layernorm", "none"]
NormPlace = Literal["pre", "post"]
FeedForward = Literal["swiglu", "gelu", "relu", "squared_relu"]
AttentionKind = Literal["softmax", "linear"]


def _require(holds: bool, sentence: str) -> None:
    if not holds:
        raise UsageError(sentence)


def require_seed(seed: int) -> None:
    """Does nothing where `seed` is one that generators of random numbers take.

    Raises:
        UsageError: it does not fit into 64 bits.
    """
    _require(-(2**63) <= seed < 2**63, f"seed is {seed}, but must fit into 64 bits")


@dataclass(frozen=True)
class ModelConfig:
    """The shape and the parts of a GPT. The defaults are the modern recipe (a Qwen3 in small)."""

    vocab_size: int = 256
    context: int = 256
    """Positions the model sees at once, in tokens (the logs' `num_tokens`, `max_seq_len`)."""
    n_layer: int = 4
    n_head: int = 4
    n_kv_head: int | None = None
    """Key/value heads, for grouped-query attention; None: as many as `n_head`."""
    n_embd: int = 128
    """Width of the residual stream (the logs' `embedding degree`, `d_model`)."""
    n_hidden: int | None = None
    """Width of the feed-forward (the logs' `d_ff`); None: 4 x `n_embd`, or 8/3 of it for SwiGLU,
    rounded up to a multiple of 16."""
    position: Position = "rope"
    rope_theta: float = 10_000.0
    norm: Norm = "rmsnorm"
    norm_place: NormPlace = "pre"
    norm_eps: float = 1e-6
    norm_gain: bool = True
    """A learned factor for each channel of a norm outside attention."""
    norm_bias: bool = False
    """A learned offset for each channel (LayerNorm only)."""
    final_norm: bool = True
    embedding_norm: bool = False
    """An RMSNorm without gain on the embeddings, before the first block."""
    qk_norm: bool = True
    """RMSNorm of each head's queries and keys, with a gain of head width for each."""
    qk_scale: float = 1.0
    """Factor on queries and on keys, so the attention logits grow with its square."""
    feed_forward: FeedForward = "swiglu"
    qkv_bias: bool = False
    attention_output_bias: bool = False
    feed_forward_bias: bool = False
    head_bias: bool = False
    tied_head: bool = False
    logit_softcap: float | None = None
    """Logits are squashed into (-cap, cap) by cap x tanh(logits / cap); None: off."""
    zero_output: bool = False
    """The matrices that write to the residual stream start at zero, each block as an identity."""
    attention: AttentionKind = "softmax"
    """`linear`: a decaying sum of keys and values in place of a softmax over positions."""
    short_conv: int | None = None
    """Taps of a causal convolution of each channel, beside the identity, in front of attention: how
    many positions, itself included, each mixes. None: there is no such convolution."""
    sliding_window: int | None = None
    """Positions that attention looks back over, itself included; None: all of the context."""
    document_start: int | None = None
    """The id that begins documents: attention does not look back beyond it. None: it does."""
    dropout: float = 0.0
    """Share of activations dropped in training (planned: some in a run of many passes)."""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context", "n_layer", "n_head", "n_embd"):
            value = getattr(self, name)
            _require(value >= 1, f"{name} is {value}, but must be at least 1")
        _require(
            self.n_head <= self.n_embd,
            f"n_head is {self.n_head}, more than the width n_embd = {self.n_embd}: "
            "give fewer heads or a wider model",
        )
        _require(
            self.n_embd % self.n_head == 0,
            f"n_embd = {self.n_embd} does not divide by n_head = {self.n_head}: "
            "choose a multiple, so that each head gets the same width",
        )
        kv = self.kv_heads
        _require(
            1 <= kv <= self.n_head and self.n_head % kv == 0,
            f"n_kv_head is {kv}, but must divide n_head = {self.n_head}",
        )
        _require(
            self.position != "rope" or self.head_width % 2 == 0,
            f"rope rotates pairs, so n_embd / n_head must be even, not {self.head_width}",
        )
        _require(
            self.n_hidden is None or self.n_hidden >= 1,
            f"n_hidden is {self.n_hidden}, but must be at least 1",
        )
        _require(
            self.sliding_window is None or self.sliding_window >= 1,
            f"sliding_window is {self.sliding_window}, but must be at least 1 (leave out for none)",
        )
        _require(
            self.short_conv is None or self.short_conv >= 1,
            f"short_conv is {self.short_conv}, but must be at least 1 (leave out for none)",
        )
        _require(
            (self.short_conv or 1) <= (self.sliding_window or self.context),
            f"short_conv is {self.short_conv}, but attention sees only "
            f"{self.sliding_window or self.context} positions: give at most so many",
        )
        _require(
            self.attention == "softmax"
            or (self.sliding_window is None and self.document_start is None),
            "linear attention forgets by itself: sliding_window and document_start belong to "
            "attention = 'softmax'",
        )
        _require(
            self.document_start is None or self.document_start >= 0,
            f"document_start is {self.document_start}, but must be an id (leave out for none)",
        )
        _require(0 <= self.dropout < 1, f"dropout is {self.dropout}, but must lie in [0, 1)")
        _require(self.rope_theta > 0, f"rope_theta is {self.rope_theta}, but must be positive")
        _require(self.qk_scale > 0, f"qk_scale is {self.qk_scale}, but must be positive")
        _require(
            self.logit_softcap is None or self.logit_softcap > 0,
            f"logit_softcap is {self.logit_softcap}, but must be positive (leave out for none)",
        )
        _require(
            self.norm == "layernorm" or not self.norm_bias,
            f"norm_bias belongs to norm = 'layernorm', not to {self.norm!r}",
        )
        _require(self.norm_eps > 0, f"norm_eps is {self.norm_eps}, but must be positive")

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.n_embd // self.n_head

    @property
    def kv_heads(self) -> int:
        """Key/value heads, resolved."""
        return self.n_head if self.n_kv_head is None else self.n_kv_head

    @property
    def hidden_width(self) -> int:
        """Width of the feed-forward, resolved."""
        if self.n_hidden is not None:
            return self.n_hidden
        if self.feed_forward == "swiglu":
            return -(-8 * self.n_embd // 3 // 16) * 16
        return 4 * self.n_embd


@dataclass(frozen=True)
class DataConfig:
    """Which dataset, and how it is cut into rows."""

    path: str = "dataset.txt"
    """What the user named: a text file, a folder, or a dataset folder."""
    dataset: str | None = None
    """The dataset folder that holds its shards; None: found or made from `path`."""
    seed: int = 0
    """Seed of the order of training rows."""
    align: Literal["lines"] | None = None
    """Where rows begin: at line starts, or (None) anywhere."""
    loss_after: str | None = None
    """A marker such as "=": only what follows it on its line is learned. None: everything is."""
    answers_after: str | None = None
    """A marker such as "=": the best checkpoint, and patience, go by the validation loss of what
    follows it on its line. None: by that of all text, unless nearly every line has one "="."""

    def __post_init__(self) -> None:
        require_seed(self.seed)
        for name in ("loss_after", "answers_after"):
            _require(getattr(self, name) != "", f"{name} is empty: give the marker, such as '='")


@dataclass(frozen=True)
class OptimizerConfig:
    """How gradients become updates. Rates are at the schedule's peak."""

    name: Literal["muon", "adamw"] = "muon"
    """`muon`: Muon for the matrices inside blocks, AdamW for everything else."""
    muon_lr: float = 0.03
    """Muon's rate (planned: less for batches of fewer than 2,048 tokens)."""
    muon_momentum: float = 0.95
    muon_unit_gradients: bool = False
    """Whether each matrix' gradient enters Muon's momentum over its own norm, so that a batch with
    large gradients counts no more than others."""
    lr: float = 3e-3
    """AdamW's rate (the logs' `base_lr`)."""
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    """Decoupled decay, on matrices only."""
    clip: float | None = 1.0
    """Largest global gradient norm; None: no clipping."""
    average_share: float | None = 0.1
    """The model is the average of the weights over about this share of the steps so far (planned:
    more in a run of many passes); None: it is the last weights."""

    def __post_init__(self) -> None:
        for name in ("muon_lr", "lr", "eps"):
            value = getattr(self, name)
            _require(value > 0, f"{name} is {value}, but must be positive")
        for name in ("muon_momentum", "beta1", "beta2"):
            value = getattr(self, name)
            _require(0 <= value < 1, f"{name} is {value}, but must lie in [0, 1)")
        _require(self.weight_decay >= 0, f"weight_decay is {self.weight_decay}: not below 0")
        _require(self.clip is None or self.clip > 0, f"clip is {self.clip}, but must be positive")
        _require(
            self.average_share is None or 0 < self.average_share <= 1,
            f"average_share is {self.average_share}, but must lie in (0, 1] (off: no average)",
        )


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate over steps, as a factor of the peak."""

    shape: Literal["wsd", "cosine", "constant"] = "wsd"
    """`wsd`: warm-up, stable, linear decay; `cosine`: warm-up, then half a cosine."""
    warmup_steps: int | None = None
    """None: 2 % of the steps, between 10 and 1,000 (fewer where the run is shorter)."""
    decay_steps: int | None = None
    """Steps of decay; None: half of the run for `wsd`, all after the warm-up for `cosine`."""
    final: float = 0.05
    """Factor at the end (the logs' `min_lr` / `base_lr`)."""

    def __post_init__(self) -> None:
        _require(0 <= self.final <= 1, f"final is {self.final}, but must lie in [0, 1]")
        for name in ("warmup_steps", "decay_steps"):
            value = getattr(self, name)
            _require(value is None or value >= 0, f"{name} is {value}, but must not be negative")


@dataclass(frozen=True)
class TrainingConfig:
    """Batch, budget, evaluation, checkpoints, device."""

    batch_rows: int | None = None
    """Rows of `context` tokens in a step; None: chosen for the data and the device."""
    micro_batch_rows: int | None = None
    """Rows in one forward pass; fewer than `batch_rows` accumulates gradients. None: as many as fit
    into a GPU's memory, on a CPU all."""
    steps: int | None = None
    """The budget, resolved to steps. `epochs`, `tokens` and `minutes` are turned into it."""
    epochs: float | None = None
    tokens: int | None = None
    minutes: float | None = None
    evaluate_every: int | None = None
    """Steps between evaluations; None: about 20 in a run."""
    evaluate_tokens: int | None = None
    """At most this many validation tokens in each evaluation; None: eight batches' worth, at
    least 16,384."""
    checkpoint_minutes: float = 5.0
    """A checkpoint is written at each evaluation, and when this long has passed since the last."""
    patience: int | None = None
    """Evaluations without a gain after which training stops; None: never."""
    seed: int = 0
    """Seed of the initial weights and of dropout."""
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of matrix products; under float16 the loss is scaled. Weights are float32 in any case."""
    tf32: bool = True
    """Whether float32 products on CUDA may use TF32."""
    compile: bool = False
    recompute_activations: bool = False
    """Blocks keep only what they read, and are computed again in the backward pass: less memory,
    more time."""
    threads: int | None = None
    """Threads of one CPU process; None: chosen."""
    adapt_threads: bool = False
    """Whether the number of threads may change when steps become slow; set where it was chosen.
    Another number rounds differently."""
    keep_checkpoints: int = 2
    """So many of the newest checkpoints stay, and always the best."""
    spike_nats: float | None = 1.0
    """A loss that exceeds the median of the last 32 by more than this (and by ten times their
    median deviation) sends the run back to its newest checkpoint. None: none does."""
    rollbacks: int = 3
    """Roll-backs in a row, after a spike or a loss that is no number, before the run gives up."""
    disk_minutes: float = 60.0
    """How long a run waits for room on a full disk where it has no terminal to say so on."""

    def __post_init__(self) -> None:
        require_seed(self.seed)
        counts = ("batch_rows", "micro_batch_rows", "steps", "tokens", "evaluate_every",
                  "evaluate_tokens", "patience", "threads", "keep_checkpoints")  # fmt: skip
        for name in counts:
            value = getattr(self, name)
            _require(value is None or value >= 1, f"{name} is {value}, but must be at least 1")
        for name in ("epochs", "minutes", "checkpoint_minutes", "spike_nats"):
            value = getattr(self, name)
            _require(value is None or value > 0, f"{name} is {value}, but must be positive")
        for name in ("rollbacks", "disk_minutes"):
            value = getattr(self, name)
            _require(value >= 0, f"{name} is {value}, but must not be negative")
        named = [n for n in BUDGETS if getattr(self, n) is not None]
        _require(
            len(named) <= 1,
            f"the budget is given twice, as {' and '.join(named)}: give one of them",
        )
        if self.batch_rows is not None and self.micro_batch_rows is not None:
            _require(
                self.batch_rows % self.micro_batch_rows == 0,
                f"batch_rows = {self.batch_rows} does not divide by "
                f"micro_batch_rows = {self.micro_batch_rows}",
            )

    @property
    def needs_autograd(self) -> bool:
        """Whether it asks for what only torch's own backward pass has."""
        return self.compile or self.recompute_activations


@dataclass(frozen=True)
class RunConfig:
    """A whole run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)


Config = TypeVar("Config")


KINDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
}
"""What sentences call the types of settings."""


def updated(config: Config, changes: dict[str, Any], where: str) -> Config:
    """Returns a copy of the dataclass `config` with `changes`, a nested mapping, applied, checked.

    `where` names the source ("preset femto", a file's path, "flags") in the error.

    Raises:
        UsageError: an unknown key (the nearest known one is named), or a value of the wrong type.
    """
    assert dataclasses.is_dataclass(config)
    hints = typing.get_type_hints(type(config))
    values: dict[str, Any] = {}
    for key, value in changes.items():
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(hints)}"
            raise UsageError(f"{where}: unknown setting {key!r}{hint}")
        current = getattr(config, key)
        if dataclasses.is_dataclass(current):
            if not isinstance(value, dict):
                raise UsageError(f"{where}: {key!r} is a table of settings, not {value!r}")
            values[key] = updated(current, value, f"{where}, [{key}]")
        else:
            values[key] = _checked(value, hints[key], f"{where}: {key}")
    return dataclasses.replace(config, **values)  # type: ignore[type-var]


def _options(hint: Any) -> tuple[Any, ...]:
    """Returns the types that a union allows, or the one type."""
    union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    return typing.get_args(hint) if union else (hint,)


def _checked(value: Any, hint: Any, what: str) -> Any:
    """Returns `value` if it has the type `hint`, with an int accepted where a float is wanted, and
    the word "off" where None is an option, since TOML has no null."""
    options = _options(hint)
    if value == OFF and type(None) in options:
        return None
    for option in options:
        if option is type(None):
            if value is None:
                return None
        elif typing.get_origin(option) is Literal:
            if value in typing.get_args(option):
                return value
        elif option is float and type(value) in (int, float):
            number = float(value)
            if not math.isfinite(number):
                raise UsageError(f"{what} is {value}, but must be finite")
            return number
        elif type(value) is option:
            return value
    names = [
        " or ".join(map(repr, typing.get_args(o))) if typing.get_origin(o) is Literal
        else KINDS.get(o, str(o))
        for o in options if o is not type(None)
    ]  # fmt: skip
    raise UsageError(f"{what} is {value!r}, but must be {' or '.join(names)}")


_MULTIPLES = {"k": 1_000, "M": 1_000_000, "B": 1_000_000_000, "G": 1_000_000_000}


def count(text: str) -> int:
    """Returns the whole number in `text`, which may end in k, M, G or B: "800k", "1.5M", "20_000".

    Raises:
        UsageError: it is none.
    """
    number, factor = text.strip(), 1
    if number[-1:] in _MULTIPLES:
        number, factor = number[:-1], _MULTIPLES[number[-1]]
    try:
        value = int(number) * factor if factor == 1 else float(number) * factor
        if value == int(value):
            return int(value)
    except (ValueError, OverflowError):
        pass
    raise UsageError(f"{text!r} is no whole number such as 20000, 800k or 1.5M")


def hint_of(key: str) -> Any:
    """Returns the type of the setting `key`, such as "model.n_layer".

    Raises:
        UsageError: there is no such setting; the nearest is named.
    """
    config, names = RunConfig, key.split(".")
    for depth, name in enumerate(names):
        hints = typing.get_type_hints(config) if dataclasses.is_dataclass(config) else {}
        if name not in hints:
            known = [".".join([*names[:depth], hint]) for hint in hints]
            near = difflib.get_close_matches(".".join(names[: depth + 1]), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
            raise UsageError(f"unknown setting {key!r}{hint if known else ''}")
        config = hints[name]
    if dataclasses.is_dataclass(config):
        raise UsageError(f"{key!r} is a table of settings: give one of them, as {key}.NAME=VALUE")
    return config


def from_text(key: str, text: str) -> Any:
    """Returns the value that `text`, as typed on a command line, means for the setting `key`.

    Raises:
        UsageError: an unknown setting, or a text that is none of its values.
    """
    hint = hint_of(key)
    options = _options(hint)
    if text == OFF and type(None) in options:
        return None
    value: Any = text
    if int in options:
        value = count(text)
    elif float in options:
        try:
            value = float(text)
        except ValueError:
            value = text
    elif bool in options:
        value = {"true": True, "false": False}.get(text.lower(), text)
    return _checked(value, hint, key)


def merged(*changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns nested mappings as one; where two name a setting, the later one holds."""
    result: dict[str, Any] = {}
    for change in changes:
        for key, value in change.items():
            known = result.get(key)
            if isinstance(known, dict) and isinstance(value, Mapping):
                result[key] = merged(known, value)
            else:
                result[key] = merged(value) if isinstance(value, Mapping) else value
    return result


def overlaid(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Returns nested mappings as one, like `merged`; but a layer that names a budget takes the
    place of whatever budget the layers before it name."""
    result: dict[str, Any] = {}
    for layer in layers:
        training = layer.get("training", {})
        if any(training.get(name) not in (None, OFF) for name in BUDGETS):
            result = without(result, "training", BUDGETS)
        result = merged(result, layer)
    return result


def without(given: Mapping[str, Any], part: str, names: Collection[str]) -> dict[str, Any]:
    """Returns the nested mapping less these settings of the table `part`."""
    table = {key: value for key, value in given.get(part, {}).items() if key not in names}
    return {**given, part: table}


def read_toml(path: Path) -> dict[str, Any]:
    """Returns the nested mapping in a TOML file.

    Raises:
        UsageError: the file is missing, unreadable or no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no TOML file: {error}") from error


PLANNED = ("align", "answers_after")
"""Settings whose None a plan keeps only where it is given."""


def to_dict(config: Any) -> dict[str, Any]:
    """Returns the nested mapping of a configuration, from which `updated` makes an equal one.

    Settings that are None are left out where that is their default, else "off"; those that a plan
    would choose where they are left out are "off" in any case.
    """
    result: dict[str, Any] = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            result[f.name] = to_dict(value)
        elif value is not None:
            result[f.name] = value
        elif f.default is not None or f.name in PLANNED:
            result[f.name] = OFF
    return result
