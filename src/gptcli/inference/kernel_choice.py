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
    PlainLinear,
    SplitInt8Linear,
    Way,
)

# For each name that weights have, the ways in which they may be held. The first works everywhere.
WAYS: dict[str, tuple[Way, ...]] = {
    "fp32": (PlainLinear, OneDnnLinear, FewRowsOneDnnLinear),
    "bf16": (Bf16Linear, HalfLinear),
    "int8": (Int8Linear, SplitInt8Linear),
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
    ways = WAYS[weights]
    if linear.weight.device.type != "cpu" or linear.weight.numel() * layers < _SMALL:
        return ways[0]
    shape = f"{linear.out_features} x {linear.in_features}"
    key = f"{weights}, {shape}, {torch.get_num_threads()} threads, {_processor()}, torch {torch.__version__}"
    named = {way.__name__: way for way in ways}
    known = _remembered()
    if known.get(key) not in named:
        known[key] = min(seconds := _measured(ways, linear), key=seconds.__getitem__).__name__
        _remember(known)
    return named[known[key]]


def _measured(ways: Sequence[Way], linear: nn.Linear) -> dict[Way, float]:
    """Seconds of a matrix' part in a request, for each way that works here; in turns, since other programs come and
    go."""
    row, prompt = torch.randn(1, linear.in_features), torch.randn(_PROMPT, linear.in_features)
    copies = [copy.deepcopy(linear) for _ in range(max(2, _READ // linear.weight.numel()))]
    layers: dict[Way, list[nn.Module]] = {}
    with torch.inference_mode():
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
    began = time.perf_counter()
    for layer in layers:
        layer(x)
    return (time.perf_counter() - began) / len(layers)


def _processor() -> str:
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} {platform.processor()}".strip()


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
