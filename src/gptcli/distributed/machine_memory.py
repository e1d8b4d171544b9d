"""The memory of this machine that is free."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil
import torch

GIB = 2**30
# Of a container: the most that it may use, what it uses, and of that what is a cache of files. Two versions of Linux'.
_CGROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), "memory.current", "inactive_file"),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), "memory.usage_in_bytes", "total_inactive_file"),
)


def free_memory(device: torch.device) -> int:
    """Bytes that a run could take on this device now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":  # what Metal lets one process have, of the memory that all share
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    available, limits = psutil.virtual_memory().available, cgroup_memory()
    return available if limits is None else min(available, max(0, limits[0] - limits[1]))


def cgroup_memory() -> tuple[int, int] | None:
    """Bytes that a container may use, and those that it does, but for files that are cached; None outside of one."""
    for limit, usage, cached in _CGROUPS:
        with contextlib.suppress(OSError, ValueError):  # no such version, or no limit ("max")
            allowed = int(limit.read_text(encoding="ascii"))
            used = int((limit.parent / usage).read_text(encoding="ascii"))
            rows = (line.split() for line in (limit.parent / "memory.stat").read_text(encoding="ascii").splitlines())
            return allowed, used - next((int(size) for name, size in rows if name == cached), 0)
    return None
