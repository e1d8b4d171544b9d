"""What accelerators can do at most, by the names that CUDA reports, from their makers' data sheets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from gptcli.distributed.machine_memory import GIB
from gptcli.errors import UsageError, nearest


@dataclass(frozen=True)
class Accelerator:
    """One kind of GPU: memory in bytes, dense peaks in FLOP/s by precision ("tf32" is fp32 on tensor cores), and the
    bytes a second that it exchanges with the others of its machine, in each direction."""

    memory: int
    peaks: Mapping[str, float]
    link: float


def _gpu(gib: int, link_gb: float, bf16: float, tf32: float, fp32: float, fp16: float | None = None) -> Accelerator:
    """Peaks in TFLOP/s; 0 is none."""
    peaks = {"bf16": bf16, "fp16": fp16 or bf16, "tf32": tf32, "fp32": fp32}
    return Accelerator(gib * GIB, {name: peak * 1e12 for name, peak in peaks.items() if peak}, link_gb * 1e9)


# The data sheets of NVIDIA, without sparsity; of GeForce cards with accumulation in fp32 (the architecture white
# papers). NVLink is given there for both directions together, PCI Express 4 and 5 are 32 and 64 GB/s in each.
# The first match counts, so longer names stand before those they contain.
ACCELERATORS: Mapping[str, Accelerator] = {
    "H100 PCIe": _gpu(80, 64, 756, 378, 51),
    "H100 NVL": _gpu(94, 300, 835, 418, 60),
    "H100": _gpu(80, 450, 989.4, 494.7, 66.9),
    "H200": _gpu(141, 450, 989.4, 494.7, 66.9),
    "B200": _gpu(180, 900, 2250, 1125, 75),
    "A100-SXM4-40GB": _gpu(40, 300, 312, 156, 19.5),
    "A100": _gpu(80, 300, 312, 156, 19.5),
    "A10G": _gpu(24, 32, 70, 35, 35),
    "L40S": _gpu(48, 32, 362, 183, 91.6),
    "L4": _gpu(24, 32, 121, 60, 30.3),
    "RTX 5090": _gpu(32, 64, 209.5, 104.8, 104.8),
    "RTX 4090": _gpu(24, 32, 165.2, 82.6, 82.6),
    "RTX 3090": _gpu(24, 32, 71, 35.6, 35.6),
    "V100": _gpu(32, 150, 0, 0, 15.7, fp16=125),
    "T4": _gpu(16, 16, 0, 0, 8.1, fp16=65),
}


def known(device: torch.device) -> Accelerator | None:
    """What the data sheet says of this device; None where it is not known."""
    if device.type != "cuda":
        return None
    return by_name(torch.cuda.get_device_name(device))


def by_name(name: str) -> Accelerator | None:
    """What the data sheet says of what CUDA calls so; a part of a GPU, or a variant that is not listed, is none."""
    part = next((part for part in ACCELERATORS if re.search(rf"\b{part}\b", name)), None)
    if part is None or re.search(r"\b(Laptop|MIG|Ti|SUPER|D|NVL)\b", name.replace(part, "")):
        return None
    return ACCELERATORS[part]


def peak_of(gpu: Accelerator, precision: str, matmul_precision: str) -> float | None:
    """Its peak for products in `precision`, of fp32 ones as --torch-matmul-precision has them; None where it has
    none."""
    if precision == "fp32" and matmul_precision != "highest" and "tf32" in gpu.peaks:
        return gpu.peaks["tf32"]
    return gpu.peaks.get(precision)


def named(text: str) -> tuple[int | None, str, Accelerator]:
    """How many of which GPU `8xh100` or `a100` are; None where no number is told. Raises UsageError for
    one that is not known."""
    match = re.fullmatch(r"\s*(?:(\d+)\s*[x×*]\s*)?(.+?)\s*", text, re.IGNORECASE)
    known_names = {_plain(name): name for name in ACCELERATORS}
    name = known_names.get(_plain(match[2])) if match else None
    if match is None or name is None or match[1] == "0":
        close = nearest(_plain(match[2]) if match else text, tuple(known_names))
        hint = f"Did you mean '{close}'? " if close else ""
        listed = ", ".join(name.lower().replace(" ", "-") for name in ACCELERATORS)
        raise UsageError(f"--on {text}: there is no such device known.", f"{hint}Known are, as in 8xh100: {listed}.")
    return int(match[1]) if match[1] else None, name, ACCELERATORS[name]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower().removeprefix("nvidia"))
