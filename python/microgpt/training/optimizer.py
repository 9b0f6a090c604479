"""Gradients to updates: Muon for the matrices inside blocks, AdamW for everything else.

Muon (Jordan et al. 2024) replaces each matrix' momentum by the nearest orthogonal matrix, so that
all its directions move alike. Five Newton-Schulz steps approximate that factor, and only matrix
products are needed. Queries, keys and values share a tensor, as do the gate and the up-projection
of SwiGLU; each is orthogonalised by itself, as if it had its own tensor. Matrices of equal shape
form a stack, so a step costs a few products whatever the number of layers. On the CPU the Rust core
takes the passes over gradients and weights, and a stack is cut into what the caches hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from microgpt.config import OptimizerConfig
from microgpt.device import has_fast_bfloat16
from microgpt.errors import CheckpointError
from microgpt.model.gpt import GPT, Matrix
from microgpt.model.kernels import core, flat
from microgpt.model.sizes import CHUNK_MATRICES
from microgpt.model.weights import Entry
from microgpt.training.sharding import Placement

MOMENTUM_START = 0.85
MOMENTUM_STEPS = 300
"""Muon's momentum rises from its start to its setting in so many steps."""
_QUINTIC = (3.4445, -4.7750, 2.0315)
"""Jordan's coefficients: steep at 0; singular values end in about 0.7 to 1.2, not at 1."""
_MOMENTS = ("exp_avg", "exp_avg_sq")


class Optimizer:
    """The updates of one model's parameters.

    Of several processes each orthogonalises its share of the matrices, keeps their momenta alone,
    and gives the others the new weights; AdamW, which is cheap, runs in all of them, on what each
    holds of the parameters.
    """

    def __init__(
        self, model: GPT, config: OptimizerConfig, placement: Placement | None = None
    ) -> None:
        """Prepares to update `model`, whose numbers lie where `placement` says (None: all here)."""
        self.config = config
        self.placement = placement = placement or Placement(model)
        ranks, named = placement.ranks, list(placement.here.items())
        self.parameters = [p for _, p in named]
        inside = placement.matrices() if config.name == "muon" else []
        taken = {matrix.name for matrix in inside}
        groups = _by_shape(inside)
        self._shares = [
            [part for parts in groups for part in parts[rank :: ranks.world]]
            for rank in range(ranks.world)
        ]
        mine = [parts[ranks.rank :: ranks.world] for parts in groups]
        if placement.is_split:
            for part in self._shares[ranks.rank]:
                part.lend(self.parameters[0].device)
        unit = config.muon_unit_gradients
        self._muon = [_Stack(parts, unit) for parts in mine if parts]
        self._rest = [(name, p) for name, p in named if name not in taken]
        matrices = [p for _, p in self._rest if p.dim() >= 2]
        others = [p for _, p in self._rest if p.dim() < 2]
        self._fused = all(p.device.type in ("cpu", "cuda") for p in self.parameters)
        self._adamw = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": config.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=config.lr,
            betas=(config.beta1, config.beta2),
            eps=config.eps,
            fused=self._fused,
        )
        for _, p in self._rest:
            step = torch.zeros((), device=p.device if self._fused else "cpu")
            moments = {key: torch.zeros_like(p, requires_grad=False) for key in _MOMENTS}
            self._adamw.state[p] = {"step": step, **moments}

    def clip(self, scale: float = 1.0) -> Tensor:
        """Returns the gradients' global norm, after which it is at most the setting's. Gradients of
        a loss times `scale` are divided by it first."""
        if scale != 1:
            for p in self.parameters:
                if p.grad is not None:
                    p.grad.mul_(1 / scale)
        norm = self.placement.norm()
        limit = self.config.clip
        # On a GPU asking would wait for it; on a CPU it saves a pass over all gradients.
        if limit is not None and (norm.device.type != "cpu" or not norm <= limit):
            nn.utils.clip_grads_with_norm_(self.parameters, limit, norm)
        return norm

    def step(self, step: int, factor: float) -> None:
        """Applies the gradients, then forgets them.

        `step` counts from 1; `factor` is the schedule's.
        """
        momentum = self.config.muon_momentum
        if momentum > MOMENTUM_START:
            rise = min(1.0, step / MOMENTUM_STEPS)
            momentum = MOMENTUM_START + (momentum - MOMENTUM_START) * rise
        rate = self.config.muon_lr * factor
        decay = self.config.weight_decay
        self.placement.gather(self._shares)
        for stack in self._muon:
            stack.step(rate, momentum, decay)
        self.placement.scatter(self._shares, 1 - rate * decay)
        for group in self._adamw.param_groups:
            group["lr"] = self.config.lr * factor
        self._adamw.step()
        self.forget()

    def forget(self) -> None:
        """Drops the gradients."""
        for p in self.parameters:
            p.grad = None

    def entries(self) -> list[Entry]:
        """Returns all it remembers, by parameter name; `load` takes it back, also on another number
        of processes. All of them must ask for the values, in order, which the first then gets."""
        entries = [
            Entry(part.key, part.weight.shape, partial(self._momentum, part, source))
            for source, share in enumerate(self._shares)
            for part in share
        ]
        for name, p in self._rest:
            state = self._adamw.state[p]
            entries.append(Entry(f"adamw.{name}.step", (), partial(state.__getitem__, "step")))
            for key in _MOMENTS:
                whole = partial(self.placement.whole, name, state[key])
                entries.append(Entry(f"adamw.{name}.{key}", self.placement.shapes[name], whole))
        return entries

    def _momentum(self, part: _Part, source: int) -> Tensor:
        """Returns, in the first process, the momentum that `source` keeps."""
        for stack in self._muon:
            if part in stack.parts:
                return self.placement.ranks.to_first(
                    stack.momentum[stack.parts.index(part)], source
                )
        room = torch.empty(part.weight.shape, device=self.parameters[0].device)
        return self.placement.ranks.to_first(room, source)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what `state` gave.

        Raises:
            CheckpointError: it belongs to another model or optimizer.
        """
        expected = {part.key for share in self._shares for part in share} | {
            f"adamw.{name}.{key}" for name, _ in self._rest for key in ("step", *_MOMENTS)
        }
        if expected != set(state):
            odd = sorted(expected ^ set(state))[0]
            raise CheckpointError(f"the optimizer's state is of another model: see {odd!r}")
        for stack in self._muon:
            for key, value in stack.state():
                value.copy_(state[key])
        for name, p in self._rest:
            step = state[f"adamw.{name}.step"]
            moments = {
                key: self.placement.cut(name, state[f"adamw.{name}.{key}"]) for key in _MOMENTS
            }
            self._adamw.state[p] = {
                # The fused update counts where it computes.
                "step": step.to(p.device, copy=True) if self._fused else step.clone(),
                **{key: moment.to(p.device, copy=True) for key, moment in moments.items()},
            }


class _Part:
    """One logical matrix: some rows of a parameter."""

    def __init__(self, name: str, parameter: Tensor, rows: slice) -> None:
        self.name, self.parameter, self.rows = name, parameter, rows
        self.key = f"muon.{name}.{rows.start}"
        """The momentum's name in checkpoints."""
        self.weight = parameter.detach()[rows]
        height, width = self.weight.shape
        self.scale = max(1.0, height / width) ** 0.5
        self._lent: Tensor | None = None

    def lend(self, device: torch.device) -> None:
        """Takes room for weight and gradient, of which several processes hold the numbers."""
        self.weight = torch.zeros(self.weight.shape, device=device)
        self._lent = torch.zeros_like(self.weight)

    def gradient(self) -> Tensor:
        """The part's rows of the gradient."""
        if self._lent is not None:
            return self._lent
        gradient = self.parameter.grad
        assert gradient is not None
        return gradient[self.rows]


