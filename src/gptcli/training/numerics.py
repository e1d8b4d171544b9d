"""What decides the bits of the arithmetic: device, precision, kernels, threads. Chosen once, kept on resume."""

from __future__ import annotations

import contextlib
import math
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields, replace

import torch
from pydantic import JsonValue

from gptcli.distributed.runtime import Ranks, n_cores, n_threads
from gptcli.errors import UserError
from gptcli.optim.adamw import has_fused
from gptcli.settings import TrainSettings

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_AT_ONCE = 4  # products between two looks at the clock
CLEARLY = 1.25  # times as fast
# Below this width what surrounds the products outweighs what bf16 gains in them: measured on a CPU whose products are
# 2.2 times as fast in bf16, with 4 blocks of width 128 the step is as fast in either, at width 384 1.6 times.
_LEAST_WIDTH = 256


@dataclass(frozen=True)
class Numerics:
    """The choices that a resume on the same hardware repeats, so that it repeats the arithmetic."""

    hardware: str
    precision: str  # "fp32", "bf16" or "fp16"
    matmul_precision: str
    compile: bool
    fused_adamw: bool
    threads: int
    muon_precision: str = ""  # "fp32" or "bf16", whichever measures faster; empty where there is no Muon
    micro_batch: int = 0  # sequences, where --n-batches auto chose them

    def apply(self) -> None:
        """Set the process-wide switches of torch."""
        torch.set_float32_matmul_precision(self.matmul_precision)
        torch.set_num_threads(self.threads)

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """The context that forward passes run in: master weights stay in fp32, matrix products are in `precision`."""
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(device.type, dtype=DTYPES[self.precision])

    def scaler(self, device: torch.device) -> torch.amp.GradScaler:
        """What scales the loss so that small gradients survive in fp16 (Micikevicius et al. 2018); else nothing."""
        return torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")

    def as_dict(self) -> dict[str, JsonValue]:
        """For the checkpoint."""
        return asdict(self)


def choose(
    settings: TrainSettings, device: torch.device, ranks: Ranks, width: int, measured: Callable[[], str]
) -> tuple[Numerics, list[str]]:
    """The choices for this device, and notes on what was asked for and can't be had. Where capabilities don't tell,
    `measured` says which precision multiplies fastest here.

    Raises UserError where `--compile on` can't be kept.
    """
    notes: list[str] = []
    compiled = settings.compile == "on" or (settings.compile == "auto" and device.type == "cuda")
    if compiled and (reason := _compile_fault(device)):
        if settings.compile == "on":
            raise UserError(f"--compile on: torch.compile does not work here ({reason}).", "Leave --compile at auto.")
        compiled = False
        notes.append(f"torch.compile does not work here ({reason}); training goes on without it.")
    precision: str = settings.precision
    if precision == "auto":
        precision = precision_of(device, width, measured)
        if precision == "fp16" and settings.shard != "none":
            precision = "fp32"
            notes.append("fp16 does not go with --shard, so training is in fp32.")
    return Numerics(
        hardware=_hardware(device, ranks),
        precision=precision,
        matmul_precision=settings.torch_matmul_precision,
        compile=compiled,
        fused_adamw=has_fused(device),
        threads=n_threads(ranks.local_world_size),
        muon_precision=_muon_precision(device, precision, measured) if settings.optimizer == "muon" else "",
    ), notes


def _muon_precision(device: torch.device, precision: str, measured: Callable[[], str]) -> str:
    if device.type == "cuda":
        return "bf16" if precision == "bf16" else "fp32"
    return measured()


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
        if settings.n_batches != "auto":
            kept = replace(kept, micro_batch=0)
        no_fp16 = kept.precision == "fp16" and settings.shard != "none"
        if settings.precision != "auto" or no_fp16:
            kept = replace(kept, precision=chosen.precision)
    else:
        kept = chosen
    changes = [
        f"{field.name.replace('_', ' ')} was {getattr(before, field.name)}, is {getattr(kept, field.name)}"
        for field in fields(Numerics)
        if getattr(before, field.name) != getattr(kept, field.name) and field.name != "micro_batch"
    ]
    return kept, [
        f"Since the last call: {'; '.join(changes)}. Results may differ in the last digits."
    ] if changes else []


def fastest_matmul(device: torch.device) -> str:
    """ "bf16" where matrix products of a hidden matrix' size are clearly faster in it than in fp32, else "fp32"."""
    fp32, bf16 = (matmul_speed(device, DTYPES[name], 512, 0.05) for name in ("fp32", "bf16"))
    return "bf16" if fp32 and bf16 and bf16 > CLEARLY * fp32 else "fp32"


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


def precision_of(device: torch.device, width: int, measured: Callable[[], str]) -> str:
    """What training a model of this width computes matrix products in. CUDA: bf16 from Ampere on, fp16 where there are
    tensor cores for it alone (Volta, Turing), else fp32. CPUs: as `measured`, since a name tells nothing (measured:
    bf16 at 2.4 times fp32's speed on one AVX-512 server without AMX, at half of it on another)."""
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        return "bf16" if capability >= (8, 0) else "fp16" if capability >= (7, 0) else "fp32"
    return measured() if device.type == "cpu" and width >= _LEAST_WIDTH else "fp32"


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
        return compiler_fault(error)
    return ""


def compiler_fault(error: Exception) -> str:
    """What an error of the compilers behind torch.compile says, short: of one that only tells who raised another, that
    one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = next((line for line in lines if not line.endswith(":")), "")
    return told[:120] or type(error).__name__
