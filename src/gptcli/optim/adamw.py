"""AdamW (Loshchilov and Hutter 2019) as GPT-2's successors use it: decay on matrices and embeddings only."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import AdamW

EPS = 1e-8


def make_adamw(model: nn.Module, *, betas: tuple[float, float], weight_decay: float, fused: bool) -> AdamW:
    """An optimiser over the parameters of `model`, those with two dimensions decayed and the others not.

    Its learning rate is set before every step. `fused` takes one kernel for all parameters in place of many.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=0.0, betas=betas, eps=EPS, fused=fused)


def has_fused(device: torch.device) -> bool:
    """Whether torch has the fused kernel for this kind of device."""
    return device.type in ("cpu", "cuda", "mps")
