"""Muon (Jordan et al. 2024): momentum, orthogonalised, so that an update moves all directions of a matrix alike.

torch has one of its own (2.9 and later), which takes one matrix after the other, always in bf16. This one takes
all matrices of a shape in one batch, in the precision that the device is fastest in, with four iterations in place of
five, and each of the matrices that are stacked in one weight by itself; `benchmarks/README.md` has what that gives.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate
from torch.optim import Optimizer

MOMENTUM = 0.95
FIRST_MOMENTUM, MOMENTUM_WARMUP = 0.85, 300  # gradients change fast at first (Jordan et al. 2024, modded-nanogpt)
# a·X + b·(XXᵀ)X + c·(XXᵀ)²X, one after the other: the first four of Polar Express (Amsel et al. 2025). Singular values
# from a thousandth of the largest on come between 0.4 and 1.6; the fifth, which would bring them near 1, gains nothing.
_POLYNOMIALS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
)
_SAFETY = 1.01  # theirs: values are taken to be so much larger than they are, since bf16 rounds
_VALUES_AT_ONCE = 2**25  # 128 MiB in fp32
_LEAST_NORM = 1e-7  # a matrix of zeros stays one


def momentum_at(step: int) -> float:
    """The momentum of step `step` (counted from 0): it grows in a straight line to where it then stays."""
    return FIRST_MOMENTUM + (MOMENTUM - FIRST_MOMENTUM) * min(1.0, step / MOMENTUM_WARMUP)


@torch.no_grad()
def orthogonalised(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """Roughly the nearest matrices to `matrices` (N, m, n) whose singular values are all the same, computed in `dtype`:
    those of the result lie around 1."""
    flat = matrices.shape[1] <= matrices.shape[2]
    x = matrices if flat else matrices.mT  # (N, small, large): the products below are of the small side
    x = x / (x.norm(dim=(1, 2), keepdim=True) * _SAFETY + _LEAST_NORM)
    x = x.to(dtype)
    for a, b, c in _POLYNOMIALS:
        a, b, c = a / _SAFETY, b / _SAFETY**3, c / _SAFETY**5
        squares = x @ x.mT  # (N, small, small)
        x = torch.baddbmm(x, torch.baddbmm(squares, squares, squares, beta=b, alpha=c), x, beta=a)
    return (x if flat else x.mT).to(matrices.dtype)


@dataclass(frozen=True)
class Matrix:
    """A weight (out, in), or several of the same `in` that are stacked in one, with their `heights`."""

    weight: nn.Parameter
    heights: tuple[int, ...]


class Muon(Optimizer):
    """Moves `matrices` by their orthogonalised momentum, times sqrt(out / in): so large that what a layer gives changes
    alike at any width, and a learning rate holds for all (Yang, Simon and Bernstein 2023).

    Momentum is Nesterov's, by `momentum` in the groups; decay is decoupled, of all matrices. Weights may be sharded
    (`DTensor`): each process then keeps its part of the momentum, and all compute the update. As torch's fused
    optimisers have it: a step changes nothing if `found_inf` is set to a tensor and that is 1, and gradients are
    divided by `grad_scale` where that is set.
    """

    found_inf: Tensor | None = None
    grad_scale: Tensor | None = None

    def __init__(self, matrices: Iterable[Matrix], *, weight_decay: float, dtype: torch.dtype) -> None:
        matrices = list(matrices)
        super().__init__(
            [matrix.weight for matrix in matrices], {"lr": 0.0, "weight_decay": weight_decay, "momentum": MOMENTUM}
        )
        self._heights = {matrix.weight: matrix.heights for matrix in matrices}
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move the weights by the gradients that they have."""
        for group in self.param_groups:
            for weights in _at_once([weight for weight in group["params"] if weight.grad is not None]):
                for weight, update in zip(weights, self._updates(weights, group["momentum"]), strict=True):
                    moved = weight * (1 - group["lr"] * group["weight_decay"]) - group["lr"] * update
                    weight.copy_(moved if self.found_inf is None else torch.where(self.found_inf.bool(), weight, moved))

    def _updates(self, weights: Sequence[nn.Parameter], momentum: float) -> list[Tensor]:
        """What each of `weights` is to be moved by, against the sign, at a learning rate of 1."""
        pieces = {
            weight: torch.split(self._seen_through(weight, momentum), list(self._heights[weight])) for weight in weights
        }
        alike = defaultdict(list)
        for weight, parts in pieces.items():
            for number, part in enumerate(parts):
                alike[part.shape].append((weight, number, part))
        done: dict[tuple[nn.Parameter, int], Tensor] = {}
        for (height, width), several in alike.items():
            results = orthogonalised(torch.stack([part for _, _, part in several]), self._dtype)
            results *= (height / width) ** 0.5
            done |= {(weight, number): result for (weight, number, _), result in zip(several, results, strict=True)}
        return [
            _spread_like(weight, torch.cat([done[weight, number] for number in range(len(parts))]))
            for weight, parts in pieces.items()
        ]

    def _seen_through(self, weight: nn.Parameter, momentum: float) -> Tensor:
        """The gradient seen through the momentum, whole on every process; the momentum goes on by it."""
        grad = weight.grad
        assert grad is not None
        if self.grad_scale is not None:
            grad = grad / self.grad_scale
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        buffer = state["momentum_buffer"]
        mean = buffer.lerp(grad, 1 - momentum)
        buffer.copy_(mean if self.found_inf is None else torch.where(self.found_inf.bool(), buffer, mean))
        ahead = grad.lerp(mean, momentum)
        return ahead.full_tensor() if isinstance(ahead, DTensor) else ahead


def _at_once(weights: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """`weights` in groups whose updates lie in memory together: large enough to be computed well, and no larger."""
    group: list[nn.Parameter] = []
    for weight in weights:
        if group and sum(w.numel() for w in (*group, weight)) > _VALUES_AT_ONCE:
            yield group
            group = []
        group.append(weight)
    if group:
        yield group


def _spread_like(weight: Tensor, update: Tensor) -> Tensor:
    """`update`, which all processes have, as the parts of it that belong to theirs of `weight`."""
    if not isinstance(weight, DTensor):
        return update
    mesh = weight.device_mesh
    return DTensor.from_local(update, mesh, [Replicate()] * mesh.ndim).redistribute(mesh, weight.placements)
