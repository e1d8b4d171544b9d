"""Learning rates as pure functions of the step."""

from __future__ import annotations

import math


def warmup_cosine(step: int, *, steps: int, warmup: int, max_lr: float, min_lr: float) -> float:
    """The learning rate of step `step` (counted from 0) in a run of `steps`.

    Linear warm-up over `warmup` steps, then half a cosine from `max_lr` down to `min_lr` (Loshchilov and Hutter 2017,
    without restarts; as in GPT-3, Brown et al. 2020, appendix B).
    """
    if step < warmup:
        return max_lr * (step + 1) / warmup
    if step >= steps:
        return min_lr
    progress = (step - warmup) / (steps - warmup)
    return min_lr + 0.5 * (1 + math.cos(math.pi * progress)) * (max_lr - min_lr)
