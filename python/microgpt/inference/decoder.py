"""A text in the model's view, fed id by id: the logits of what comes next, from a KV cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from microgpt.model.gpt import GPT
from microgpt.model.kv_cache import KVCache


class Decoder:
    """Holds the ids of a text and the logits behind its last one.

    When the text outgrows the context, the model goes on from its last half context, which is fed
    again from position 0 (docs/model.md says why); `window_start` says where its view begins.
    """

    def __init__(self, model: GPT) -> None:
        parameter = next(model.parameters())
        self.model = model
        self.device = parameter.device
        self.ids: list[int] = []
        self.window_start = 0
        """Index in `ids` of the first one that the model still sees."""
        self._cache = KVCache(model.config, device=self.device, dtype=parameter.dtype)
        self._logits: Tensor | None = None

    @property
    def logits(self) -> Tensor:
        """Logits (V,), float32 on the CPU, of the id that follows; after the first `feed`."""
        assert self._logits is not None
        return self._logits

    def feed(self, ids: Sequence[int]) -> None:
        """Appends `ids`, at least one."""
        assert len(ids) > 0
        self.ids.extend(ids)
        context = self.model.config.context
        if self._cache.length + len(ids) > context:
            kept = min(len(self.ids), max(1, context // 2))
            self.window_start = len(self.ids) - kept
            self._cache.truncate(0)
            ids = self.ids[self.window_start :]
        with torch.inference_mode():
            row = torch.tensor([ids], device=self.device)
            logits = self.model(row, cache=self._cache, last_only=True)
            self._logits = logits[0, -1].float().cpu()

    def restart(self) -> None:
        """Forgets the text."""
        self.ids = []
        self.window_start = 0
        self._cache.truncate(0)
        self._logits = None
