"""The first thing that the processes of a run do together: each says that it has its device, or that it failed.

Until they are a group nobody notices that one of them is no more, and torch lets the others wait for it for half an
hour. A machine whose GPUs are gone is the usual case.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from gptcli.distributed.runtime import Ranks
from gptcli.errors import ToldElsewhereError, UsageError, UserError

_COME = timedelta(minutes=30)  # imports from a network file system can take minutes
_LEAVE = timedelta(seconds=60)  # for which the first process keeps the store of a run that has failed


def meet(ranks: Ranks, find_device: Callable[[], torch.device]) -> tuple[torch.device, Store]:
    """This process' device, and the store through which the group is made. What `find_device` raises on one process
    ends all with its exit code; devices of different kinds raise UsageError, told by the first."""
    whole, _, _ = next(rendezvous("env://", ranks.rank, ranks.world_size, timeout=_COME))
    store = PrefixStore("meeting", whole)
    fault: Exception | None = None
    try:
        device = find_device()
        store.add(device.type, 1)
    except Exception as error:  # noqa: BLE001 (raised again below, once the others know)
        fault = error
        store.set("failed", str(error.exit_code if isinstance(error, UserError) else 1))
    if store.add("came", 1) == ranks.world_size or fault:
        store.set("decided", "")
    store.wait(["decided"], _COME)
    if not store.check(["failed"]):
        if store.add(device.type, 0) < ranks.world_size:
            fault = _unlike(ranks, device)
        else:
            return device, PrefixStore("group", whole)
    if fault is None:
        fault = ToldElsewhereError(int(store.get("failed")))
    if store.add("left", 1) == ranks.world_size:
        store.set("over", "")
    if ranks.is_main:  # the store may be its own
        with contextlib.suppress(dist.DistError):
            store.wait(["over"], _LEAVE)
    raise fault


def _unlike(ranks: Ranks, device: torch.device) -> UserError:
    if not ranks.is_main:
        return ToldElsewhereError(UsageError.exit_code)
    return UsageError(
        f"Rank 0 computes on {device.type}, another process on something else.",
        "A machine may have lost its GPUs. --device cuda names the one that has none.",
    )
