"""Bad numbers: which steps must not reach the weights, judged by loss and gradient norm beside the last good ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WINDOW = 128  # good steps that a new one is held against
LEAST = 32  # of them, before anything but what is not finite is judged
SPREAD = 0.01  # of the mean: the standard deviation is taken for at least that, or a steady loss would allow nothing
LIMIT_SPAN = 1_000  # steps over which the skipped ones are counted


@dataclass(frozen=True)
class RecentSteps:
    """The last good steps' losses and gradient norms, and which steps were left out."""

    losses: Sequence[float] = ()
    grad_norms: Sequence[float] = ()
    skipped: Sequence[int] = ()

    def with_good(self, loss: float, grad_norm: float) -> RecentSteps:
        """After one more step that was taken."""
        kept = 1 - WINDOW
        return RecentSteps((*self.losses[kept:], loss), (*self.grad_norms[kept:], grad_norm), self.skipped)

    def with_skipped(self, step: int) -> RecentSteps:
        """After `step` was left out."""
        recent = [before for before in self.skipped if before > step - LIMIT_SPAN]
        return RecentSteps(self.losses, self.grad_norms, (*recent, step))

    def limits(self, zscore: float | None) -> tuple[float, float]:
        """The largest loss and gradient norm that a step may have: `zscore` standard deviations above the mean of the
        last ones. Whatever is finite where None is given, or too few steps are known."""
        if zscore is None or len(self.losses) < LEAST:
            return math.inf, math.inf
        return _limit(self.losses, zscore), _limit(self.grad_norms, zscore)


def _limit(values: Sequence[float], zscore: float) -> float:
    mean = math.fsum(values) / len(values)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))
    return mean + zscore * max(deviation, SPREAD * abs(mean))
