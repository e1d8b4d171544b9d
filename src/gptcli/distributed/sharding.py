"""A model that no single device holds: its state is cut into shards by torch's FSDP2 (`fully_shard`).

"full" shards weights, gradients and optimiser state, and gathers each block while it is computed (ZeRO stage 3,
Rajbhandari et al. 2020); "optimizer" keeps the gathered weights from the forward pass to the backward pass, and so
exchanges no more than data parallelism does (stage 2). Between steps every weight is a DTensor of which a process holds
its part; names and shapes are those of the whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

Mode = Literal["optimizer", "full"]


def shard(
    model: nn.Module, blocks: Iterable[nn.Module], mode: Mode, device: torch.device, low_precision: torch.dtype | None
) -> None:
    """Cut `model` into shards over all processes, in place; each of its `blocks` is gathered by itself.

    The model lies on the CPU; its parts move to `device` one by one. Blocks are gathered and computed in
    `low_precision` where one is given; the shards and the sums of gradients stay in fp32.
    """
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    policy = MixedPrecisionPolicy(
        param_dtype=low_precision,
        reduce_dtype=torch.float32 if low_precision else None,
        cast_forward_inputs=False,  # autocast casts products; positions stay exact
    )
    for block in blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=mode == "full", mp_policy=policy)
    # What is outside the blocks, the embeddings and the head, is needed right at the beginning of the backward pass.
    fully_shard(model, mesh=mesh, reshard_after_forward=False, mp_policy=policy)


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard` was applied to the model."""
    return isinstance(model, FSDPModule)


def exchange(model: nn.Module, mode: Mode, last: bool) -> None:
    """Say whether the coming backward pass exchanges gradients. With "full" each does, and every process keeps the sums
    for its part alone; else only the `last` one of a step, and till then each holds the sums for the whole."""
    assert isinstance(model, FSDPModule)
    model.set_requires_gradient_sync(last or mode == "full")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Around passes without gradients, in which parts of the model may be called by themselves. Blocks are gathered as
    ever, so all processes have to make the same number of passes."""
    if not isinstance(model, FSDPModule):
        yield
        return
    model.unshard()  # the part outside the blocks, which only a call of the whole would gather
    try:
        yield
    finally:
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor of which this process may hold a part; all processes call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def fill(target: Tensor, source: Tensor | None) -> None:
    """Fill `target` everywhere with the `source` that the first process has (the others None), exact to the bit."""
    with torch.no_grad():
        if isinstance(target, DTensor):
            held = target.to_local()
            full = torch.empty(target.shape, dtype=target.dtype, device=held.device)
            if source is not None:
                full.copy_(source)
            held.copy_(distribute_tensor(full, target.device_mesh, target.placements).to_local())
            return
        if source is not None:
            target.copy_(source)
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.broadcast(target, src=0)
