"""From raw text to a small GPT that you trained, understood and talked to.

The public names load on first use, so that `import microgpt` stays light and needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from microgpt._core import __version__
    from microgpt.text.tokenizer import Tokenizer

__all__ = ["Tokenizer", "__version__"]

_HOMES = {"Tokenizer": "microgpt.text.tokenizer", "__version__": "microgpt._core"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'microgpt' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
