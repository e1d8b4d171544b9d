"""Which of the ways to hold a matrix is the fastest on this machine: measured once, and remembered."""

from __future__ import annotations

import contextlib
import copy
import json
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from gptcli.data.durable import write_json
from gptcli.distributed.runtime import cache_dir
from gptcli.inference.linears import (
    Bf16Linear,
    FewRowsOneDnnLinear,
    HalfLinear,
    Int8Linear,
    OneDnnLinear,
    PackedInt8Linear,
    PlainLinear,
    SplitInt8Linear,
    Way,
    packing,
)

# For each name that weights have, the ways in which they may be held on the processor. The first works everywhere.
WAYS: dict[str, tuple[Way, ...]] = {
    "fp32": (PlainLinear, OneDnnLinear, FewRowsOneDnnLinear),
    "bf16": (Bf16Linear, HalfLinear),
    "int8": (Int8Linear, SplitInt8Linear),
}
WAYS_ELSEWHERE: dict[str, tuple[Way, ...]] = {
    "fp32": (PlainLinear,),
    "bf16": (Bf16Linear,),
    "int8": (Int8Linear, PackedInt8Linear),
}
_SMALL = 2**23  # weights in one of a model's largest matrices times its layers: fewer than these fit into the caches
_READ = 2**25  # weights that a measurement reads, or the caches would answer
_TURNS = 5
_PROMPT, _NEW_TOKENS = 512, 128  # of the request that is thought of


def fastest_way(weights: str, linear: nn.Linear, layers: int) -> Way:
    """The fastest way to multiply by matrices like that of `linear`, of which a model has as many as `layers`, held as
    `weights` says: for a prompt of 512 tokens and 128 new ones after it.

    Small models take the first: in their case it is not memory that sets the pace.
    """
    device = linear.weight.device
    ways = (WAYS if device.type == "cpu" else WAYS_ELSEWHERE)[weights]
    if len(ways) == 1 or linear.weight.numel() * layers < _SMALL:
        return ways[0]
    key = f"{weights}, {linear.out_features} x {linear.in_features}, {hardware(device)}"
    named = {way.__name__: way for way in ways}
    known = _remembered()
    if known.get(key) not in named:
        known[key] = min(seconds := _measured(ways, linear), key=seconds.__getitem__).__name__
        _remember(known)
    return named[known[key]]


def _measured(ways: Sequence[Way], linear: nn.Linear) -> dict[Way, float]:
    """Seconds of a matrix' part in a request, for each way that works here; in turns, since other programs come and
    go."""
    device = linear.weight.device
    row, prompt = (torch.randn(n, linear.in_features, device=device) for n in (1, _PROMPT))
    copies = [copy.deepcopy(linear) for _ in range(max(2, _READ // linear.weight.numel()))]
    layers: dict[Way, list[nn.Module]] = {}
    with torch.inference_mode(), packing():
        for way in ways:
            try:
                layers[way] = [way(own) for own in copies]
                layers[way][0](row)
            except (RuntimeError, AttributeError):  # a kernel that this build of torch or this processor has not
                layers.pop(way, None)
        of_row: dict[Way, list[float]] = {way: [] for way in layers}
        of_prompt: dict[Way, list[float]] = {way: [] for way in layers}
        for _ in range(_TURNS):
            for way, own in layers.items():
                of_row[way].append(_seconds(own, row))
                of_prompt[way].append(_seconds(own[:1], prompt))
    median = statistics.median
    return {way: _NEW_TOKENS * median(of_row[way]) + median(of_prompt[way]) for way in layers}


def _seconds(layers: Sequence[nn.Module], x: Tensor) -> float:
    """Of one layer on x (N, in), the mean of `layers`."""
    synchronize = torch.get_device_module(x.device).synchronize
    synchronize()
    began = time.perf_counter()
    for layer in layers:
        layer(x)
    synchronize()
    return (time.perf_counter() - began) / len(layers)


def hardware(device: torch.device) -> str:
    """What a measurement on `device` depends on, in words."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif device.type == "cpu":
        capability = torch.backends.cpu.get_cpu_capability()
        name = f"{_processor()}, {capability}, {torch.get_num_threads()} threads"
    else:
        name = f"{device.type}, {platform.machine()}"
    return f"{name}, torch {torch.__version__}"


def _processor() -> str:
    """The processor's name where the system tells it: those of one instruction set differ."""
    with contextlib.suppress(OSError, StopIteration):  # elsewhere than on Linux
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


def _file() -> Path:
    return cache_dir() / "kernels.json"


def _remembered() -> dict[str, str]:
    try:
        known = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _remember(known: dict[str, str]) -> None:
    with contextlib.suppress(OSError):  # a home that can't be written to: measured again next time
        _file().parent.mkdir(parents=True, exist_ok=True)
        write_json(_file(), known)
