"""Where a model's numbers lie: whole in every process, or each process a part.

FSDP2 (`fully_shard`) gives every process a share of each parameter's rows; a block's weights are
gathered while it computes, and its gradients are added up on their way back. Tensor parallelism
(`parallelize_module`) gives it a share of the heads and of the hidden channels of every block,
which it alone computes. Both together make a grid: `tensor` neighbours share rows of the batch,
and the columns of such neighbours share the parameters.

Optimizer, average and checkpoints see one thing: `here`, what this process holds of each parameter.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from microgpt.config import ModelConfig
from microgpt.errors import UsageError
from microgpt.model.gpt import GPT, Block, Matrix
from microgpt.training.ranks import ALONE, Ranks

SHARD_ABOVE = 150_000_000
"""Parameters from which on several processes share a model, where nothing was said."""
_BY_ROWS = ("attention.qkv", "feed_forward.gate_up", "feed_forward.up")
_BY_COLUMNS = ("attention.output", "feed_forward.down")


class Part(Protocol):
    """Some rows of a matrix that one process orthogonalises, which has `weight` and gradient."""

    name: str
    rows: slice
    weight: Tensor

    def gradient(self) -> Tensor:
        """The part's rows of the gradient."""
        ...


Shares = Sequence[Sequence[Part]]
"""By process, the parts that it orthogonalises."""


class Placement:
    """Every process holds every parameter whole; the rows of a batch are shared."""

    is_split = False

    def __init__(self, model: GPT, ranks: Ranks = ALONE) -> None:
        self.model, self.ranks = model, ranks
        self.here: dict[str, Tensor] = dict(model.named_parameters())
        """What this process holds of each parameter, in the parameter's memory."""
        self.shapes = {name: p.shape for name, p in model.named_parameters()}
        """Shapes of whole parameters."""

    def matrices(self) -> list[Matrix]:
        """Returns the matrices inside the blocks, by whole shape."""
        return self.model.block_matrices()

    def collect(self) -> None:
        """Makes the gradients in `here` those of the whole batch."""
        self.ranks.add_up(p.grad for p in self.here.values() if p.grad is not None)

    def norm(self) -> Tensor:
        """Returns the norm of all gradients."""
        return nn.utils.get_total_norm([p.grad for p in self.here.values() if p.grad is not None])

    def gather(self, shares: Shares) -> None:
        """Brings each part's gradient to the process that orthogonalises it."""

    def scatter(self, shares: Shares, keep: float) -> None:
        """Brings what each process made of its parts to those that hold them; `keep` is what decay
        leaves of a weight."""
        self.ranks.spread([[part.weight for part in share] for share in shares])

    def cut(self, name: str, whole: Tensor) -> Tensor:
        """Returns what this process holds of a tensor of the parameter's shape."""
        return whole

    def whole(self, name: str, part: Tensor) -> Tensor:
        """Returns, in the first process, the tensor of which each holds `part`; all must ask."""
        return part

    def is_sound(self) -> bool:
        """Whether all weights are finite."""
        return all(bool(torch.isfinite(p).all()) for p in self.here.values())

    def settle(self) -> None:
        """Ends an evaluation: what it gathered is dropped, so that new weights are seen."""

    def seen(self, values: Mapping[str, Tensor]) -> GPT | None:
        """Returns, in the first process, the model to look at, with parts of weights as in `values`
        where it is split, else the model as it is; all must ask."""
        return self.model


class _Held(NamedTuple):
    """What one process holds of a parameter."""

    rows: Tensor
    """Places of its rows in the whole."""
    columns: slice
    speaks: bool
    """Whether it is the one to ask, of those that hold the same."""

    def of(self, whole: Tensor) -> Tensor:
        """Returns its part of the whole."""
        rows = whole[self.rows]
        return rows[:, self.columns] if rows.dim() == 2 else rows

    def put(self, part: Tensor, whole: Tensor) -> None:
        """Writes its part into the whole."""
        if whole.dim() == 2:
            whole[self.rows, self.columns] = part
        else:
            whole[self.rows] = part


@dataclass(frozen=True)
class _Move:
    """Rows of a part that lie in one process and are worked on in another."""

    part: Part
    holder: int
    owner: int
    local: Tensor
    """Places of the rows in what the holder has of the parameter."""
    place: _Held
    """Their places in the part."""


