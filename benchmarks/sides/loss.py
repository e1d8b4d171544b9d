"""The loss alone, forward and backward, from what the head reads: ours, which never holds all logits, or torch's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from turns import Turns, given

from gptcli.model.loss import SoftmaxGradient, linear_cross_entropy
from gptcli.training.numerics import DTYPES


@dataclass(frozen=True)
class LossTask:
    """Hidden states (N, C) and a head (V, C), their product in `precision`; `by` is whose loss, "ours" or "torch"."""

    by: str
    tokens: int
    emb_dim: int
    vocab_size: int
    precision: str


def loss_of(by: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """From hidden states, head and targets to the mean loss."""
    softmax_gradient = SoftmaxGradient()
    if by == "ours":
        return lambda hidden, weight, targets: linear_cross_entropy(hidden, weight, targets, softmax_gradient)
    return lambda hidden, weight, targets: F.cross_entropy(hidden @ weight.T, targets)


def main() -> None:
    """Compute it whenever it is asked for."""
    turns, task = Turns(), given(LossTask)
    torch.set_float32_matmul_precision("high")
    turns.measure_memory()
    hidden = torch.randn(task.tokens, task.emb_dim, requires_grad=True)
    weight = torch.randn(task.vocab_size, task.emb_dim).mul_(0.02).requires_grad_()
    targets = torch.randint(task.vocab_size, (task.tokens,))
    loss = loss_of(task.by)
    low = task.precision != "fp32"
    while True:
        turns.next()
        with torch.autocast("cpu", dtype=DTYPES[task.precision]) if low else nullcontext():
            value = loss(hidden, weight, targets)
        value.backward()
        hidden.grad = weight.grad = None
