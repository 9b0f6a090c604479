"""A training pass on the CPU without autograd: matrix products from torch, all between them from
the Rust core, every array allocated once.

At the widths of a small GPT an eager step spends more than half its time beside its matrix
products: in passes over memory, fresh pages and dispatch. Here a block is four products and four
kernels forward, eight and five backward. It computes what `gpt.py` writes in plain torch, against
which it is tested, for the family that `fits`: RMSNorm before each branch, rotary or no positions,
SwiGLU or squared ReLU, no biases; windows, documents, short convolutions and dropout or none.

N tokens (rows x positions), C width, R rows of stacked queries, keys, values, F hidden, V ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from microgpt.config import IGNORED, ModelConfig
from microgpt.model.attention import first_seen
from microgpt.model.feed_forward import MLP, SwiGLU
from microgpt.model.gpt import GPT, Block
from microgpt.model.kernels import Room, core
from microgpt.model.loss import softcapped
from microgpt.model.norm import RMSNorm
from microgpt.model.sizes import CHUNK_LOGITS


def fits(config: ModelConfig, device: torch.device, dtype: str = "float32") -> bool:
    """Says whether `FusedPass` computes this model, with products in `dtype`."""
    biases = (config.qkv_bias, config.attention_output_bias, config.feed_forward_bias,
              config.head_bias)  # fmt: skip
    return (
        core is not None
        and device.type == "cpu"
        and dtype != "float16"
        and config.norm == "rmsnorm"
        and config.norm_place == "pre"
        and config.final_norm
        and config.position in ("rope", "none")
        and config.feed_forward in ("swiglu", "squared_relu")
        and config.attention == "softmax"
        and config.head_width <= core.MAX_HEAD_WIDTH
        and not any(biases)
    )


class _Matrix:
    """A weight as products take it, and its gradient."""

    def __init__(self, parameter: Tensor, dtype: torch.dtype) -> None:
        self.parameter, self.gradient = parameter, torch.empty_like(parameter.detach())
        self.weight, self.held = parameter.detach(), self.gradient
        self.low = dtype != torch.float32
        if self.low:
            self.weight = torch.empty_like(self.weight, dtype=dtype)
            self.held = torch.empty_like(self.weight)
        self.fresh = True
        """The gradient is still to be begun."""

    def follow(self) -> None:
        """Takes the parameter's numbers where products read a copy."""
        if self.low:
            self.weight.copy_(self.parameter.detach())

    def begin(self) -> None:
        """Follows the parameter, and begins its gradient anew where it was dropped."""
        self.follow()
        self.fresh = self.parameter.grad is None
        self.parameter.grad = self.gradient

    def forward(self, x: Tensor, out: Tensor) -> None:
        """Writes x weight^T to `out`."""
        torch.mm(x, self.weight.t(), out=out)

    def backward(self, slope: Tensor, x: Tensor, x_slope: Tensor) -> None:
        """Writes the derivative by `x` to `x_slope`, and adds that by the weight."""
        torch.mm(slope, self.weight, out=x_slope)
        if self.fresh:
            torch.mm(slope.t(), x, out=self.held)
            if self.low:
                self.gradient.copy_(self.held)
        elif self.low:
            torch.mm(slope.t(), x, out=self.held)
            self.gradient.add_(self.held)
        else:
            self.gradient.addmm_(slope.t(), x)
        self.fresh = False


class _Vector:
    """A norm's gain, or ones that nobody learns, or a convolution's taps, and the gradient."""

    def __init__(self, parameter: Tensor | None, width: int) -> None:
        self.parameter = parameter
        self.values = Room.of(torch.ones(width) if parameter is None else parameter.detach())
        self.gradient = Room.of(torch.zeros_like(self.values.tensor))

    def begin(self) -> None:
        """Begins the gradient anew where it was dropped."""
        if self.parameter is not None:
            _begin(self.parameter, self.gradient.tensor)


