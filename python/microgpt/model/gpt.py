"""The GPT: embedding, blocks of attention and feed-forward on a residual stream, head.

B batch, T positions of this call, C width (`n_embd`), V ids (`vocab_size`).

The default is Qwen3's mathematics in small. Names in the state dict, with Qwen3's in brackets:

    embedding.weight (V, C)                         [model.embed_tokens]
    positions.weight (context, C)                   learned positions only
    blocks.i.attention_norm.weight (C,)             [input_layernorm]
    blocks.i.short_conv.weight (taps, C)            where there is one
    blocks.i.attention.qkv.weight                   [q_proj, k_proj, v_proj: rows in that order]
    blocks.i.attention.q_norm.weight, .k_norm.weight (D,)
    blocks.i.attention.output.weight (C, C)         [o_proj]
    blocks.i.feed_forward_norm.weight (C,)          [post_attention_layernorm]
    blocks.i.feed_forward.gate_up.weight (2F, C)    [gate_proj, up_proj: rows in that order]
    blocks.i.feed_forward.up.weight (F, C)          where it is no SwiGLU
    blocks.i.feed_forward.down.weight (C, F)        [down_proj]
    final_norm.weight (C,)                          [model.norm]
    head.weight (V, C)                              [lm_head], tied: the embedding's own tensor
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from microgpt.config import IGNORED, ModelConfig
from microgpt.errors import UsageError
from microgpt.model.attention import (
    Attention,
    Mask,
    Rope,
    block_mask,
    document_mask,
    flexible,
    window_mask,
)
from microgpt.model.feed_forward import make_feed_forward
from microgpt.model.kv_cache import KVCache
from microgpt.model.loss import head_loss, softcapped
from microgpt.model.norm import make_norm
from microgpt.model.position import rope_tables, sinusoids
from microgpt.model.short_conv import ShortConv


@dataclass(frozen=True)
class Matrix:
    """A matrix inside a block. `rows` are the heights of the matrices stacked in it."""

    name: str
    parameter: nn.Parameter
    rows: tuple[int, ...]


class Reach(NamedTuple):
    """Where positions are and what they see, the same for each block."""

    rope: Rope | None
    mask: Mask
    documents: Tensor | None
    """The number of each position's document, (B, S), where documents are kept apart."""


