"""A model's weights as one safetensors file, with its own names; a tied head is stored once."""

from __future__ import annotations

from pathlib import Path

import safetensors
import safetensors.torch
import torch

from microgpt.errors import CheckpointError
from microgpt.model.gpt import GPT


def stored_weights(model: GPT) -> dict[str, torch.Tensor]:
    """Returns the tensors that stand for `model`, by name, without a copy; they still follow it."""
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    if model.config.tied_head:
        del weights["head.weight"]
    return weights


def save_weights(model: GPT, path: Path) -> None:
    """Writes `model`'s weights to `path`. Not atomic: a checkpoint renames the folder around it."""
    tensors = {name: tensor.contiguous().cpu() for name, tensor in stored_weights(model).items()}
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})


def load_weights(model: GPT, path: Path) -> None:
    """Fills `model` with the weights in `path`, which must name exactly its tensors and shapes.

    Raises:
        CheckpointError: the file is missing, torn, or holds another model's weights.
    """
    wanted = stored_weights(model)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"cannot read the weights in {path}: {error}") from error
    for name in sorted(wanted.keys() ^ found.keys()):
        what = "lacks" if name in wanted else "has an unknown"
        raise CheckpointError(f"{path} {what} tensor {name!r}: it belongs to another model")
    for name, tensor in found.items():
        if tensor.shape != wanted[name].shape:
            raise CheckpointError(
                f"{path} holds {name!r} in shape {tuple(tensor.shape)}, but this model's is "
                f"{tuple(wanted[name].shape)}: it belongs to another model"
            )
    with torch.no_grad():
        for name, tensor in found.items():
            wanted[name].copy_(tensor)