def _begin(parameter: Tensor, gradient: Tensor) -> None:
    """Makes `gradient` the parameter's, at zero where it had none."""
    if parameter.grad is None:
        gradient.zero_()
        parameter.grad = gradient


_Dropout = tuple[int, float]
"""A key, from which it follows what falls out, and the share that does."""


class _Heads(NamedTuple):
    """How rows are parted into heads, as the Rust core reads it."""

    length: int
    queries: int
    keys: int
    width: int
    gains: tuple[NDArray[Any], NDArray[Any]] | None
    eps: float
    rotation: tuple[NDArray[Any], NDArray[Any]] | None
    scale: float
    first_seen: NDArray[Any] | None
    dropout: _Dropout | None


class _Mix(NamedTuple):
    """A short convolution, as the Rust core reads it."""

    length: int
    taps: NDArray[Any]
    width: int
    first_seen: NDArray[Any] | None


class _Layer:
    """One block's weights, and what it keeps from forward to backward."""

    def __init__(self, block: Block, config: ModelConfig, dtype: torch.dtype) -> None:
        attention, feed_forward = block.attention, block.feed_forward
        assert isinstance(feed_forward, SwiGLU | MLP)
        up = feed_forward.gate_up if isinstance(feed_forward, SwiGLU) else feed_forward.up
        linears = (attention.qkv, attention.output, up, feed_forward.down)
        self.matrices = [_Matrix(linear.weight, dtype) for linear in linears]
        self.qkv, self.output, self.up, self.down = self.matrices
        norms = (block.attention_norm, block.feed_forward_norm)
        self.norms = [_Vector(_gain(norm), config.n_embd) for norm in norms]
        self.gains = attention.gains() if config.qk_norm else None
        self.gain_gradients = Room.of(torch.zeros(2, config.head_width))
        taps = None if block.short_conv is None else block.short_conv.weight
        self.taps = None if taps is None else _Vector(taps, taps.numel())
        self.scale = attention.scale
        self.dropouts: Sequence[_Dropout | None] = [None] * 3
        """What falls out of attention's weights, of what it adds, of what feed-forward adds."""

    def begin(self) -> None:
        """Follows the parameters, and begins gradients anew where they were dropped."""
        for matrix in self.matrices:
            matrix.begin()
        for norm in self.norms:
            norm.begin()
        if self.taps is not None:
            self.taps.begin()
        for gain, gradient in zip(self.gains or (), self.gain_gradients.tensor, strict=False):
            _begin(gain, gradient)

    def keep(self, tokens: int, config: ModelConfig, dtype: torch.dtype) -> None:
        """Makes room for what `tokens` tokens leave behind: of attention, then feed-forward, the
        stream, its norm and its norm's scale; then what is between the matrices of both."""
        width, hidden = config.n_embd, config.hidden_width
        self.streams = [Room.new(tokens, width) for _ in range(2)]
        self.normed = [Room.new(tokens, width, dtype=dtype) for _ in range(2)]
        self.scales = [Room.new(tokens) for _ in range(2)]
        self.mixed = self.normed[0]
        if self.taps is not None:
            self.mixed = Room.new(tokens, width, dtype=dtype)
        self.parted = Room.new(tokens, self.qkv.weight.size(0), dtype=dtype)
        self.log_sums = Room.new(tokens * config.n_head)
        self.gathered = Room.new(tokens, width, dtype=dtype)
        self.raised = Room.new(tokens, self.up.weight.size(0), dtype=dtype)
        self.activated = Room.new(tokens, hidden, dtype=dtype)


def _padded(tensor: Tensor, rows: int, value: int) -> Tensor:
    """Returns `tensor` with so many rows, the last ones of `value`."""
    return F.pad(tensor, (0, 0, 0, rows - len(tensor)), value=value).contiguous()


def _gain(norm: Any) -> Tensor | None:
    assert isinstance(norm, RMSNorm)
    return norm.weight