class Split(Placement):
    """Each process holds a part of every parameter."""

    is_split = True

    def __init__(self, model: GPT, ranks: Ranks, device: torch.device) -> None:
        """Splits `model`, whose weights are equal in all processes, in its place.

        Raises:
            UsageError: heads or hidden channels do not divide by the tensor-parallel processes.
        """
        super().__init__(model, ranks)
        self.device = device
        self._whole = [
            Matrix(m.name, nn.Parameter(torch.empty_like(m.parameter, device="meta")), m.rows)
            for m in model.block_matrices()
        ]
        self._heights = {matrix.name: matrix.rows for matrix in self._whole}
        self._holders = {
            name: [self._held(name, shape, rank) for rank in range(ranks.world)]
            for name, shape in self.shapes.items()
        }
        self._neighbours = _split(model, ranks, device, self._permutation)
        self.here = {name: _local(p.detach()) for name, p in model.named_parameters()}
        for name, part in self.here.items():
            held = self._holders[name][ranks.rank]
            assert part.size(0) == len(held.rows), name
        self._plan: tuple[Shares, list[_Move]] | None = None

    def _permutation(self, name: str, size: int, share: int) -> Tensor:
        """Places of the rows that tensor-parallel process `share` computes: of each of the matrices
        stacked in the parameter its part, as heads and pairs of gate and up belong together."""
        heights = self._heights.get(name.replace(".bias", ".weight"), (size,))
        stacked = torch.arange(size).split(heights)
        return torch.cat([rows.chunk(self.ranks.tensor)[share] for rows in stacked])

    def _held(self, name: str, shape: torch.Size, rank: int) -> _Held:
        tensor, data = self.ranks.tensor, self.ranks.data_world
        share, number = rank % tensor, rank // tensor
        rows, columns, speaks = torch.arange(shape[0]), slice(None), share == 0
        layer = name.split(".", 2)[-1].rpartition(".")[0]
        if tensor > 1 and layer in _BY_ROWS:
            rows, speaks = self._permutation(name, shape[0], share), True
        elif tensor > 1 and layer in _BY_COLUMNS and len(shape) == 2:
            width = shape[1] // tensor
            columns, speaks = slice(share * width, (share + 1) * width), True
        each = -(-len(rows) // data)
        return _Held(rows[number * each : (number + 1) * each], columns, speaks)

    def matrices(self) -> list[Matrix]:
        """Returns the matrices inside the blocks, as whole shapes without numbers."""
        return self._whole

    def collect(self) -> None:
        """Puts gradients, which FSDP has added up, beside what is here of the parameters. Gains of
        queries and keys learn from each process' heads."""
        gains = []
        for name, parameter in self.model.named_parameters():
            part, gradient = self.here[name], parameter.grad
            parameter.grad = None
            if gradient is not None:
                part.grad = _local(gradient)
                if name.endswith(("q_norm.weight", "k_norm.weight")):
                    gains.append(part.grad)
        if self._neighbours is not None:
            self.ranks.add_up(gains, self._neighbours)

    def norm(self) -> Tensor:
        """Returns the norm of all gradients, each number counted once."""
        squares = [
            float(part.grad.double().square().sum())
            for name, part in self.here.items()
            if part.grad is not None and self._holders[name][self.ranks.rank].speaks
        ]
        (total,) = self.ranks.summed([math.fsum(squares)])
        return torch.tensor(math.sqrt(total), device=self.device)

    def gather(self, shares: Shares) -> None:
        """Brings each part's gradient to its owner, and makes the part's weight zero there."""
        sends, receives, landed = [], [], []
        for move in self._moves(shares):
            if move.holder == self.ranks.rank:
                gradient = self.here[move.part.name].grad
                assert gradient is not None
                rows = _rows(gradient, move.local)
                if move.owner == self.ranks.rank:
                    move.place.put(rows, move.part.gradient())
                else:
                    sends.append((rows, move.owner))
            elif move.owner == self.ranks.rank:
                room = torch.empty_like(move.place.of(move.part.weight))
                receives.append((room, move.holder))
                landed.append((move, room))
        self.ranks.swap(sends, receives)
        for move, room in landed:
            move.place.put(room, move.part.gradient())
        for part in shares[self.ranks.rank]:
            part.weight.zero_()

    def scatter(self, shares: Shares, keep: float) -> None:
        """Brings each part's change from its owner to those that hold it."""
        sends, receives, landed = [], [], []
        for move in self._moves(shares):
            if move.owner == self.ranks.rank:
                change = move.place.of(move.part.weight).contiguous()
                if move.holder == self.ranks.rank:
                    landed.append((move, change))
                else:
                    sends.append((change, move.holder))
            elif move.holder == self.ranks.rank:
                room = torch.empty_like(_rows(self.here[move.part.name], move.local))
                receives.append((room, move.owner))
                landed.append((move, room))
        self.ranks.swap(sends, receives)
        for move, change in landed:
            here = self.here[move.part.name]
            here[move.local] = here[move.local].mul_(keep).add_(change)

    def _moves(self, shares: Shares) -> list[_Move]:
        """Returns what has to move between owners and holders, worked out once for each optimizer;
        in one order, so that sends and receives meet."""
        if self._plan is None or self._plan[0] is not shares:
            self._plan = shares, list(self._planned(shares))
        return self._plan[1]

    def _planned(self, shares: Shares) -> Iterator[_Move]:
        for owner, share in enumerate(shares):
            for part in share:
                for holder, held in enumerate(self._holders[part.name]):
                    inside = (held.rows >= part.rows.start) & (held.rows < part.rows.stop)
                    if bool(inside.any()):
                        rows = held.rows[inside] - part.rows.start
                        place = _Held(rows, held.columns, True)
                        yield _Move(part, holder, owner, inside.nonzero()[:, 0], place)

    def cut(self, name: str, whole: Tensor) -> Tensor:
        """Returns what this process holds of a tensor of the parameter's shape."""
        return self._holders[name][self.ranks.rank].of(whole)

    def whole(self, name: str, part: Tensor) -> Tensor:
        """Returns, in the first process, the tensor of which each holds `part`; all must ask."""
        holders = self._holders[name]
        if not self.ranks.is_first:
            speaks = holders[self.ranks.rank].speaks and part.numel() > 0
            self.ranks.swap([(part.contiguous(), 0)] if speaks else [], [])
            return part
        whole = part.new_empty(self.shapes[name])
        landed = [
            (held, torch.empty_like(held.of(whole)), rank)
            for rank, held in enumerate(holders)
            if rank and held.speaks and len(held.rows)
        ]
        self.ranks.swap([], [(room, rank) for _, room, rank in landed])
        for held, room, _ in landed:
            held.put(room, whole)
        holders[0].put(part, whole)
        return whole

    def is_sound(self) -> bool:
        """Whether all weights are finite, in every process."""
        return not self.ranks.any(not super().is_sound())

    def settle(self) -> None:
        """Ends an evaluation: what it gathered is dropped, so that new weights are seen."""
        for module in self.model.modules():
            if hasattr(module, "reshard"):
                module.reshard()  # type: ignore[operator]

    def seen(self, values: Mapping[str, Tensor]) -> GPT | None:
        """Returns, in the first process, a whole copy of the model with weights of which each holds
        its parts in `values`; all must ask."""
        copy = GPT(self.model.config).to(self.device) if self.ranks.is_first else None
        parameters = {} if copy is None else dict(copy.named_parameters())
        for name, part in values.items():
            whole = self.whole(name, part.detach())
            if copy is not None:
                parameters[name].detach().copy_(whole)
        return copy


def place(model: GPT, ranks: Ranks, device: torch.device) -> Placement:
    """Returns where the model's numbers lie, and brings them there.

    Raises:
        UsageError: heads or hidden channels do not divide by the tensor-parallel processes.
    """
    large = model.parameter_count() > SHARD_ABOVE
    shard = large if ranks.shard is None else ranks.shard
    if ranks.world == 1 or (ranks.tensor == 1 and not shard):
        return Placement(model, ranks)
    return Split(model, ranks, device)


def require_divisible(config: ModelConfig, tensor: int) -> None:
    """Does nothing where `tensor` processes can share each block.

    Raises:
        UsageError: heads or hidden channels do not divide.
    """
    if tensor > 1 and config.attention == "linear":
        raise UsageError("--tensor-parallel shares out softmax attention, not attention = 'linear'")
    counts = {"key heads": config.kv_heads, "hidden channels": config.hidden_width}
    for what, count in counts.items():
        if count % tensor:
            raise UsageError(
                f"--tensor-parallel {tensor} shares out heads and hidden channels, but the model's "
                f"{count} {what} do not divide: choose another number or shape"
            )


def _split(model: GPT, ranks: Ranks, device: torch.device, permutation: Any) -> Any:
    """Splits the model; returns the group of processes that share its heads, if it has several."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        parallelize_module,
    )

    tensor = ranks.tensor
    require_divisible(model.config, tensor)
    shape = (ranks.data_world, tensor)
    mesh = init_device_mesh(device.type, shape, mesh_dim_names=("data", "tensor"))
    blocks = [block for block in model.blocks if isinstance(block, Block)]
    if tensor > 1:
        _permute(model, tensor, permutation)
        for block in blocks:
            known = dict(block.named_modules())
            plan: dict[str, Any] = {name: ColwiseParallel() for name in _BY_ROWS if name in known}
            plan |= {name: RowwiseParallel() for name in _BY_COLUMNS}
            parallelize_module(block, mesh["tensor"], plan)
            block.attention.n_head //= tensor
            block.attention.n_kv //= tensor
    if ranks.data_world > 1:
        for module in (*blocks, model):
            fully_shard(module, mesh=mesh["data"])
    return mesh["tensor"].get_group() if tensor > 1 else None


@torch.no_grad()
def _permute(model: GPT, tensor: int, permutation: Any) -> None:
    """Orders rows so that equal shares, end to end, are those of the processes."""
    for name, parameter in model.named_parameters():
        if name.split(".", 2)[-1].rpartition(".")[0] in _BY_ROWS:
            shares = [permutation(name, len(parameter), share) for share in range(tensor)]
            parameter.copy_(parameter[torch.cat(shares)])


def _local(tensor: Tensor) -> Tensor:
    """Returns the part of a distributed tensor that lies here, or a plain one as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # type: ignore[operator]


def _rows(tensor: Tensor, places: Tensor) -> Tensor:
    """Returns rows, contiguous; without a copy where they follow one another."""
    first, last = int(places[0]), int(places[-1])
    if last - first + 1 == len(places):
        return tensor[first : last + 1].contiguous()
    return tensor[places].contiguous()
