"""The factor on a float16 loss, without which small gradients would round to zero.

A gradient that overflows costs its batch and halves the factor; many good steps in a row double it,
as torch's `GradScaler` does. It is a power of two, so taking it out again rounds nothing, and part
of every checkpoint, so that a resumed run goes on with the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

FIRST = 2.0**16
LEAST = 1.0
"""A gradient that overflows even so is a fault of the run (`recovery.py`)."""
PATIENCE = 2000
"""Good steps in a row after which twice the factor is tried."""


@dataclass(frozen=True)
class LossScale:
    """The factor, and how long it has been good."""

    factor: float = FIRST
    good_steps: int = 0

    def after(self, finite: bool) -> LossScale:
        """Returns what to go on with after a gradient that was or was not finite."""
        if not finite:
            return LossScale(max(LEAST, self.factor / 2))
        if self.good_steps + 1 >= PATIENCE:
            return LossScale(2 * self.factor)
        return replace(self, good_steps=self.good_steps + 1)
