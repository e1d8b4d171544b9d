"""All that moves the weights of a model, as one: AdamW, or Muon for the hidden matrices and AdamW for the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gptcli.optim.adamw import adamw
from gptcli.optim.muon import Matrix, Muon, momentum_at


@dataclass(frozen=True)
class Rates:
    """Learning rates at the top of the schedule: of embeddings, of the output head (also where it is the token
    embedding) with norms and biases, and of all else."""

    embedding: float
    head: float
    rest: float

    def of(self, name: str, parameter: nn.Parameter, tied: bool) -> float:
        """That of a parameter by its name."""
        if parameter.dim() < 2 or name == "head.weight" or (tied and name == "token_embedding.weight"):
            return self.head
        return self.embedding if name.endswith("embedding.weight") else self.rest


class Optimizers:
    """The optimisers of a model. A group of theirs has its learning rate as `scale` times that of the schedule."""

    def __init__(self, model: nn.Module, parts: list[Optimizer]) -> None:
        self.parts = parts
        self._name_of = {parameter: name for name, parameter in model.named_parameters()}

    def step(self, number: int, lr: float, left_out: Tensor, divisor: Tensor | None = None) -> None:
        """Move the weights in step `number` (from 0) by the gradients over `divisor`, unless `left_out` is 1: where a
        kernel can do both itself nobody waits for the device or reads the gradients once more, as torch's GradScaler
        has it."""
        for optimizer in self.parts:
            for group in optimizer.param_groups:
                group["lr"] = lr * group["scale"]
                if isinstance(optimizer, Muon):
                    group["momentum"] = momentum_at(number)
            asks_itself = optimizer.defaults.get("fused") or isinstance(optimizer, Muon)
            if not asks_itself:
                if left_out.item():
                    continue
                if divisor is not None:
                    torch._foreach_div_([p.grad for p in _parameters_of(optimizer) if p.grad is not None], divisor)
                optimizer.step()
                continue
            optimizer.grad_scale, optimizer.found_inf = divisor, left_out  # type: ignore[attr-defined]
            try:
                optimizer.step()
            finally:
                del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for optimizer in self.parts:
            optimizer.zero_grad(set_to_none=True)

    def forget(self) -> None:
        """As before the first update."""
        for optimizer in self.parts:
            optimizer.state.clear()

    def moments(self) -> dict[str, Tensor]:
        """The live moments by parameter and kind, as `<parameter>.exp_avg`; none before the first update."""
        return {
            f"{self._name_of[parameter]}.{kind}": moment
            for optimizer, parameter in self._parameters()
            for kind, moment in optimizer.state.get(parameter, {}).items()
            if kind in _kinds(optimizer)
        }

    def updates(self) -> int:
        """Updates made: steps that were left out are none."""
        counts = [state["step"] for optimizer in self.parts for state in optimizer.state.values() if "step" in state]
        return int(counts[0]) if counts else 0

    def prepare_moments(self, updates: int) -> None:
        """Have moments that can be filled in, as after so many updates."""
        for optimizer in self.parts:
            state: dict[int, dict[str, Tensor]] = {
                i: {kind: torch.zeros_like(parameter) for kind in _kinds(optimizer)}
                for i, parameter in enumerate(_parameters_of(optimizer))
            }
            if not isinstance(optimizer, Muon):
                for of_parameter in state.values():
                    of_parameter["step"] = torch.tensor(float(updates))
            # Its own way in puts the count where the kernel wants it.
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})

    def _parameters(self) -> Iterator[tuple[Optimizer, nn.Parameter]]:
        for optimizer in self.parts:
            for parameter in _parameters_of(optimizer):
                yield optimizer, parameter


def _parameters_of(optimizer: Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _kinds(optimizer: Optimizer) -> tuple[str, ...]:
    return ("momentum_buffer",) if isinstance(optimizer, Muon) else ("exp_avg", "exp_avg_sq")


def _groups(model: nn.Module, chosen: Mapping[str, nn.Parameter], rates: Rates, decay: float) -> list[dict[str, Any]]:
    """The `chosen` parameters in groups of one learning rate."""
    tied = "head.weight" not in dict(model.named_parameters())
    scales = {name: rates.of(name, chosen[name], tied) / rates.rest for name in chosen}
    return [
        {"params": [chosen[name] for name in chosen if scales[name] == scale], "weight_decay": decay, "scale": scale}
        for scale in dict.fromkeys(scales.values())
    ]


def make_adamw(
    model: nn.Module, rates: Rates, *, betas: tuple[float, float], weight_decay: float, fused: bool
) -> Optimizers:
    """AdamW for all (Loshchilov and Hutter 2019) as GPT-2's successors use it: decay on matrices and embeddings."""
    decayed = {name: p for name, p in model.named_parameters() if p.dim() >= 2}
    others = {name: p for name, p in model.named_parameters() if p.dim() < 2}
    groups = [*_groups(model, decayed, rates, weight_decay), *_groups(model, others, rates, 0.0)]
    return Optimizers(model, [adamw(groups, betas=betas, fused=fused)])


def make_muon(
    model: nn.Module,
    rates: Rates,
    heights: Mapping[str, tuple[int, ...]],
    *,
    betas: tuple[float, float],
    weight_decay: float,
    fused: bool,
    dtype: torch.dtype,
) -> Optimizers:
    """Muon for the matrices of the blocks, with decay; AdamW without it for embeddings, head, norms and biases.

    `heights` are those of the matrices that are stacked in one weight, by how its name ends. Muon computes in `dtype`.
    """
    hidden = {name: p for name, p in model.named_parameters() if name.startswith("blocks.") and p.dim() == 2}
    others = {name: p for name, p in model.named_parameters() if name not in hidden}
    matrices = [
        Matrix(p, next((h for end, h in heights.items() if name.endswith(f"{end}.weight")), (p.shape[0],)))
        for name, p in hidden.items()
    ]
    muon = Muon(matrices, weight_decay=weight_decay, dtype=dtype)
    for group in muon.param_groups:
        group["scale"] = 1.0
    return Optimizers(model, [muon, adamw(_groups(model, others, rates, 0.0), betas=betas, fused=fused)])
