"""What a shape costs, in closed form and without torch: parameters, floating-point operations,
memory; and the reverse, a good shape for a number of parameters."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from microgpt.config import ModelConfig
from microgpt.errors import UsageError

TIE_ABOVE = 0.3
"""Share of the parameters in embedding and head above which the two are tied."""
CHUNK_LOGITS = 2**24
"""Most logits that the loss holds at once: 64 MiB in float32, the gradient as much again."""
CHUNK_MATRICES = 1 << 21
"""Most numbers of matrices that Muon orthogonalises at once on a CPU, unless one has more: what its
caches hold with what is computed from them. Whole stacks of 512 x 512 took 1.7 times as
long."""


def parameter_count(config: ModelConfig) -> int:
    """Returns the number of parameters of `GPT(config)`, exactly; a tied head counts once."""
    width, vocab = config.n_embd, config.vocab_size
    embeddings = vocab * width * (1 if config.tied_head else 2) + vocab * config.head_bias
    positions = config.context * width if config.position == "learned" else 0
    final_norm = _norm_parameters(config) if config.final_norm else 0
    return embeddings + positions + final_norm + config.n_layer * _block_parameters(config)


def _norm_parameters(config: ModelConfig) -> int:
    if config.norm == "none":
        return 0
    return config.n_embd * (config.norm_gain + config.norm_bias)


def _block_parameters(config: ModelConfig) -> int:
    width, hidden = config.n_embd, config.hidden_width
    qkv_rows = (config.n_head + 2 * config.kv_heads) * config.head_width
    attention = qkv_rows * (width + config.qkv_bias)
    attention += width * (width + config.attention_output_bias)
    attention += 2 * config.head_width * config.qk_norm
    attention += config.n_head * (width + 1) * (config.attention == "linear")
    up_rows = hidden * (2 if config.feed_forward == "swiglu" else 1)
    feed_forward = up_rows * (width + config.feed_forward_bias)
    feed_forward += width * (hidden + config.feed_forward_bias)
    mixing = width * (config.short_conv or 0)
    return mixing + attention + feed_forward + 2 * _norm_parameters(config)


def _matrix_parameters(config: ModelConfig) -> int:
    """Returns the weights that each token multiplies with: blocks' matrices and head."""
    width, hidden = config.n_embd, config.hidden_width
    qkv_rows = (config.n_head + 2 * config.kv_heads) * config.head_width
    ups = 2 if config.feed_forward == "swiglu" else 1
    block = (qkv_rows + width) * width + (ups + 1) * hidden * width
    return config.n_layer * block + config.vocab_size * width


def flops_per_token(config: ModelConfig) -> int:
    """Returns floating-point operations that training spends on a token, forward and backward.

    Six for each weight of a matrix, and 12 x width for each of a layer's attended positions,
    counted without the saving of causality: the convention of PaLM and nanoGPT, so that shares of
    a machine's rate can be compared.
    """
    reach = min(config.context, config.sliding_window or config.context)
    return 6 * _matrix_parameters(config) + 12 * config.n_layer * config.n_embd * reach


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that training holds at its peak, by what they are for."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    passing: int
    """What the update or an evaluation takes for a moment, whichever is more."""

    @property
    def total(self) -> int:
        """The sum."""
        kept = self.weights + self.gradients + self.optimizer
        return kept + self.activations + self.passing


