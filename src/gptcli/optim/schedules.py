"""Learning rates as pure functions of the step. A new schedule is a function here and its place in `SCHEDULES`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping


def cosine(done: float, decay_share: float) -> float:
    """Half a cosine from 1 to 0 (Loshchilov and Hutter 2017, without restarts; as in GPT-3, Brown et al. 2020, appendix
    B). `done` is the part of the run after warm-up that is over; all of it is decay, whatever `decay_share` says."""
    return 0.5 * (1 + math.cos(math.pi * done))


def stable_then_decay(done: float, decay_share: float) -> float:
    """1, and within the last `decay_share` of what follows warm-up straight down to 0 (warm-up–stable–decay: Hu
    et al. 2024; the straight line: Hägele et al. 2024)."""
    return min(1.0, (1 - done) / decay_share)


SCHEDULES: Mapping[str, Callable[[float, float], float]] = {"cosine": cosine, "wsd": stable_then_decay}


def learning_rate(
    step: int,
    *,
    steps: int,
    warmup: int,
    max_lr: float,
    min_lr: float,
    schedule: str = "cosine",
    decay_share: float = 1.0,
) -> float:
    """The learning rate of step `step` (counted from 0) in a run of `steps`: linear warm-up over `warmup` steps, then
    from `max_lr` down to `min_lr` by one of `SCHEDULES`."""
    if step < warmup:
        return max_lr * (step + 1) / warmup
    if step >= steps:
        return min_lr
    return min_lr + SCHEDULES[schedule]((step - warmup) / (steps - warmup), decay_share) * (max_lr - min_lr)
