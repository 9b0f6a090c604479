"""IDS -> LOGITS: one configurable GPT, its sizes, its weights on disk, its key/value cache.

`sizes` works without torch; the names below import it when first touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from microgpt.model.gpt import GPT
    from microgpt.model.kv_cache import KVCache
    from microgpt.model.weights import load_weights, save_weights

__all__ = ["GPT", "KVCache", "load_weights", "save_weights"]


def __getattr__(name: str) -> Any:
    if name == "GPT":
        from microgpt.model.gpt import GPT

        return GPT
    if name == "KVCache":
        from microgpt.model.kv_cache import KVCache

        return KVCache
    if name in ("load_weights", "save_weights"):
        from microgpt.model import weights

        return getattr(weights, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
