"""One optimiser step: micro-batches forward and backward, clip, update."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from gptcli.data.batches import WindowReader
from gptcli.data.order import window_of
from gptcli.distributed.group import Group
from gptcli.model.loss import cross_entropy
from gptcli.model.network import GPT
from gptcli.training.numerics import Numerics


@dataclass(frozen=True)
class Batches:
    """Where the samples of a step come from: sample numbers go on over the whole run, `n_batches` at a time to each
    process in turn, so that every number of processes sees the same samples in a step."""

    reader: WindowReader
    n_windows: int
    windows_per_step: int
    n_batches: int
    seed: int

    def micro_batch(self, step: int, micro: int, rank: int, world_size: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets (B, T) of micro-batch `micro` of `step` for one process."""
        first = step * self.windows_per_step + (micro * world_size + rank) * self.n_batches
        samples = np.arange(first, first + self.n_batches)
        x, y = self.reader.read(window_of(samples, self.n_windows, self.seed))
        return torch.from_numpy(x), torch.from_numpy(y)


@dataclass(frozen=True)
class StepResult:
    """On the device, so that reading them can wait: the mean loss over the step's tokens on all processes, and the norm
    of the gradient before clipping."""

    loss: Tensor
    grad_norm: Tensor


@dataclass(frozen=True)
class Trainee:
    """What a step works on: `wrapped` computes the forward pass (spread over processes, perhaps compiled), `model`
    holds the parameters."""

    model: GPT
    wrapped: nn.Module
    optimizer: Optimizer
    group: Group
    numerics: Numerics


def seed_step(seed: int, step: int, rank: int) -> None:
    """Set torch's global generators, which dropout draws from, to what this step has on this process.

    A step's random numbers so depend on nothing that happened before it: a resume repeats them without a saved state.
    """
    mixed = np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0]
    torch.manual_seed(int(mixed))


def take_step(
    trainee: Trainee, batches: Batches, step: int, lr: float, grad_clip: float, stop: Callable[[], bool]
) -> StepResult | None:
    """Take step number `step`; None when `stop` said so on any process before the weights were touched."""
    group, device = trainee.group, trainee.group.device
    rank, world_size = group.ranks.rank, group.ranks.world_size
    accumulation = batches.windows_per_step // (batches.n_batches * world_size)
    seed_step(batches.seed, step, rank)
    trainee.optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=device)
    for micro in range(accumulation):
        if group.any(stop()):
            trainee.optimizer.zero_grad(set_to_none=True)
            return None
        x, y = (part.to(device) for part in batches.micro_batch(step, micro, rank, world_size))
        with _sync_if(micro == accumulation - 1, trainee.wrapped):
            with trainee.numerics.autocast(device):
                logits = trainee.wrapped(x)
            # All micro-batches are of one size, so the mean of their means is the mean over the step's tokens.
            loss = cross_entropy(logits, y) / accumulation
            loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    grad_norm = _clip(trainee.model, grad_clip)
    for parameters in trainee.optimizer.param_groups:
        parameters["lr"] = lr
    trainee.optimizer.step()
    return StepResult(group.sum(total) / world_size, grad_norm)


def _sync_if(last: bool, wrapped: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Gradients are exchanged once a step, with the last micro-batch."""
    if last or not isinstance(wrapped, DistributedDataParallel):
        return contextlib.nullcontext()
    return wrapped.no_sync()


def _clip(model: GPT, longest: float) -> Tensor:
    """Scale the gradients down to norm `longest` (0: leave them); returns the norm that they had."""
    return nn.utils.clip_grad_norm_(model.parameters(), longest or float("inf"))