def _by_shape(matrices: Iterable[Matrix]) -> list[list[_Part]]:
    groups: dict[tuple[int, ...], list[_Part]] = {}
    for matrix in matrices:
        start = 0
        for height in matrix.rows:
            part = _Part(matrix.name, matrix.parameter, slice(start, start + height))
            groups.setdefault(tuple(part.weight.shape), []).append(part)
            start += height
    return list(groups.values())


class _Stack:
    """Muon for matrices of one shape, their momenta as one tensor (matrices, rows, columns)."""

    def __init__(self, parts: list[_Part], unit_gradients: bool) -> None:
        self.parts = parts
        self.unit_gradients = unit_gradients
        self.momentum = torch.zeros_like(torch.stack([part.weight for part in parts]))
        fast = has_fast_bfloat16(self.momentum.device)
        self.direction = torch.empty_like(
            self.momentum, dtype=torch.bfloat16 if fast else torch.float32
        )

    @torch.no_grad()
    def step(self, rate: float, momentum: float, decay: float) -> None:
        """Moves each matrix by `rate` against its orthogonalised Nesterov momentum."""
        if core is None or self.momentum.device.type != "cpu":
            self._plain_step(rate, momentum, decay)
            return
        threads = torch.get_num_threads()
        for i, part in enumerate(self.parts):
            gradient, moving = flat(part.gradient()), flat(self.momentum[i])
            direction = flat(self.direction[i])
            core.muon_direction(gradient, self.unit_gradients, moving, momentum, direction, threads)
        together = max(1, CHUNK_MATRICES // self.direction[0].numel())
        updates = (
            update
            for directions in self.direction.split(together)
            for update in _newton_schulz(directions)
        )
        for part, update in zip(self.parts, updates, strict=True):
            moved = flat(part.weight), flat(update)
            core.muon_apply(*moved, 1 - rate * decay, rate * part.scale, threads)

    def _plain_step(self, rate: float, momentum: float, decay: float) -> None:
        """`step` for any device; the oracle of the Rust kernels."""
        gradients = torch.stack([part.gradient() for part in self.parts])
        if self.unit_gradients:
            gradients = _unit(gradients)
        self.momentum.lerp_(gradients, 1 - momentum)
        ahead = gradients.lerp_(self.momentum, momentum)
        update = orthogonalized(ahead.to(self.direction.dtype)).to(self.momentum.dtype)
        for part, change in zip(self.parts, update, strict=True):
            part.weight.mul_(1 - rate * decay).sub_(change, alpha=rate * part.scale)

    def state(self) -> Iterable[tuple[str, Tensor]]:
        """Each matrix' momentum, under its name."""
        for part, momentum in zip(self.parts, self.momentum, strict=True):
            yield part.key, momentum


def orthogonalized(matrices: Tensor, steps: int = 5) -> Tensor:
    """Returns about U V^T for each matrix U S V^T of a stack (n, rows, columns).

    Singular values end between about 0.7 and 1.2, which bfloat16 is precise enough for.
    """
    return _newton_schulz(_unit(matrices, 1e-7), steps)


def _unit(matrices: Tensor, least: float = 1e-12) -> Tensor:
    """Returns each matrix of a stack over its norm, to which `least` is added."""
    return matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + least)


def _newton_schulz(x: Tensor, steps: int = 5) -> Tensor:
    """`orthogonalized` for matrices whose norms are at most 1."""
    a, b, c = _QUINTIC
    tall = x.size(-2) > x.size(-1)
    for _ in range(steps):
        gram = x.mT @ x if tall else x @ x.mT
        inner = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, x, inner, beta=a) if tall else torch.baddbmm(x, inner, x, beta=a)
    return x
