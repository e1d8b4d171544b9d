"""How fast the device multiplies in each precision, beside the one that training takes; and whether it can compile."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from gptcli.distributed.runtime import resolve_device
from gptcli.doctor.finding import Finding, fault, ok, warning
from gptcli.errors import UserError
from gptcli.settings import DoctorSettings
from gptcli.training.numerics import CLEARLY, DTYPES, fastest_matmul, matmul_speed, precision_of

COMPILE_SECONDS = 180.0
_PROBE_SECONDS = 0.3  # of products, in each precision
_WIDTH = 768  # GPT-2's
_COMPILE = """
import sys, torch
print(torch.compile(lambda x: torch.nn.functional.gelu(x) * 2)(torch.ones(8, device=sys.argv[1])).sum().item())
"""


def check_precision(settings: DoctorSettings) -> Iterator[Finding]:
    """Measured speed of matrix products."""
    try:
        device = resolve_device(settings.device)
    except UserError:
        return  # told by the check of devices
    size = 1024 if device.type == "cpu" else 4096
    speeds = {
        name: speed
        for name, dtype in DTYPES.items()
        if (speed := matmul_speed(device, dtype, size, _PROBE_SECONDS)) is not None
    }
    taken = precision_of(device, _WIDTH, lambda: fastest_matmul(device))
    told = ", ".join(f"{name} {speed / 1e9:,.0f}" for name, speed in speeds.items())
    found = f"{told} GFLOP/s in products of {size} × {size}; training takes {taken}"
    fastest = max(speeds, key=speeds.__getitem__)
    if speeds[fastest] > CLEARLY * speeds[taken]:
        found += f", though {fastest} measures faster"
    yield ok("precision", found)


def check_compiler(settings: DoctorSettings) -> Iterator[Finding]:
    """What `torch.compile` needs: tried where training would use it, looked for elsewhere."""
    try:
        device = resolve_device(settings.device)
    except UserError:
        return
    if device.type == "cuda":
        yield _try_compile(device)
        return
    compiler = next((name for name in ("c++", "g++", "clang++", "cl") if shutil.which(name)), None)
    if compiler is None:
        mend = "Not needed: training on this device is not compiled by default. --compile on needs a C++ compiler."
        yield warning("compiler", "no C++ compiler", mend)
    elif compiler == "cl":
        yield ok("compiler", f"{shutil.which(compiler)}")
    else:
        yield _try_compiler(compiler)


def _try_compile(device: torch.device) -> Finding:
    mend = "Install a C++ compiler and Triton, or train with --compile off: about half as fast."
    try:
        command = [sys.executable, "-c", _COMPILE, str(device)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_SECONDS)
    except subprocess.TimeoutExpired:
        return fault("compiler", f"torch.compile did not end within {COMPILE_SECONDS:.0f} s", mend)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        return fault("compiler", f"torch.compile fails: {last[0][:200]}", mend)
    return ok("compiler", "torch.compile works")


def _try_compiler(compiler: str) -> Finding:
    """Make a library of one function with OpenMP, as torch.compile does on a processor."""
    mend = "Install one that is whole (Debian: apt install g++); --compile on needs it."
    with tempfile.TemporaryDirectory(prefix="gpt-doctor-") as folder:
        source = Path(folder, "probe.cpp")
        source.write_text(
            "#include <vector>\nint main() { return std::vector<int>(3).size() - 3; }\n", encoding="ascii"
        )
        try:
            command = [compiler, str(source), "-o", str(source.with_suffix(".out"))]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired) as error:
            return warning("compiler", f"{compiler} does not run: {error}", mend)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[0]
        return warning("compiler", f"{compiler} fails: {last[:200]}", mend)
    return ok("compiler", f"{os.path.realpath(shutil.which(compiler) or compiler)}; used with --compile on")