class Block(nn.Module):
    """Attention, then feed-forward, each added to the stream; norms before, or after the sums."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = make_norm(config)
        self.short_conv = ShortConv(config, layer) if config.short_conv else None
        self.attention = Attention(config, layer)
        self.feed_forward_norm = make_norm(config)
        self.feed_forward = make_feed_forward(config)
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.norm_first = config.norm_place == "pre"

    def forward(self, x: Tensor, reach: Reach, cache: KVCache | None = None) -> Tensor:
        """Returns the stream after this block, (B, T, C)."""
        if self.norm_first:
            x = x + self.dropout(self._attend(self.attention_norm(x), reach, cache))
            return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        x = self.attention_norm(x + self.dropout(self._attend(x, reach, cache)))
        return self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))

    def _attend(self, x: Tensor, reach: Reach, cache: KVCache | None) -> Tensor:
        if self.short_conv is not None:
            x = self.short_conv(x, reach.documents, cache)
        return self.attention(x, reach.rope, reach.mask, cache)


class GPT(nn.Module):
    """A decoder-only transformer, built as its `config` says and ready to train."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.recompute_activations = False
        """Trades time for memory: each block's activations are computed again in the backward."""
        self.embedding = nn.Embedding(config.vocab_size, config.n_embd)
        if config.position == "learned":
            self.positions = nn.Embedding(config.context, config.n_embd)
        elif config.position == "sinusoidal":
            table = sinusoids(config.context, config.n_embd)
            self.register_buffer("sinusoids", table, persistent=False)
        elif config.position == "rope":
            cos, sin = rope_tables(config.context, config.head_width, config.rope_theta)
            self.register_buffer("rope_cos", cos[:, None], persistent=False)  # (context, 1, D)
            self.register_buffer("rope_sin", sin[:, None], persistent=False)
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.final_norm = make_norm(config) if config.final_norm else nn.Identity()
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=config.head_bias)
        if config.tied_head:
            self.head.weight = self.embedding.weight
        self.initialize()

    def forward(
        self,
        ids: Tensor,
        targets: Tensor | None = None,
        *,
        reduction: str = "mean",
        cache: KVCache | None = None,
        last_only: bool = False,
    ) -> Tensor:
        """Returns logits (B, T, V) for `ids` (B, T), or with `targets` (B, T) the loss in nats.

        A target of -100 does not count. The loss is a float32 scalar: the mean over the targets
        that count (0 where none does), or with `reduction="sum"` their sum. With a `cache`, `ids`
        follow the positions in it, and it grows by T. `last_only` gives logits (B, 1, V) of the
        last position.

        Raises:
            UsageError: more positions than the context holds.
        """
        x = self.hidden(ids, cache)
        if targets is None:
            x = x[:, -1:] if last_only else x
            return softcapped(self.head(x), self.config.logit_softcap)
        goal = targets.reshape(-1)
        loss = head_loss(
            x.flatten(0, 1), self.head.weight, self.head.bias, goal, self.config.logit_softcap
        )
        return loss if reduction == "sum" else loss / (goal != IGNORED).sum().clamp(min=1)

    def hidden(self, ids: Tensor, cache: KVCache | None = None) -> Tensor:
        """Returns the stream before the head, (B, T, C), normalised where the model does so."""
        length = ids.size(1)
        start = 0 if cache is None else cache.length
        if start + length > self.config.context:
            raise UsageError(
                f"{start + length} positions, but the model's context holds {self.config.context}"
            )
        x = self._embed(ids, start)
        documents = self._documents(start, ids, cache)
        mask = self._mask(start, ids, documents, cache)
        reach = Reach(self._rope(start, length), mask, documents)
        for block in self.blocks:
            if self.recompute_activations and self.training:
                x = checkpoint(block, x, reach, use_reentrant=False)
            else:
                x = block(x, reach, cache)
        if cache is not None:
            cache.advance(length)
        return self.final_norm(x)

    def _embed(self, ids: Tensor, start: int) -> Tensor:
        x = self.embedding(ids)
        stop = start + ids.size(1)
        if self.config.position == "learned":
            x = x + self.positions.weight[start:stop]
        elif self.config.position == "sinusoidal":
            x = x + self.get_buffer("sinusoids")[start:stop]
        if self.config.embedding_norm:
            x = F.rms_norm(x, (x.size(-1),), None, self.config.norm_eps)
        return self.dropout(x)

    def _rope(self, start: int, length: int) -> Rope | None:
        if self.config.position != "rope":
            return None
        cos, sin = self.get_buffer("rope_cos"), self.get_buffer("rope_sin")
        return cos[start : start + length], sin[start : start + length]

    def _mask(
        self, start: int, ids: Tensor, documents: Tensor | None, cache: KVCache | None
    ) -> Mask:
        """Returns None where attention is plainly causal, or one query that sees all it may."""
        window, length, device = self.config.sliding_window, ids.size(1), ids.device
        narrow = window is not None and window < start + length
        if documents is None and (length == 1 or (start == 0 and not narrow)):
            return None
        noisy = self.config.dropout > 0 and self.training
        if cache is None and not noisy and flexible(device.type) is not None:
            return block_mask(length, window, documents, device)
        seen = window_mask(length, start + length, window, device)
        return seen if documents is None else document_mask(seen, documents[:, start:], documents)

    def _documents(self, start: int, ids: Tensor, cache: KVCache | None) -> Tensor | None:
        """Returns the number of each position's document, (B, S), where attention stays inside."""
        if self.config.document_start is None:
            return None
        numbers = (ids == self.config.document_start).cumsum(1)
        if cache is None:
            return numbers
        if start:
            numbers = numbers + cache.documents[:, start - 1, None]
        cache.documents[:, start : start + ids.size(1)] = numbers
        return cache.documents[:, : start + ids.size(1)]

    @torch.no_grad()
    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Draws all weights anew: gains 1, offsets 0, matrices normal with the deviations below.

        A matrix that reads the stream: 1 / sqrt(its inputs), so that its output has the scale of
        its input. One that writes to it: that over sqrt(2 x layers), so that the stream's scale
        does not grow with depth (Radford et al. 2019), or zero. The head: 0.02, but at most
        0.25 / sqrt(C), so that the first loss lies within a few hundredths of ln V. Embedding and
        learned positions: 1, or as the head where it shares the embedding's matrix.
        """
        config = self.config
        writes = 0.0 if config.zero_output else 1 / math.sqrt(2 * config.n_layer)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                std = module.in_features**-0.5
                nn.init.normal_(module.weight, std=std, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            for name, parameter in module.named_parameters(recurse=False):
                if name == "weight" and parameter.dim() == 1:
                    nn.init.ones_(parameter)
        for block in self.blocks:
            assert isinstance(block, Block)
            block.attention.output.weight.mul_(writes)
            if block.attention.decay is not None:
                self._initialize_decay(block.attention.decay)
            block.feed_forward.get_submodule("down").get_parameter("weight").mul_(writes)
        head_std = min(0.02, 0.25 / math.sqrt(config.n_embd))
        nn.init.normal_(self.head.weight, std=head_std, generator=generator)
        std = head_std if config.tied_head else 1.0
        if not config.tied_head:
            nn.init.normal_(self.embedding.weight, std=std, generator=generator)
        if config.position == "learned":
            nn.init.normal_(self.positions.weight, std=std, generator=generator)

    def _initialize_decay(self, decay: nn.Linear) -> None:
        """Lets heads remember about 2, ..., 256 positions, whatever the token."""
        nn.init.zeros_(decay.weight)
        memory = torch.logspace(1, 8, decay.out_features, 2.0)
        decay.bias.copy_(torch.log(memory - 1))

    def block_matrices(self) -> list[Matrix]:
        """Returns the matrices inside the blocks, which Muon orthogonalises, each with the heights
        of the projections stacked in it (queries, keys, values; gate, up). A convolution's taps
        multiply channel by channel, so they are none."""
        matrices = []
        for name, parameter in self.blocks.named_parameters(prefix="blocks"):
            if parameter.dim() != 2 or name.endswith("short_conv.weight"):
                continue
            rows = (parameter.size(0),)
            if name.endswith("attention.qkv.weight"):
                kv = self.config.kv_heads * self.config.head_width
                rows = (self.config.n_embd, kv, kv)
            elif name.endswith("gate_up.weight"):
                rows = (self.config.hidden_width,) * 2
            matrices.append(Matrix(name, parameter, rows))
        return matrices

    def parameter_count(self) -> int:
        """Returns how many numbers training adjusts; a tied head counts once."""
        return sum(parameter.numel() for parameter in self.parameters())
