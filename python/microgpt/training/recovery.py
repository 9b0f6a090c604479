"""What to do when a step goes wrong: a loss that is no number, or that leaps.

The run goes back to its newest checkpoint and leaves the batch out. When it goes wrong again before
it has settled behind the place, the rate is halved as well; after so many tries in a row the run
ends. What was decided is part of every checkpoint. Since a step is a function of weights and batch,
a run that is killed meanwhile meets the same faults again, and decides the same.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from microgpt.errors import TrainingError

WINDOW = 32
"""Losses that a leap is judged by."""
LEAST = 16
"""Without so many of them nothing is a leap."""
SPREADS = 10.0
"""A leap exceeds the median of the window by so many median deviations (and by the setting)."""
SETTLED = 10
"""After so many good steps behind the place, and a checkpoint, a new fault is another matter."""
LOWER = 0.5
"""The rate is multiplied by this from the second try in a row on."""


class WentWrong(TrainingError):
    """A step that must not count."""

    def __init__(self, step: int, sentence: str) -> None:
        super().__init__(sentence)
        self.step = step


@dataclass(frozen=True)
class Recovery:
    """What a run has learnt from its steps so far."""

    recent: tuple[float, ...] = ()
    """The last losses, oldest first."""
    skipped: tuple[int, ...] = ()
    """Steps whose batch is left out."""
    rate: float = 1.0
    """Factor of the learning rate."""
    tries: int = 0
    """Roll-backs in a row."""
    failed_at: int = 0
    """The step of the last one."""
    settled: int = 0
    """Good steps behind that one."""
    events: tuple[str, ...] = field(default=())
    """A sentence for each roll-back."""

    @staticmethod
    def of(state: dict[str, Any] | None) -> Recovery:
        """Returns what `as_state` wrote; nothing where an older checkpoint has none."""
        known = {k: tuple(v) if isinstance(v, list) else v for k, v in (state or {}).items()}
        return replace(Recovery(), **known)

    def as_state(self) -> dict[str, Any]:
        """Returns it as JSON can hold it."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def with_loss(self, step: int, loss: float) -> Recovery:
        """Returns it after a good step of this loss."""
        settled = self.settled + (step > self.failed_at)
        return replace(self, recent=(*self.recent, loss)[-WINDOW:], settled=settled)

    def require_sound(self, step: int, loss: float, norm: float, spike: float | None) -> None:
        """Does nothing where loss and gradient norm are as they should be.

        Raises:
            WentWrong: one is no finite number, or the loss leaps by more than `spike` nats.
        """
        if not math.isfinite(loss) or not math.isfinite(norm):
            what = "gradient" if math.isfinite(loss) else "loss"
            raise WentWrong(step, f"the {what} of step {step} is not a finite number")
        if spike is None or len(self.recent) < LEAST:
            return
        usual = statistics.median(self.recent)
        spread = statistics.median(abs(one - usual) for one in self.recent)
        if loss - usual > max(spike, SPREADS * spread):
            raise WentWrong(step, f"the loss of step {step} leaps from {usual:.2f} to {loss:.2f}")

    def after(self, fault: WentWrong, back_to: int, most: int) -> Recovery:
        """Returns what to go on with from the checkpoint of step `back_to`.

        Raises:
            TrainingError: this was the last of `most` tries.
        """
        behind = back_to >= self.failed_at and self.settled >= SETTLED
        tries = 1 if behind else self.tries + 1
        if tries > most:
            kept = f"the checkpoint of step {back_to} is kept" if back_to else "no checkpoint yet"
            again = f" after {most} roll-backs" if most else ""
            raise TrainingError(
                f"{fault}{again}, so training cannot go on ({kept}): start again with a lower "
                "--lr and --muon-lr"
            )
        rate = self.rate * (LOWER if tries > 1 else 1.0)
        lower = f", at {rate:g} of the rate" if rate < 1 else ""
        event = (
            f"{fault}: back to step {back_to}, without that batch{lower} (try {tries} of {most})"
        )
        return replace(
            self,
            skipped=tuple(sorted({*self.skipped, fault.step})),
            rate=rate,
            tries=tries,
            failed_at=fault.step,
            settled=0,
            events=(*self.events, event),
        )
