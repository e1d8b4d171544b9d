"""One optimiser step: micro-batches forward and backward, clip, update."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.profiler import record_function

from gptcli.distributed.group import Group
from gptcli.model.documents import Documents, find_documents
from gptcli.model.network import GPT
from gptcli.optim.optimizers import Optimizers
from gptcli.training.feed import Feed
from gptcli.training.numerics import Numerics

DATA, OPTIMIZER = "data", "optimiser"  # parts of a step, as a profile names them
_CLIP_EPS = 1e-6  # as torch's clip_grad_norm_ has it


@dataclass(frozen=True)
class StepResult:
    """On the device, so that reading it can wait. `numbers` are the mean loss over the step's tokens on all processes,
    the norm of the gradient before clipping, and 1 where the step was left out for these two, else 0: the same bits on
    every process. `micro_losses` are this process' own, one a micro-batch."""

    numbers: Tensor
    micro_losses: Tensor


@dataclass(frozen=True)
class Trainee:
    """What a step works on: `wrapped` computes the forward pass (spread over processes), `model` holds the parameters.
    `scaler` keeps small gradients from vanishing in fp16; in other precisions it does nothing."""

    model: GPT
    wrapped: nn.Module
    optimizers: Optimizers
    group: Group
    numerics: Numerics
    scaler: torch.amp.GradScaler
    masked_eot: int | None = None  # where attention is kept within documents: the id that each begins with

    def documents(self, ids: Tensor) -> Documents | None:
        """The documents in a batch of ids (B, T), where attention is kept within them."""
        if self.masked_eot is None:
            return None
        blocks = ids.device.type == "cuda" and self.numerics.compile and not self.model.config.drop_rate
        return find_documents(ids, self.masked_eot, blocks=blocks)

    def eager(self) -> Trainee:
        """The same for passes in which nothing is compiled; flex attention, which pays only so, is none of them."""
        return replace(self, numerics=replace(self.numerics, compile=False))

    def loss(self, module: nn.Module, ids: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of a batch (B, T) by `module`, which is the model or what it is wrapped in."""
        with self.numerics.autocast(ids.device):
            loss: Tensor = module(ids, documents=self.documents(ids), targets=targets)
        return loss


def seed_step(seed: int, step: int, rank: int) -> None:
    """Set torch's global generators, which dropout draws from, to what this step has on this process.

    A step's random numbers so depend on nothing that happened before it: a resume repeats them without a saved state.
    """
    mixed = np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0]
    torch.manual_seed(int(mixed))


def take_step(
    trainee: Trainee,
    feed: Feed,
    step: int,
    lr: float,
    grad_clip: float,
    stop: Callable[[], bool],
    limits: tuple[float, float] = (math.inf, math.inf),
) -> StepResult | None:
    """Take step number `step`; None when `stop` said so on any process before the weights were touched.

    A loss or gradient norm that is not finite, or above its one of the `limits`, never reaches the weights.
    """
    group, scaler, accumulation = trainee.group, trainee.scaler, feed.accumulation
    seed_step(feed.batches.seed, step, group.ranks.rank)
    trainee.optimizers.zero_grad()
    losses = torch.zeros(accumulation, device=group.device)
    for micro in range(accumulation):
        if group.any(stop()):
            trainee.optimizers.zero_grad()
            return None
        with record_function(DATA):
            x, y = feed.micro_batch(step, micro)
        with group.accumulating(trainee.wrapped, last=micro == accumulation - 1):
            # All micro-batches are of one size, so the mean of their means is the mean over the step's tokens.
            loss = trainee.loss(trainee.wrapped, x, y) / accumulation
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        losses[micro] = loss.detach()
    with record_function(OPTIMIZER):
        for part in trainee.optimizers.parts:
            scaler.unscale_(part)
        grad_norm = group.grad_norm(trainee.model)
        # Averaged, the norm has the same bits everywhere, so no process leaves a step out that another one takes.
        loss, grad_norm = group.sum(torch.stack((losses.sum(), grad_norm))).div_(group.ranks.world_size)
        good = loss.isfinite() & grad_norm.isfinite() & (loss <= limits[0]) & (grad_norm <= limits[1])
        left_out = (~good).float()
        # Clipped to the norm `grad_clip` by the update itself, which reads the gradients anyway.
        divisor = ((grad_norm + _CLIP_EPS) / grad_clip).clamp(min=1.0) if grad_clip else torch.ones_like(grad_norm)
        trainee.optimizers.step(step, lr, left_out, divisor)
        if scaler.is_enabled():
            scaler.update()
    return StepResult(torch.stack((loss, grad_norm, left_out)), losses * accumulation)
