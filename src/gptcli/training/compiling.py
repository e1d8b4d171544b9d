"""Compiling the parts of a model that a step computes, before the first step; a machine that can't goes on without."""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from torch import Tensor, nn

from gptcli.errors import UserError
from gptcli.model.network import GPT
from gptcli.training.numerics import compiler_fault
from gptcli.training.step import Trainee, seed_step


def compiled_parts(model: GPT) -> list[nn.Module]:
    """What is compiled, each by itself: the blocks, which all share one compiled form, and the loss. What lies between
    them is little, and a whole graph takes several times as long to compile and to recompile."""
    return [*model.blocks, model.softmax_gradient]


def compile_parts(model: GPT) -> None:
    """Have them compiled when they are first called. Shapes are static: every micro-batch has the same."""
    for part in compiled_parts(model):
        part.compile(dynamic=False)


def settle(trainee: Trainee, ids: Tensor, asked_for: bool) -> tuple[Trainee, list[str]]:
    """Compile now, by a pass over `ids` (B, T) that is then forgotten, and tell how long it took. All processes call
    it. Where it fails on any of them none goes on compiled; raises UserError if compiling was `asked_for`."""
    if not trainee.numerics.compile:
        return trainee, []
    began, fault = time.monotonic(), ""
    seed_step(0, 0, 0)
    try:
        # A sharded model is passed by all together, another by each process: none waits for one that fails.
        module = trainee.wrapped if trainee.group.is_sharded else trainee.model
        trainee.loss(module, ids, ids).backward()  # type: ignore[no-untyped-call]
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # noqa: BLE001 (the compilers behind it raise what they like)
        fault = compiler_fault(error)
    trainee.optimizers.zero_grad()
    faults = [told for told in trainee.group.gather(fault) if told]
    if not faults:
        seconds = max(trainee.group.gather(time.monotonic() - began))
        return trainee, [f"Compiled in {seconds:.1f} s; what was compiled is kept for the next run."]
    if asked_for:
        raise UserError(f"--compile on: torch.compile does not work here ({faults[0]}).", "Leave --compile at auto.")
    for part in compiled_parts(trainee.model):
        part._compiled_call_impl = None
    numerics = replace(trainee.numerics, compile=False)
    note = f"torch.compile does not work here ({faults[0]}); training goes on without it."
    return replace(trainee, numerics=numerics), [note]
