"""AdamW (Loshchilov and Hutter 2019), as torch has it."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import AdamW

EPS = 1e-8


def adamw(groups: list[dict[str, Any]], *, betas: tuple[float, float], fused: bool) -> AdamW:
    """An optimiser over parameter groups, whose learning rates are set before every step. `fused` takes one kernel for
    all parameters in place of many."""
    return AdamW(groups, lr=0.0, betas=betas, eps=EPS, fused=fused)


def has_fused(device: torch.device) -> bool:
    """Whether torch has a fused kernel here that also clips and leaves steps out; that of MPS does neither. It is taken
    wherever it is there: on 2 CPU cores it measured 3.1 times as fast as "foreach" for 67M parameters."""
    return device.type in ("cpu", "cuda")