def training_memory(
    config: ModelConfig,
    rows: int,
    *,
    optimizer: str = "adamw",
    averaged: bool = False,
    activation_bytes: int = 4,
    recompute_activations: bool = False,
    fused: bool = False,
    chunked: bool = False,
    direction_bytes: int = 4,
    evaluation_tokens: int = 0,
) -> MemoryEstimate:
    """Returns what a step on `rows` rows of `config.context` tokens holds.

    Weights and gradients are float32. AdamW keeps two numbers a weight, Muon one for each matrix
    in a block and its direction, a number of `direction_bytes`; one more is kept where weights are
    `averaged`. `activation_bytes` is 2 under bfloat16. `fused` is for a pass without autograd, as
    on a CPU, which in low precision keeps a copy of weights and gradients; `chunked` is for Muon
    that takes CHUNK_MATRICES at a time, as there, instead of whole stacks. Evaluations, in float32,
    take `evaluation_tokens` at once.
    """
    count = parameter_count(config)
    block_matrices = _matrix_parameters(config) - config.vocab_size * config.n_embd
    states, update = 4 * (2 + averaged) * count, 0
    if optimizer == "muon":
        states += (direction_bytes - 4) * block_matrices
        # Two more of what is orthogonalised at once are alive then.
        stack = _largest_stack(config)
        if chunked:
            one = config.n_embd * max(config.n_embd, config.hidden_width)
            stack = min(stack, max(CHUNK_MATRICES, one))
        update = 2 * direction_bytes * stack
    tokens = rows * config.context
    logits = min(tokens * config.vocab_size, CHUNK_LOGITS)
    if fused:
        activations = tokens * _fused_bytes_per_token(config, activation_bytes)
        activations += logits * activation_bytes
    else:
        block = _activations_per_token(config)
        stream = config.n_embd
        kept = config.n_layer * stream + block if recompute_activations else config.n_layer * block
        # Logits, their log-softmax and their gradient live together at the turn of the pass.
        activations = tokens * (kept + 2 * stream) * activation_bytes + 3 * logits * 4
    copies = 2 * activation_bytes * count if fused and activation_bytes < 4 else 0
    # A block's widest moment: the stream, what its feed-forward reads, and what that makes.
    widest = 2 * config.n_embd + (4 if config.feed_forward == "swiglu" else 2) * config.hidden_width
    chunk = min(evaluation_tokens * config.vocab_size, CHUNK_LOGITS)
    evaluation = 4 * (evaluation_tokens * widest + 2 * chunk)
    return MemoryEstimate(
        4 * count + copies, 4 * count, states, activations, max(update, evaluation)
    )


def _largest_stack(config: ModelConfig) -> int:
    """Returns the numbers of the most matrices of one shape in all blocks together."""
    width, hidden = config.n_embd, config.hidden_width
    square = width * width * (4 if config.kv_heads == config.n_head else 2)
    rising = hidden * width * (2 if config.feed_forward == "swiglu" else 1)
    return config.n_layer * max(square, rising)


def _activations_per_token(config: ModelConfig) -> int:
    """Returns the numbers that one block keeps of each token for its backward pass."""
    width, hidden = config.n_embd, config.hidden_width
    keys = config.kv_heads * config.head_width
    qk = width + keys
    attention = 2 * width + qk + keys + width  # input, normalised input, q, k, v, gathered
    attention += qk * (3 if config.qk_norm else 0) + qk * (2 if config.position == "rope" else 0)
    hidden_copies = {"swiglu": 4, "gelu": 2, "relu": 1, "squared_relu": 2}[config.feed_forward]
    dropout = 2 * width if config.dropout else 0
    mixed = width * (1 + config.short_conv) if config.short_conv else 0
    return mixed + attention + 2 * width + hidden_copies * hidden + dropout


def _fused_bytes_per_token(config: ModelConfig, low: int) -> int:
    """Returns what `model.fused` keeps of each token, in numbers of `low` bytes and of four."""
    width, hidden = config.n_embd, config.hidden_width
    heads = width + 2 * config.kv_heads * config.head_width
    ups = 2 if config.feed_forward == "swiglu" else 1
    read = width * (4 if config.short_conv else 3)
    block = 4 * (2 * width + 2 + config.n_head) + low * (read + heads + (ups + 1) * hidden)
    once = 4 * (3 * width + 2) + low * (3 * width + heads + hidden)
    return config.n_layer * block + once


