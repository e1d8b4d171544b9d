"""The tensors that a run consists of, by name: the weights, and AdamW's moments of each."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.optim import Optimizer

from gptcli.model.network import GPT

MOMENTS = ("exp_avg", "exp_avg_sq")


def named_weights(model: GPT) -> dict[str, Tensor]:
    """The live weights by our names, those that the embedding and the head share once."""
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def named_moments(model: GPT, optimizer: Optimizer) -> dict[str, Tensor]:
    """The live moments as `<parameter>.exp_avg` and `<parameter>.exp_avg_sq`; none before the first update."""
    return {
        f"{name}.{moment}": optimizer.state[parameter][moment]
        for name, parameter in _parameters(model, optimizer)
        if parameter in optimizer.state
        for moment in MOMENTS
    }


def optimizer_steps(optimizer: Optimizer) -> int:
    """Updates that the optimiser has made: steps that were left out are none."""
    return int(next(iter(optimizer.state.values()))["step"]) if optimizer.state else 0


def prepare_moments(optimizer: Optimizer, steps: int) -> None:
    """Give the optimiser moments to be filled in, as after so many updates."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = {
        i: {"step": torch.tensor(float(steps)), **{moment: torch.zeros_like(parameter) for moment in MOMENTS}}
        for i, parameter in enumerate(parameters)
    }
    # Its own way in puts the count of steps where the kernel wants it.
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _parameters(model: GPT, optimizer: Optimizer) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Every parameter that the optimiser moves, with our name, in its order."""
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            yield name_of[id(parameter)], parameter
