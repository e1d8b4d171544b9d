"""The matrix products of a step and nothing else: what the other sides could be at best on this machine.

Each weight W has three, from X to Y and back: Y = X Wᵀ, dX = dY W, dW = dYᵀ X. Every layer has weights and gradients of
its own, so that they come from memory as in a model; activations are shared by all layers, results go where memory is
ready, and Y stands for dY. The precision is the one that ours has chosen. Attention's own products are left out: its
kernels never write them down as matrices.
"""

from __future__ import annotations

import timeit
from dataclasses import dataclass

import torch
from torch import Tensor
from turns import Turns, given

from gptcli.model.loss import rows_at_once
from gptcli.training.numerics import DTYPES, fastest_matmul, precision_of
from sides.task import Task


@dataclass(frozen=True)
class Matrix:
    """A weight (out, in) with the memory for its products: `x` and `x_grad` (N, in), `y` (N, out)."""

    weight: Tensor
    weight_grad: Tensor
    x: Tensor
    y: Tensor
    x_grad: Tensor

    def forward(self) -> None:
        torch.mm(self.x, self.weight.T, out=self.y)

    def backward(self) -> None:
        torch.mm(self.y, self.weight, out=self.x_grad)
        torch.mm(self.y.T, self.x, out=self.weight_grad)

    def by_rows(self, rows: int) -> None:
        """All three products, so many rows of `y` at a time."""
        logits = self.y[:rows]
        for start in range(0, len(self.x), rows):
            x = self.x[start : start + rows]
            y = logits[: len(x)]
            torch.mm(x, self.weight.T, out=y)
            torch.mm(y, self.weight, out=self.x_grad[start : start + rows])
            if start:
                self.weight_grad.addmm_(y.T, x)
            else:
                torch.mm(y.T, x, out=self.weight_grad)


def build(task: Task, dtype: torch.dtype) -> tuple[list[Matrix], Matrix]:
    """The matrices of the blocks in the order of the forward pass, and the head."""
    width, tokens = task.emb_dim, task.tokens
    kinds = {"qkv": (3 * width, width), "proj": (width, width), "up": (4 * width, width), "down": (width, 4 * width)}

    def random(*shape: int) -> Tensor:
        return torch.randn(shape).mul_(0.02).to(dtype)

    def memory(out: int, into: int) -> tuple[Tensor, Tensor, Tensor]:
        return random(tokens, into), random(tokens, out), random(tokens, into)

    def matrix(shape: tuple[int, int], xyz: tuple[Tensor, Tensor, Tensor]) -> Matrix:
        return Matrix(random(*shape), random(*shape), *xyz)

    shared = {kind: memory(*shape) for kind, shape in kinds.items()}
    blocks = [matrix(kinds[kind], shared[kind]) for _ in range(task.n_layers) for kind in kinds]
    head = (task.vocab_size, width)
    return blocks, matrix(head, memory(*head))


def faster_rows(head: Matrix, vocab_size: int) -> int:
    """How many rows of the head's products at a time are faster: all, or as many as ours takes."""

    def seconds(rows: int) -> float:
        return min(timeit.repeat(lambda: head.by_rows(rows), number=1, repeat=2))

    return min((len(head.x), rows_at_once(vocab_size, "cpu")), key=seconds)


def main() -> None:
    """Build, and multiply whenever it is asked for."""
    turns, task = Turns(), given(Task)
    device = torch.device("cpu")
    torch.set_float32_matmul_precision("high")  # as ours
    precision = task.precision or precision_of(device, task.emb_dim, lambda: fastest_matmul(device))
    turns.measure_memory()
    blocks, head = build(task, DTYPES[precision])
    rows = faster_rows(head, task.vocab_size)
    weights = sum(matrix.weight.numel() for matrix in (*blocks, head))
    facts = {"precision": precision, "flops": 6 * weights * task.tokens, "head rows": rows}
    while True:
        turns.next(**facts)
        for matrix in blocks:
            matrix.forward()
        head.by_rows(rows)
        for matrix in reversed(blocks):
            matrix.backward()
