"""One run on several processes: who this one is, and what they tell one another.

Every process does a share of each batch's rows, on the whole model or on its part of it
(`sharding.py`); gradients are added up, so that a step is that of the whole batch. The first
(rank 0) alone writes. What decides how it goes on (losses, requests to stop, which checkpoint to
begin from) is agreed on, so all decide alike. `torchrun` starts such processes, and
`microgpt train --processes N` on one machine.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from microgpt.config import RunConfig
from microgpt.device import cores
from microgpt.errors import TrainingError, UsageError

BUCKET_BYTES = 32 * 2**20
"""Gradients are added up in packets of about so many bytes."""
PATIENCE = datetime.timedelta(hours=24)
"""How long one waits for another, which may be tokenizing, or wait for room on a disk. A process
that died is noticed at once, by its closed connections."""


@dataclass(frozen=True)
class Ranks:
    """The processes of a run, seen from one of them; by default there is only this one."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    """Number of this process on its machine."""
    local_world: int = 1
    """Processes on this machine."""
    tensor: int = 1
    """Processes, one behind the other, that share each block and so the rows of a batch."""
    shard: bool | None = None
    """Whether each process holds a part of the model; None: where it is large (`sharding.py`)."""

    @staticmethod
    def of_environment(tensor: int = 1, shard: bool | None = None) -> Ranks:
        """Returns what the variables that `torchrun` sets say.

        Raises:
            UsageError: they are set halfway, or the processes do not divide by `tensor`.
        """
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        if "WORLD_SIZE" not in os.environ or "RANK" not in os.environ:
            return Ranks()
        try:
            rank, world, local_rank, local_world = (int(os.environ[name]) for name in names)
        except (KeyError, ValueError) as error:
            raise UsageError(
                f"the environment sets RANK, but {error} is no number: start with torchrun, or "
                "with microgpt train --processes N"
            ) from error
        if world % tensor:
            raise UsageError(
                f"{world} processes do not divide by --tensor-parallel {tensor}: give a "
                "multiple of it"
            )
        return Ranks(rank, world, local_rank, local_world, tensor, shard)

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    @property
    def data_rank(self) -> int:
        """Which share of the rows this process takes."""
        return self.rank // self.tensor

    @property
    def data_world(self) -> int:
        """Shares of the rows of a batch."""
        return self.world // self.tensor

    @property
    def counts(self) -> bool:
        """Whether this process speaks for those that take the same rows."""
        return self.rank % self.tensor == 0

    @contextmanager
    def connected(self, device: str) -> Iterator[None]:
        """While this lasts, the processes can talk; `device` is the kind they compute on.

        Raises:
            TrainingError: they cannot connect.
        """
        if self.world == 1:
            yield
            return
        backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
        try:
            dist.init_process_group(
                backend, rank=self.rank, world_size=self.world, timeout=PATIENCE
            )
        except (RuntimeError, ValueError) as error:
            raise TrainingError(
                f"process {self.rank} of {self.world} cannot connect to the others: "
                f"{_first_line(error)}"
            ) from error
        try:
            yield
        finally:
            dist.destroy_process_group()

    def device(self, name: str) -> str:
        """Returns the device of this process where the run's is `name`: each takes a GPU."""
        return f"cuda:{self.local_rank}" if self.world > 1 and name.startswith("cuda") else name

    def rows(self, config: RunConfig) -> slice:
        """Returns this process' share of a batch's rows.

        Raises:
            UsageError: the batch has fewer rows than there are processes.
        """
        rows, world = config.training.batch_rows or 1, self.data_world
        if rows < world:
            raise UsageError(
                f"a batch has {rows} rows, too few for {world} processes: give a larger "
                "--batch-rows or fewer processes"
            )
        return slice(rows * self.data_rank // world, rows * (self.data_rank + 1) // world)

    def threads(self, wanted: int) -> int:
        """Returns the threads that this process may take: of several, its share of the cores."""
        return wanted if self.world == 1 else max(1, min(wanted, cores() // self.local_world))

    # Numbers

    def summed(self, values: Sequence[float]) -> list[float]:
        """Returns the sums of what each process gives, in float64."""
        if self.world == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        with _telling():
            dist.all_reduce(tensor)
        return tensor.tolist()

    def any(self, here: object) -> bool:
        """Whether it holds for one of the processes at least."""
        return self.summed([float(bool(here))])[0] > 0

    def from_first(self, value: Callable[[], int]) -> int:
        """Returns the number that the first process gives; the others do not work it out."""
        return int(self.summed([float(value()) if self.is_first else 0.0])[0])

    def text_from_first(self, text: str) -> str:
        """Returns the text that the first process gives."""
        data = text.encode() if self.is_first else b""
        length = self.from_first(lambda: len(data))
        values = list(data) if self.is_first else [0] * length
        return bytes(int(value) for value in self.summed(values)).decode()

    # Tensors

    def add_up(self, tensors: Iterable[Tensor], group: Any = None) -> None:
        """Puts the sum over processes (those of `group`, or all) in the place of each tensor."""
        if self.world == 1:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.flatten() for tensor in bucket])
            with _telling():
                dist.all_reduce(flat, group=group)
            _scatter(flat, bucket)

    def spread(self, shares: Sequence[Sequence[Tensor]]) -> None:
        """Gives every process the tensors of `shares[r]` as they are in process r."""
        if self.world == 1:
            return
        flats = [torch.cat([t.flatten() for t in share]) if share else None for share in shares]
        with _telling():
            for source, flat in enumerate(flats):
                if flat is not None:
                    dist.broadcast(flat, source)
        for source, (flat, share) in enumerate(zip(flats, shares, strict=True)):
            if flat is not None and source != self.rank:
                _scatter(flat, share)

    def swap(
        self, sends: Sequence[tuple[Tensor, int]], receives: Sequence[tuple[Tensor, int]]
    ) -> None:
        """Sends contiguous tensors to processes and fills others with what they send, each pair of
        processes in one order."""
        transfers = [dist.P2POp(dist.isend, tensor, to) for tensor, to in sends]
        transfers += [dist.P2POp(dist.irecv, tensor, source) for tensor, source in receives]
        if transfers:
            with _telling():
                for transfer in dist.batch_isend_irecv(transfers):
                    transfer.wait()

    def to_first(self, tensor: Tensor, source: int) -> Tensor:
        """Returns, in the first process, the tensor that `source` has; all must ask, with one of
        its shape."""
        if source and self.rank == source:
            self.swap([(tensor.contiguous(), 0)], [])
        elif source and self.is_first:
            self.swap([], [(tensor, source)])
        return tensor


ALONE = Ranks()


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        bucket.append(tensor)
        size += tensor.numel() * tensor.element_size()
        if size >= BUCKET_BYTES:
            yield bucket
            bucket, size = [], 0
    if bucket:
        yield bucket


def _scatter(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    """Copies parts of `flat` into tensors, in order."""
    parts = flat.split([tensor.numel() for tensor in tensors])
    with torch.no_grad():
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


@contextmanager
def _telling() -> Iterator[Any]:
    """Turns what torch says when a process is gone into a sentence."""
    try:
        yield
    except RuntimeError as error:
        raise PeerLost(error) from error


@contextmanager
def peers_told_of() -> Iterator[None]:
    """Turns what torch says, in the middle of a model, when a process is gone into a sentence; what
    is trained is a run, so the sentence says how to go on with it."""
    try:
        yield
    except PeerLost as error:
        raise error.in_a_run() from error
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error).lower():
            raise PeerLost(error).in_a_run() from error
        raise


class PeerLost(TrainingError):
    """Another process of the run has ended."""

    def __init__(self, reason: Exception, advice: str = "") -> None:
        """Tells of it, with the first line of what torch said."""
        super().__init__(
            "another process of this run has ended, so this one stops too "
            f"({_first_line(reason)}){advice}"
        )
        self.reason = reason

    def in_a_run(self) -> PeerLost:
        """Returns the same, of a run that can be gone on with."""
        return PeerLost(
            self.reason,
            "; the last checkpoint is kept: go on with microgpt train --resume, on any number of "
            "processes",
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
