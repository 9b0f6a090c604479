"""The Rust core's kernels, and tensors as they take them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor


def _load() -> Any:
    """Returns the Rust core, or None in a source tree where it was not built since this file."""
    try:
        from microgpt import _core
    except ImportError:
        return None
    return _core if hasattr(_core, "MAX_HEAD_WIDTH") else None


core = _load()


def flat(tensor: Tensor) -> NDArray[Any]:
    """Returns the memory of a contiguous tensor as an array of one dimension; bfloat16 as bits."""
    bits = tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor
    return bits.detach().view(-1).numpy()


class Room(NamedTuple):
    """A tensor, and the same memory as the array that the Rust core takes."""

    tensor: Tensor
    array: NDArray[Any]

    @staticmethod
    def of(tensor: Tensor) -> Room:
        """Returns the room of a contiguous tensor."""
        return Room(tensor, flat(tensor))

    @staticmethod
    def new(*shape: int, dtype: torch.dtype = torch.float32) -> Room:
        """Returns a room that holds anything."""
        return Room.of(torch.empty(shape, dtype=dtype))
