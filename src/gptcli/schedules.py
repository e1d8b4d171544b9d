"""Learning rates as pure functions of the step. A new schedule is a function here and its entry in `SCHEDULES`, from
which `--schedule` takes its choices and its help."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass


def cosine(done: float, decay_share: float) -> float:
    """Half a cosine from 1 to 0 (Loshchilov and Hutter 2017, without restarts; as in GPT-3, Brown et al. 2020, appendix
    B). `done` is the part of the run after warm-up that is over; all of it is decay, whatever `decay_share` says."""
    return 0.5 * (1 + math.cos(math.pi * done))


def stable_then_decay(done: float, decay_share: float) -> float:
    """1, and within the last `decay_share` of what follows warm-up straight down to 0 (warm-up–stable–decay: Hu
    et al. 2024; the straight line: Hägele et al. 2024)."""
    return min(1.0, (1 - done) / decay_share)


@dataclass(frozen=True)
class Schedule:
    """What follows warm-up. `shape(done, decay_share)` says how much of the way from the lowest learning rate to the
    highest is left, 1 to 0, when the part `done` of it is over; `told` says it in a few words."""

    shape: Callable[[float, float], float]
    told: str


SCHEDULES: Mapping[str, Schedule] = {
    "cosine": Schedule(cosine, "down a cosine"),
    "wsd": Schedule(stable_then_decay, "stable, then straight down"),
}


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
    done = (step - warmup) / (steps - warmup)
    return min_lr + SCHEDULES[schedule].shape(done, decay_share) * (max_lr - min_lr)
