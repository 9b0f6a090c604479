"""A model's weights as one safetensors file, with its own names; a tied head is stored once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import safetensors
import torch

from microgpt.errors import CheckpointError
from microgpt.model.gpt import GPT


class Entry(NamedTuple):
    """A float32 tensor to be written."""

    name: str
    shape: Sequence[int]
    value: Callable[[], torch.Tensor]


def write_tensors(path: Path, entries: Sequence[Entry]) -> None:
    """Writes a safetensors file, one tensor after the other, so that only one is at hand at a time.
    Not atomic: a checkpoint renames the folder around it."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for entry in entries:
        start, end = end, end + 4 * torch.Size(entry.shape).numel()
        header[entry.name] = {
            "dtype": "F32", "shape": list(entry.shape), "data_offsets": [start, end],
        }  # fmt: skip
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for entry in entries:
            tensor = entry.value().detach().float().cpu().contiguous()
            assert tensor.shape == torch.Size(entry.shape), entry.name
            file.write(tensor.reshape(-1).numpy().astype("<f4", copy=False).data)


class TensorFile(Mapping[str, torch.Tensor]):
    """A safetensors file; a tensor is read when it is asked for."""

    def __init__(self, path: Path) -> None:
        """Reads the header.

        Raises:
            CheckpointError: the file is missing or torn.
        """
        self.path = path
        try:
            self._file = safetensors.safe_open(path, framework="pt")
            self._names = list(self._file.keys())
        except (OSError, safetensors.SafetensorError) as error:
            raise CheckpointError(f"cannot read the weights in {path}: {error}") from error

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def require(self, shapes: Mapping[str, torch.Size]) -> None:
        """Does nothing where it holds exactly these tensors.

        Raises:
            CheckpointError: it holds another model's.
        """
        for name in sorted(shapes.keys() ^ self.keys()):
            what = "lacks" if name in shapes else "has an unknown"
            raise CheckpointError(
                f"{self.path} {what} tensor {name!r}: it belongs to another model"
            )
        for name, shape in shapes.items():
            found = tuple(self._file.get_slice(name).get_shape())
            if found != tuple(shape):
                raise CheckpointError(
                    f"{self.path} holds {name!r} in shape {found}, but this model's is "
                    f"{tuple(shape)}: it belongs to another model"
                )


def stored_weights(model: GPT) -> dict[str, torch.Tensor]:
    """Returns the tensors that stand for `model`, by name, without a copy; they still follow it."""
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    if model.config.tied_head:
        del weights["head.weight"]
    return weights


def save_weights(model: GPT, path: Path) -> None:
    """Writes `model`'s weights to `path`. Not atomic: a checkpoint renames the folder around it."""
    weights = stored_weights(model).items()
    write_tensors(path, [Entry(name, t.shape, lambda t=t: t) for name, t in weights])


def load_weights(model: GPT, path: Path) -> None:
    """Fills `model` with the weights in `path`, which must name exactly its tensors and shapes.

    Raises:
        CheckpointError: the file is missing, torn, or holds another model's weights.
    """
    wanted, file = stored_weights(model), TensorFile(path)
    file.require({name: tensor.shape for name, tensor in wanted.items()})
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(file[name])
