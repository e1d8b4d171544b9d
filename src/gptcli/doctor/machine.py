"""The machine: Python and torch, devices, memory, shared memory, file handles."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

import gptcli
from gptcli.distributed.machine_memory import GIB, cgroup_memory
from gptcli.distributed.runtime import n_cores, n_threads, resolve_device
from gptcli.doctor.finding import Finding, fault, ok, warning
from gptcli.errors import UserError
from gptcli.settings import DoctorSettings

_LITTLE_MEMORY = 4 * GIB
_LITTLE_SHARED_MEMORY = GIB  # NCCL takes some tens of MB for each pair of GPUs; containers give 64 MB
_FEW_HANDLES = 1024


def check_versions(settings: DoctorSettings) -> Iterator[Finding]:
    """Whether torch was built for the GPUs that are there."""
    found = f"gpt {gptcli.__version__}, Python {platform.python_version()}, torch {torch.__version__}"
    build = torch.version.cuda or torch.version.hip
    has_driver = shutil.which("nvidia-smi") is not None
    if has_driver and build is None:
        mend = "Install a build with CUDA: https://pytorch.org/get-started/locally"
        yield fault("versions", f"{found}, built without CUDA although there is an NVIDIA driver", mend)
    elif has_driver and not torch.cuda.is_available():
        mend = "Update the driver, or install a build for the CUDA that it knows (nvidia-smi tells)."
        yield fault("versions", f"{found}, built for CUDA {build}, which the driver does not serve", mend)
    else:
        yield ok("versions", found)


def check_devices(settings: DoctorSettings) -> Iterator[Finding]:
    """The device that training would take, with its memory."""
    try:
        device = resolve_device(settings.device)
    except UserError as error:
        yield fault("device", error.faults[0].message, error.faults[0].hint)
        return
    if device.type != "cuda":
        name = "Apple GPU" if device.type == "mps" else f"{platform.machine()} {_instructions()}".strip()
        threads = n_threads(settings.gpus)
        yield ok("device", f"{device.type}: {name}, {n_cores()} cores, {threads} threads a process")
        return
    count = torch.cuda.device_count()
    if settings.gpus > count:
        yield fault("device", f"{count} GPUs, and --gpus asks for {settings.gpus}", f"Use --gpus {count}.")
    for index in range(min(settings.gpus, count)):
        free, total = torch.cuda.mem_get_info(index)
        found = f"cuda:{index}: {torch.cuda.get_device_name(index)}, {free / GIB:.1f} of {total / GIB:.1f} GiB free"
        if free < 0.8 * total:
            yield warning("device", found, "Another process uses it; nvidia-smi tells which.")
        else:
            yield ok("device", found)


def check_memory(settings: DoctorSettings) -> Iterator[Finding]:
    """Memory that is free, and a container's limit below the machine's."""
    memory, container = psutil.virtual_memory(), cgroup_memory()
    available, total = memory.available, memory.total
    found = f"{available / GIB:.1f} of {total / GIB:.1f} GiB free"
    if container is not None and (limit := container[0]) < total:
        found += f", of which this container may use {limit / GIB:.1f}"
        available = min(available, limit - container[1])
    if available < _LITTLE_MEMORY:
        yield warning("memory", found, "Close what else runs, or train a smaller model or micro-batch.")
    else:
        yield ok("memory", found)


def check_shared_memory(settings: DoctorSettings) -> Iterator[Finding]:
    """/dev/shm, through which processes on one machine talk: containers have little of it."""
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return
    free = shutil.disk_usage(folder).free
    found = f"{free / GIB:.2f} GiB free in {folder}"
    if free < _LITTLE_SHARED_MEMORY:
        yield warning("shared memory", found, "Start the container with more: docker run --shm-size=8g, or --ipc=host.")
    else:
        yield ok("shared memory", found)


def check_file_handles(settings: DoctorSettings) -> Iterator[Finding]:
    """How many files may be open at once."""
    if sys.platform == "win32":
        return
    import resource

    limit, highest = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = "no limit" if limit == resource.RLIM_INFINITY else f"{limit:,} may be open"
    if limit != resource.RLIM_INFINITY and limit < _FEW_HANDLES:
        raised = 65_536 if highest == resource.RLIM_INFINITY else min(highest, 65_536)
        yield warning("file handles", found, f"Before starting: ulimit -n {raised}")
    else:
        yield ok("file handles", found)


def _instructions() -> str:
    return torch.backends.cpu.get_cpu_capability()
