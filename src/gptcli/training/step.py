"""One optimiser step: micro-batches forward and backward, clip, update."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from gptcli.data.batches import WindowReader
from gptcli.data.order import Indices, samples_of, window_of
from gptcli.distributed.group import Group
from gptcli.model.documents import Documents, find_documents
from gptcli.model.loss import cross_entropy
from gptcli.model.network import GPT
from gptcli.optim.optimizers import Optimizers
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
        x, y = self.reader.read(self.windows(step, micro, rank, world_size))
        return torch.from_numpy(x), torch.from_numpy(y)

    def windows(self, step: int, micro: int, rank: int, world_size: int) -> Indices:
        """Which windows of the training split that micro-batch is, (B,)."""
        samples = samples_of(step, micro, rank, world_size, self.n_batches, self.windows_per_step)
        return window_of(samples, self.n_windows, self.seed)


@dataclass(frozen=True)
class StepResult:
    """On the device, so that reading it can wait. `numbers` are the mean loss over the step's tokens on all processes,
    the norm of the gradient before clipping, and 1 where the step was left out for these two, else 0: the same bits on
    every process. `micro_losses` are this process' own, one a micro-batch."""

    numbers: Tensor
    micro_losses: Tensor


@dataclass(frozen=True)
class Trainee:
    """What a step works on: `wrapped` computes the forward pass (spread over processes, perhaps compiled), `model`
    holds the parameters."""

    model: GPT
    wrapped: nn.Module
    optimizers: Optimizers
    group: Group
    numerics: Numerics
    masked_eot: int | None = None  # where attention is kept within documents: the id that each begins with

    def documents(self, ids: Tensor) -> Documents | None:
        """The documents in a batch of ids (B, T), where attention is kept within them."""
        if self.masked_eot is None:
            return None
        blocks = ids.device.type == "cuda" and self.numerics.compile and not self.model.config.drop_rate
        return find_documents(ids, self.masked_eot, blocks=blocks)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Set torch's global generators, which dropout draws from, to what this step has on this process.

    A step's random numbers so depend on nothing that happened before it: a resume repeats them without a saved state.
    """
    mixed = np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0]
    torch.manual_seed(int(mixed))


def take_step(
    trainee: Trainee,
    batches: Batches,
    step: int,
    lr: float,
    grad_clip: float,
    stop: Callable[[], bool],
    limits: tuple[float, float] = (math.inf, math.inf),
) -> StepResult | None:
    """Take step number `step`; None when `stop` said so on any process before the weights were touched.

    A loss or gradient norm that is not finite, or above its one of the `limits`, never reaches the weights.
    """
    group, device = trainee.group, trainee.group.device
    rank, world_size = group.ranks.rank, group.ranks.world_size
    accumulation = batches.windows_per_step // (batches.n_batches * world_size)
    seed_step(batches.seed, step, rank)
    trainee.optimizers.zero_grad()
    losses = torch.zeros(accumulation, device=device)
    for micro in range(accumulation):
        if group.any(stop()):
            trainee.optimizers.zero_grad()
            return None
        x, y = (part.to(device) for part in batches.micro_batch(step, micro, rank, world_size))
        with group.accumulating(trainee.wrapped, last=micro == accumulation - 1):
            with trainee.numerics.autocast(device):
                logits = trainee.wrapped(x, documents=trainee.documents(x))
            # All micro-batches are of one size, so the mean of their means is the mean over the step's tokens.
            loss = cross_entropy(logits, y) / accumulation
            loss.backward()  # type: ignore[no-untyped-call]
        losses[micro] = loss.detach()
    grad_norm = group.clip(trainee.model, grad_clip)
    # Averaged, the norm has the same bits everywhere, so no process leaves a step out that another one takes.
    loss, grad_norm = group.sum(torch.stack((losses.sum(), grad_norm))).div_(world_size)
    good = loss.isfinite() & grad_norm.isfinite() & (loss <= limits[0]) & (grad_norm <= limits[1])
    left_out = (~good).float()
    trainee.optimizers.step(step, lr, left_out)
    return StepResult(torch.stack((loss, grad_norm, left_out)), losses * accumulation)