def shape_for(
    parameters: int,
    vocab_size: int,
    config: ModelConfig | None = None,
    tied_head: bool | None = None,
) -> ModelConfig:
    """Returns `config` with the layers, heads and width that come nearest to `parameters`.

    The count comes within 5 % where the steps of width and depth allow it, else within 10. Heads
    are about 16 wide below 128 channels, 32 below 256, 64 below 1,024, then 128; key/value heads
    that `config` names stay as many. Where `tied_head` is None, the head is tied where embedding
    and head would otherwise hold more than 30 % of the parameters.

    Raises:
        UsageError: no shape comes near, mostly because the vocabulary alone asks for more.
    """
    base = dataclasses.replace(config or ModelConfig(), vocab_size=vocab_size)
    widths = [width for width in _widths() if _head_counts(width, base.n_kv_head)]
    if not widths:
        raise UsageError(f"no shape has {base.n_kv_head} key/value heads: ask for fewer")
    best: tuple[float, ModelConfig] | None = None
    for width in widths:
        for layers in range(1, 129):
            shape = _shaped(base, width, layers, tied_head)
            count = parameter_count(shape)
            miss = abs(math.log(count / parameters))
            cost = 4 * miss + 100 * max(0.0, miss - 0.05) + abs(_depth_error(width, layers))
            if best is None or cost < best[0]:
                best = cost, shape
            if count > 2 * parameters:
                break
    assert best is not None
    count = parameter_count(best[1])
    if abs(count / parameters - 1) > 0.1:
        smallest = parameter_count(_shaped(base, widths[0], 1, tied_head))
        raise UsageError(
            f"no shape with {vocab_size:,} ids comes near {parameters:,} parameters "
            f"(the smallest has {smallest:,}): ask for more, or for a smaller vocabulary"
        )
    return best[1]


def _widths() -> list[int]:
    """Returns the widths considered: each divides by its head width."""
    narrow = [*range(8, 64, 8), *range(64, 128, 16), *range(128, 256, 32)]
    return [*narrow, *range(256, 1024, 64), *range(1024, 16_384, 128)]


def _shaped(base: ModelConfig, width: int, layers: int, tied_head: bool | None) -> ModelConfig:
    """Returns `base` at this size; None: tied where untied embeddings would weigh too much."""
    shape = dataclasses.replace(
        base,
        n_embd=width,
        n_layer=layers,
        n_head=_heads(width, base.n_kv_head),
        n_hidden=base.n_hidden or _hidden(base, width),
        tied_head=bool(tied_head),
    )
    if tied_head is not None:
        return shape
    share = 2 * width * base.vocab_size / parameter_count(shape)
    return dataclasses.replace(shape, tied_head=True) if share > TIE_ABOVE else shape


def _hidden(base: ModelConfig, width: int) -> int | None:
    """Returns SwiGLU's 8/3 of the width to the nearest 8, which fills a size better than the
    default's 16; None: that of the config."""
    return 8 * round(width / 3) if base.feed_forward == "swiglu" else None


def _head_counts(width: int, kv_heads: int | None) -> list[int]:
    """Returns the numbers of heads, of even width, that share out so many key/value heads."""
    counts = range(kv_heads or 1, width // 2 + 1, kv_heads or 1)
    return [n for n in counts if width % n == 0 and width // n % 2 == 0]


def _heads(width: int, kv_heads: int | None) -> int:
    """Returns the number of heads that makes their width come nearest to what suits."""
    steps = ((1024, 128), (256, 64), (128, 32), (0, 16))
    wanted = next(head for least, head in steps if width >= least)
    return min(_head_counts(width, kv_heads), key=lambda n: abs(math.log(width / n / wanted)))


def _depth_error(width: int, layers: int) -> float:
    """Returns how far, in octaves, the depth is from the one that suits the width: 3 layers at 64
    channels, 4 at 128, 6 at 256, 13 at 768, 16 at 1,024, 24 at 2,048, as published models have."""
    return math.log2(layers / (1.1 * (width / 16) ** 0.65))
