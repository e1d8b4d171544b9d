"""What decides the bits of the arithmetic: device, precision, kernels, threads. Chosen once, kept on resume."""

from __future__ import annotations

import contextlib
import math
import platform
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields, replace

import torch
from pydantic import JsonValue

from gptcli.distributed.runtime import Ranks, n_cores, n_threads
from gptcli.errors import UserError
from gptcli.optim.adamw import has_fused
from gptcli.settings import TrainSettings

_MATMUL_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_AT_ONCE = 4  # products between two looks at the clock
_CLEARLY = 1.25  # times as fast


@dataclass(frozen=True)
class Numerics:
    """The choices that a resume on the same hardware repeats, so that it repeats the arithmetic."""

    hardware: str
    precision: str  # "fp32" or "bf16"
    matmul_precision: str
    compile: bool
    fused_adamw: bool
    threads: int
    muon_precision: str = ""  # "fp32" or "bf16", whichever measures faster; empty where there is no Muon

    def apply(self) -> None:
        """Set the process-wide switches of torch."""
        torch.set_float32_matmul_precision(self.matmul_precision)
        torch.set_num_threads(self.threads)

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """The context that forward passes run in: master weights stay in fp32, matrix products are in `precision`."""
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16)

    def as_dict(self) -> dict[str, JsonValue]:
        """For the checkpoint."""
        return asdict(self)


def choose(settings: TrainSettings, device: torch.device, ranks: Ranks) -> tuple[Numerics, list[str]]:
    """The choices for this device by its capabilities, and notes on what was asked for and can't be had.

    Raises UserError where `--compile on` can't be kept.
    """
    notes: list[str] = []
    compiled = settings.compile == "on" or (settings.compile == "auto" and device.type == "cuda")
    if compiled and (reason := _compile_fault(device)):
        if settings.compile == "on":
            raise UserError(f"--compile on: torch.compile does not work here ({reason}).", "Leave --compile at auto.")
        compiled = False
        notes.append(f"torch.compile does not work here ({reason}); training goes on without it.")
    return Numerics(
        hardware=_hardware(device, ranks),
        precision=precision_of(device),
        matmul_precision=settings.torch_matmul_precision,
        compile=compiled,
        fused_adamw=has_fused(device),
        threads=n_threads(ranks.local_world_size),
    ), notes


def keep(chosen: Numerics, recorded: Mapping[str, object], settings: TrainSettings) -> tuple[Numerics, list[str]]:
    """On the hardware that wrote a checkpoint its recorded choices stand, but for options given now; elsewhere the
    fresh ones do. Returns them and notes on what changes."""
    known = {field.name for field in fields(Numerics)}
    before = Numerics(**{**chosen.as_dict(), **{k: v for k, v in recorded.items() if k in known}})  # type: ignore[arg-type]
    if before.hardware == chosen.hardware:
        kept = replace(before, compile=before.compile and chosen.compile)  # which may have stopped working
        if "torch_matmul_precision" in settings.model_fields_set:
            kept = replace(kept, matmul_precision=chosen.matmul_precision)
        if "compile" in settings.model_fields_set:
            kept = replace(kept, compile=chosen.compile)
    else:
        kept = chosen
    changes = [
        f"{field.name.replace('_', ' ')} was {getattr(before, field.name)}, is {getattr(kept, field.name)}"
        for field in fields(Numerics)
        if getattr(before, field.name) != getattr(kept, field.name)
    ]
    return kept, [
        f"Since the last call: {'; '.join(changes)}. Results may differ in the last digits."
    ] if changes else []


def fastest_matmul(device: torch.device) -> str:
    """ "bf16" where matrix products of a hidden matrix' size are clearly faster in it than in fp32, else "fp32"."""
    if device.type == "cuda":
        return precision_of(device)
    speeds = {name: matmul_speed(device, dtype, 512, 0.05) for name, dtype in _MATMUL_DTYPES.items()}
    fp32, bf16 = speeds["fp32"], speeds["bf16"]
    return "bf16" if fp32 and bf16 and bf16 > _CLEARLY * fp32 else "fp32"


def matmul_speed(device: torch.device, dtype: torch.dtype, size: int, seconds: float) -> float | None:
    """FLOP/s of a product of two square matrices at its best within `seconds`, None where the device can't do it."""
    best, began = math.inf, time.perf_counter()
    try:
        matrix = torch.randn(size, size, device=device).to(dtype)
        float((matrix @ matrix)[0, 0])
        while time.perf_counter() - began < seconds:
            start = time.perf_counter()
            for _ in range(_AT_ONCE):
                product = matrix @ matrix
            float(product[0, 0])  # read, so that the device is done
            best = min(best, (time.perf_counter() - start) / _AT_ONCE)
    except RuntimeError:
        return None
    return 2 * size**3 / best


def precision_of(device: torch.device) -> str:
    """What training computes matrix products in on a device: "bf16" or "fp32"."""
    return "bf16" if _computes_bf16(device) else "fp32"


def _computes_bf16(device: torch.device) -> bool:
    """bf16 where the hardware has units for it: CUDA from Ampere on, CPUs with AMX. CPUs that only convert are slower
    in bf16 than in fp32 (measured: half the speed on AVX-512 without AMX)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities: dict[str, object] = getattr(
        torch.cpu, "get_capabilities", dict
    )()  # newer than the oldest torch that we take
    return device.type == "cpu" and bool(capabilities.get("amx_bf16"))


def _hardware(device: torch.device, ranks: Ranks) -> str:
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif device.type == "mps":
        name = f"Apple GPU, {platform.machine()}"
    else:
        name = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}, {n_cores()} cores"
    return f"{ranks.world_size} × {name}"


def _compile_fault(device: torch.device) -> str:
    """Why torch.compile can't be used on this machine; empty when a trial worked."""

    def probe(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.gelu(x) * 2

    try:
        torch.compile(probe)(torch.ones(8, device=device))
    except Exception as error:  # noqa: BLE001 (the compilers behind it raise what they like)
        return str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
    return ""
