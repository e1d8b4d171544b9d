"""How much memory a run takes at most."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import torch
from torch.nn import functional


class PeakMemory:
    """Peak memory of the run in bytes: what CUDA has allocated at most, or how far this process' peak resident size
    lies above its size when the run began, before its model was built, with the libraries of the arithmetic read in.
    None where the platform doesn't tell."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            a = torch.ones(64, 64, requires_grad=True)
            functional.gelu(functional.linear(a, a)).sum().backward()  # type: ignore[no-untyped-call]
        with contextlib.suppress(OSError):  # Linux: the peak begins anew, without what was before the run
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self._before = _from_proc("VmRSS") or _peak_resident()

    def bytes(self) -> int | None:
        """The peak so far."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        peak = _peak_resident()
        return max(0, peak - self._before) if peak is not None and self._before is not None else None


def _from_proc(key: str) -> int | None:
    """A size of this process as Linux tells it, in bytes."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8", errors="replace").splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), None)


def _peak_resident() -> int | None:
    if sys.platform == "win32":
        return None
    # Linux also has it in rusage, but there a process inherits the peak of the one that started it.
    if (peak := _from_proc("VmHWM")) is not None:
        return peak
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts bytes