class FusedPass:
    """Loss and gradients of one model. Norms, attention's softmax and the loss are float32; matrix
    products take and give `dtype`, float32 or bfloat16."""

    def __init__(self, model: GPT, dtype: torch.dtype = torch.float32) -> None:
        """Prepares for a model that `fits`; the weights stay the model's own."""
        config = self.config = model.config
        self.dtype = dtype
        self.embedding = model.embedding.weight
        self.head = _Matrix(model.head.weight, dtype)
        self.embedding_gradient = (
            self.head.gradient if config.tied_head else torch.zeros_like(self.embedding.detach())
        )
        blocks = [block for block in model.blocks if isinstance(block, Block)]
        self.layers = [_Layer(block, config, dtype) for block in blocks]
        self.first_norm = _Vector(None, config.n_embd)
        self.last_norm = _Vector(_gain(model.final_norm), config.n_embd)
        self.rotation = None
        if config.position == "rope":
            cos, sin = model.get_buffer("rope_cos"), model.get_buffer("rope_sin")
            self.rotation = Room.of(cos).array, Room.of(sin).array
        self.first_dropout: _Dropout | None = None
        self.shape = (0, 0)

    @torch.no_grad()
    def gradients(self, ids: Tensor, targets: Tensor, factor: float) -> float:
        """Returns `factor` times the summed loss at `targets`, in nats, and adds its gradients to
        the parameters'. `ids`, `targets`: (rows, positions) of int64; a target of -100 does not
        count."""
        if tuple(ids.shape) != self.shape:
            self._make_room(*ids.shape)
        self.threads = torch.get_num_threads()
        self.head.begin()
        self.last_norm.begin()
        for layer in self.layers:
            layer.begin()
        if self.config.dropout:
            self._choose_what_drops()
        if not self.config.tied_head:
            _begin(self.embedding, self.embedding_gradient)
        self.first_seen = self._first_seen(ids)
        ids, targets = ids.reshape(-1), targets.reshape(-1).contiguous()
        self._forward(ids)
        loss = self._head(targets, factor)
        self._backward(ids)
        return factor * loss

    @torch.no_grad()
    def forward(
        self, ids: Tensor, targets: Tensor | None = None, *, reduction: str = "sum"
    ) -> Tensor:
        """Returns what `GPT.forward` does in evaluation: float32 logits (rows, positions, V) for
        `ids` (rows, positions), or with `targets` their summed loss in nats.

        It takes as many rows at once as training does, in training's room.
        """
        assert reduction == "sum"
        if not self.shape[0] or ids.size(1) != self.shape[1]:
            self._make_room(*ids.shape)
        self.threads = torch.get_num_threads()
        for matrix in [self.head, *(matrix for layer in self.layers for matrix in layer.matrices)]:
            matrix.follow()
        self.first_dropout = None
        for layer in self.layers:
            layer.dropouts = [None] * 3
        rows, length = self.shape
        loss, logits = 0.0, []
        for first in range(0, len(ids), rows):
            part = _padded(ids[first : first + rows], rows, 0)
            self.first_seen = self._first_seen(part)
            self._forward(part.reshape(-1))
            if targets is not None:
                goals = _padded(targets[first : first + rows], rows, IGNORED)
                loss += self._head(goals.reshape(-1), 1.0, learns=False)
                continue
            count = min(rows, len(ids) - first)
            scores = self.normed.tensor[: count * length] @ self.head.weight.t()
            capped = softcapped(scores.float(), self.config.logit_softcap)
            logits.append(capped.view(count, length, -1))
        return torch.tensor(loss) if targets is not None else torch.cat(logits)

    def _choose_what_drops(self) -> None:
        """Draws a key for each place that drops, from the generator that torch's dropout uses."""
        keys = torch.randint(2**62, (1 + 3 * len(self.layers),)).tolist()
        self.first_dropout, *others = [(key, self.config.dropout) for key in keys]
        for i, layer in enumerate(self.layers):
            layer.dropouts = others[3 * i : 3 * i + 3]

    def _make_room(self, rows: int, length: int) -> None:
        config, dtype = self.config, self.dtype
        self.shape, tokens, width = (rows, length), rows * length, config.n_embd
        for layer in self.layers:
            layer.keep(tokens, config, dtype)
        self.embedded, self.last = Room.new(tokens, width), Room.new(tokens, width)
        if not config.embedding_norm:
            self.layers[0].streams[0] = self.embedded
        self.normed = Room.new(tokens, width, dtype=dtype)
        self.scale, self.first_scale = Room.new(tokens), Room.new(tokens)
        self.branch = Room.new(tokens, width, dtype=dtype)
        # Derivatives of the loss by the stream, by stacked heads, by the activated.
        self.slope = self.slope_read = Room.new(tokens, width)
        if dtype != torch.float32 or config.dropout:
            self.slope_read = Room.new(tokens, width, dtype=dtype)
        self.parted_slope = Room.new(tokens, self.layers[0].qkv.weight.size(0), dtype=dtype)
        self.activated_slope = Room.new(tokens, config.hidden_width, dtype=dtype)
        self.chunk = min(tokens, max(1, CHUNK_LOGITS // config.vocab_size))
        self.logits = Room.new(self.chunk, config.vocab_size, dtype=dtype)

    def _heads(self, layer: _Layer) -> _Heads:
        config = self.config
        gains = None
        if layer.gains is not None:
            gains = layer.gains[0].detach().numpy(), layer.gains[1].detach().numpy()
        heads = config.n_head, config.kv_heads, config.head_width
        shape = self.shape[1], *heads, gains, config.norm_eps, self.rotation, layer.scale
        return _Heads(*shape, self.first_seen, layer.dropouts[0])

    def _mix(self, taps: _Vector) -> _Mix:
        return _Mix(self.shape[1], taps.values.array, self.config.n_embd, self.first_seen)

    def _first_seen(self, ids: Tensor) -> NDArray[Any] | None:
        window, document_start = self.config.sliding_window, self.config.document_start
        if window is None and document_start is None:
            return None
        return first_seen(ids, window, document_start).reshape(-1).numpy().view("uint32")

    def _drop(self, dropout: _Dropout | None, x: Room) -> None:
        if dropout is not None:
            core.drop_out(dropout, x.array, self.config.n_embd, self.threads)

    def _norm(
        self, x: Room, branch: Room | None, norm: _Vector, total: Room, y: Room, scale: Room
    ) -> None:
        """Writes x + branch to `total`, and its norm to `y`; without a branch that of `x`."""
        added = None if branch is None else branch.array
        out = total.array, y.array, scale.array
        core.add_norm(x.array, added, norm.values.array, self.config.norm_eps, *out, self.threads)

    def _forward(self, ids: Tensor) -> None:
        """Fills each layer's room, and `normed` with what the head reads."""
        torch.index_select(self.embedding, 0, ids, out=self.embedded.tensor)
        x, branch, unused = self.layers[0].streams[0], self.branch, self.slope
        if self.config.embedding_norm:
            self._norm(self.embedded, None, self.first_norm, unused, x, self.first_scale)
        self._drop(self.first_dropout, x)
        for i, layer in enumerate(self.layers):
            first, second = layer.streams
            added, total = (None, unused) if i == 0 else (branch, first)
            self._norm(x, added, layer.norms[0], total, layer.normed[0], layer.scales[0])
            if layer.taps is not None:
                spec = self._mix(layer.taps)
                core.mix(spec, layer.normed[0].array, layer.mixed.array, self.threads)
            layer.qkv.forward(layer.mixed.tensor, layer.parted.tensor)
            heads, out = self._heads(layer), (layer.gathered.array, layer.log_sums.array)
            core.attention(heads, layer.parted.array, *out, self.threads)
            layer.output.forward(layer.gathered.tensor, branch.tensor)
            self._drop(layer.dropouts[1], branch)
            self._norm(first, branch, layer.norms[1], second, layer.normed[1], layer.scales[1])
            layer.up.forward(layer.normed[1].tensor, layer.raised.tensor)
            kind, width = self.config.feed_forward, self.config.hidden_width
            raised, activated = layer.raised.array, layer.activated.array
            core.activate(kind, raised, width, activated, self.threads)
            layer.down.forward(layer.activated.tensor, branch.tensor)
            self._drop(layer.dropouts[2], branch)
            x = second
        self._norm(x, branch, self.last_norm, self.last, self.normed, self.scale)

    def _head(self, targets: Tensor, factor: float, learns: bool = True) -> float:
        """Returns the loss; where the model `learns`, leaves its derivative by `normed` in `branch`
        and adds the head's gradient."""
        loss, softcap = 0.0, self.config.logit_softcap
        for start in range(0, len(targets), self.chunk):
            part = slice(start, start + self.chunk)
            x, goal = self.normed.tensor[part], targets[part]
            logits, array = self.logits.tensor[: len(goal)], self.logits.array
            self.head.forward(x, logits)
            array = array[: logits.numel()]
            loss += core.cross_entropy(array, goal.numpy(), softcap, factor, self.threads)
            if learns:
                self.head.backward(logits, x, self.branch.tensor[part])
        return loss

    def _norm_back(self, slope: Room, x: Room, norm: _Vector, scale: Room) -> None:
        """Adds to the derivative by the stream what `slope`, that by its norm, contributes."""
        copy = None if self.slope_read is self.slope else self.slope_read.array
        out = self.slope.array, copy, norm.gradient.array
        core.norm_back(slope.array, x.array, norm.values.array, scale.array, *out, self.threads)

    def _backward(self, ids: Tensor) -> None:
        """Adds all gradients but the head's."""
        slope, branch = self.slope_read.tensor, self.branch
        self.slope.tensor.zero_()
        self._norm_back(branch, self.last, self.last_norm, self.scale)
        for layer in reversed(self.layers):
            self._drop(layer.dropouts[2], self.slope_read)
            layer.down.backward(slope, layer.activated.tensor, self.activated_slope.tensor)
            kind, width = self.config.feed_forward, self.config.hidden_width
            given = self.activated_slope.array
            core.activate_back(kind, given, width, layer.raised.array, self.threads)
            layer.up.backward(layer.raised.tensor, layer.normed[1].tensor, branch.tensor)
            self._norm_back(branch, layer.streams[1], layer.norms[1], layer.scales[1])
            self._drop(layer.dropouts[1], self.slope_read)
            layer.output.backward(slope, layer.gathered.tensor, branch.tensor)
            given = branch.array, layer.parted.array, layer.log_sums.array
            out = self.parted_slope.array, layer.gain_gradients.array
            core.attention_back(self._heads(layer), *given, *out, self.threads)
            layer.qkv.backward(self.parted_slope.tensor, layer.mixed.tensor, branch.tensor)
            if layer.taps is not None:
                given = self._mix(layer.taps), layer.normed[0].array, branch.array
                core.mix_back(*given, layer.taps.gradient.array, self.threads)
            self._norm_back(branch, layer.streams[0], layer.norms[0], layer.scales[0])
        stream = self.slope
        self._drop(self.first_dropout, stream)
        if self.config.embedding_norm:
            stream = Room.of(torch.zeros_like(self.slope.tensor))
            given = self.slope.array, self.embedded.array, self.first_norm.values.array
            out = stream.array, None, self.first_norm.gradient.array
            core.norm_back(*given, self.first_scale.array, *out, self.threads)
        self.embedding_gradient.index_add_(0, ids, stream.tensor)
