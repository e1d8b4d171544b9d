"""How long a step takes: on this device, from a short probe of the parts of a step, or on a named one by its data
sheet."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from gptcli.distributed.runtime import Ranks
from gptcli.model.loss import linear_cross_entropy
from gptcli.model.network import GPT
from gptcli.model.positions import rotation
from gptcli.model.size import parameters_by_part
from gptcli.training import numerics
from gptcli.training.hardware import Accelerator, peak_of
from gptcli.training.memory import Shape
from gptcli.training.run import optimizers_of
from gptcli.training.setup import Setup

UTILISATION = 0.4  # of a GPU's peak that a step reaches: assumed, and told with the figure
_RECOMPUTED = 4 / 3  # times the arithmetic, where the backward pass computes the blocks once more
_PROBE_VOCABULARY, _PROBE_TOKENS = 8192, 1024  # at most, on a CPU
_ROUNDS = 3


def by_data_sheet(gpu: Accelerator, flops: float, exchanged: int, shape: Shape, matmul_precision: str) -> float | None:
    """Seconds of a step of so many FLOPs on each GPU; it exchanges what it has to while it computes."""
    peak = peak_of(gpu, shape.precision, matmul_precision)
    if peak is None:
        return None
    return max(flops * (_RECOMPUTED if shape.recompute else 1) / (peak * UTILISATION), exchanged / gpu.link)


def by_probe(setup: Setup, device: torch.device, processes: int, precision: str) -> float:
    """Seconds of a step on `device` in `precision`, uncompiled, from one block, a part of the head and an update
    of both, each measured by itself. Processes on one machine are taken to be as fast as one with its share of the
    cores; what they exchange is not counted."""
    settings = setup.settings.model_copy(update={"compile": "off", "precision": precision})
    ranks = Ranks(world_size=processes, local_world_size=min(processes, settings.gpus))
    config = replace(setup.config, n_layers=1, vocab_size=min(setup.config.vocab_size, _PROBE_VOCABULARY))
    choices, _ = numerics.choose(settings, device, ranks, config.emb_dim, partial(numerics.fastest_matmul, device))
    choices.apply()
    model = GPT.create(config, seed=0).to(device).train()
    optimizers = optimizers_of(setup, model, choices)
    at_once = setup.micro_batch
    if device.type == "cpu":
        at_once = min(at_once, max(1, _PROBE_TOKENS // setup.length))
    x = torch.randn(at_once, setup.length, config.emb_dim, device=device, requires_grad=True)
    targets = torch.zeros(at_once * setup.length, dtype=torch.int64, device=device)
    turn = None
    if config.positions == "rotary":
        turn = rotation(torch.arange(setup.length, device=device), config)

    def block() -> None:
        with choices.autocast(device):
            y = model.blocks[0](x, turn)
        torch.autograd.backward(y, torch.ones_like(y))

    def head() -> None:
        with choices.autocast(device):
            loss = linear_cross_entropy(x.flatten(0, 1), model.head.weight, targets, model.softmax_gradient)
        loss.backward()  # type: ignore[no-untyped-call]

    def update() -> None:
        one = torch.ones((), device=device)
        optimizers.step(0, 0.0, left_out=1 - one, divisor=one)

    of_block, of_head, of_update = (_seconds(work, device) for work in (block, head, update))
    passes = setup.micro_batch / at_once * setup.accumulation(processes)
    blocks = setup.config.n_layers * of_block * (_RECOMPUTED if settings.activation_checkpointing == "block" else 1)
    larger = setup.config.vocab_size / config.vocab_size
    if settings.optimizer == "muon":  # most of its time goes into the hidden matrices
        of_update *= setup.config.n_layers
    else:
        of_update *= sum(parameters_by_part(setup.config).values()) / sum(parameters_by_part(config).values())
    return passes * (blocks + larger * of_head) + of_update


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    """The median time of `work`, once it is warm."""
    work()
    seconds = []
    for _ in range(_ROUNDS):
        _wait(device)
        began = time.perf_counter()
        work()
        _wait(device)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
