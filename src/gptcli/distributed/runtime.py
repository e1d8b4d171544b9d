"""Who am I: the one file that reads the environment. Rank, device and cache folder are resolved here, once."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from platformdirs import user_cache_path

from gptcli.errors import UsageError

if TYPE_CHECKING:
    import torch  # at run time only where a device is resolved: tokenizing asks for the cores alone

_LAUNCHER = "_GPTCLI_LAUNCHER"
_M_MMAP_MAX, _M_TRIM_THRESHOLD = -4, -1  # of <malloc.h>


@dataclass(frozen=True)
class Ranks:
    """This process among all of the run. `launched` says that another program started it as one of several."""

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    local_world_size: int = 1
    launched: bool = False

    @property
    def is_main(self) -> bool:
        """The process that writes files and speaks to the user."""
        return self.rank == 0


def detect() -> Ranks:
    """The rank facts that a launcher left in the environment: torchrun's, or those of an srun step of several tasks.

    For srun the rendezvous address that torch reads is filled in where it is missing.
    """
    env = os.environ
    if "TORCHELASTIC_RUN_ID" in env:
        return Ranks(
            rank=int(env["RANK"]),
            local_rank=int(env["LOCAL_RANK"]),
            world_size=int(env["WORLD_SIZE"]),
            local_world_size=int(env["LOCAL_WORLD_SIZE"]),
            launched=True,
        )
    if int(env.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        ranks = Ranks(
            rank=int(env["SLURM_PROCID"]),
            local_rank=int(env["SLURM_LOCALID"]),
            world_size=int(env["SLURM_STEP_NUM_TASKS"]),
            local_world_size=int(env["SLURM_STEP_TASKS_PER_NODE"].split("(")[0].split(",")[0]),
            launched=True,
        )
        env.setdefault("MASTER_ADDR", _first_host(env["SLURM_STEP_NODELIST"]))
        # A port of its own for every step: two on one node must not meet. Linux itself gives out those from 32,768 on.
        job, step = int(env.get("SLURM_JOB_ID", "0")), int(env.get("SLURM_STEP_ID", "0"))
        env.setdefault("MASTER_PORT", str(20_000 + (job + 997 * step) % 12_000))
        env.update(RANK=str(ranks.rank), WORLD_SIZE=str(ranks.world_size), LOCAL_RANK=str(ranks.local_rank))
        return ranks
    return Ranks()


def _first_host(nodelist: str) -> str:
    """The first host of Slurm's compressed list: of `node[003-006,9],other` node003, of `r[1-2]n[3-4]-ib` r1n3-ib."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodelist)
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first[0] if first else nodelist)


def resolve_device(name: str, local_rank: int = 0) -> torch.device:
    """The device called `name`; `auto` is CUDA, else MPS, else the CPU. `cuda` is this rank's own GPU.

    Raises UsageError for a device that this machine does not have.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name.startswith("cuda"):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        # Where every task sees its own GPU only (srun --gpus-per-task=1), that one is number 0.
        index = int(name.partition(":")[2] or (local_rank if count > 1 else 0))
        if count == 0:
            raise UsageError("--device cuda: this machine has no GPU that torch can use.", "Leave --device at auto.")
        if index >= count:
            raise UsageError(f"--device {name}: GPU {index} is not there; this machine has {count}.")
        return torch.device("cuda", index)
    if name == "mps" and not torch.backends.mps.is_available():
        raise UsageError("--device mps: this machine has no Apple GPU that torch can use.", "Leave --device at auto.")
    return torch.device(name)


def n_cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def n_threads(processes: int) -> int:
    """Threads for the arithmetic of one of `processes` on this machine: what OMP_NUM_THREADS says, else its share of
    the cores."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    return int(told) if told.isdecimal() and int(told) > 0 else max(1, n_cores() // processes)


def share_cores(processes: int) -> None:
    """Tell processes that are about to be started to take an equal part of the cores each."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, n_cores() // processes)))


def limit_spinning(turns: int = 1_000) -> None:
    """Tell the threads of torch's arithmetic, before it is imported, to sleep soon when they wait for each other.

    OpenMP's threads spin while they wait, by default for about as long as the scheduler lets one run: beside another
    busy process they burn the time of the one they wait for. Measured on 2 cores with 4 layers of width 128, two runs
    at a time: steps of 870 to 1,360 ms by default, 89 with 1,000 turns of spinning, 77 with none. Alone 1,000 turns
    cost 2%, none 24%, since a thread that sleeps has to be woken. Generating token by token, where a thread waits more
    often and for longer, 1,000 turns cost 15 to 35%, 20,000 nothing (GPT-2 124M in bf16 and int8).
    """
    if "OMP_WAIT_POLICY" in os.environ:
        return
    os.environ.setdefault("GOMP_SPINCOUNT", str(turns))
    os.environ.setdefault("KMP_BLOCKTIME", "1")  # of the other OpenMP, in ms, which it spins 200 of


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, for tensors of the same size in the next step.

    glibc gives large blocks back to the system at once, which then clears every page anew. Measured with GPT-2 124M on
    2 cores, 4 × 256 tokens: 12.3 s of system time in 10 steps by default, 4.7 s so, the step 6% shorter, in bf16 15%;
    huge pages on top of it gained nothing, and less than this does without it. Other allocators have their own ways.
    """
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library
        change = ctypes.CDLL(None).mallopt
        change(_M_MMAP_MAX, 0)
        change(_M_TRIM_THRESHOLD, 2**31 - 1)


def keep_compiled() -> None:
    """Have torch.compile keep what it compiled in the user's cache folder, where another run finds it: by default that
    lies in a temporary folder."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_dir() / "compiled"))


def keep_profiler_quiet() -> None:
    """Have torch's profiler write no lines of its own to standard error; what it logs is told in its trace too."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")


def announce_launcher() -> None:
    """Let the processes that this one is about to start know who launched them."""
    os.environ[_LAUNCHER] = str(os.getpid())


def launcher() -> int | None:
    """The id of the process that launched this one as a rank, None where it was none of ours."""
    pid = os.environ.get(_LAUNCHER, "")
    return int(pid) if pid.isdecimal() and int(pid) != os.getpid() else None


def cache_dir() -> Path:
    """The user's cache folder for what gpt fetches; `XDG_CACHE_HOME` is respected where it means something."""
    return user_cache_path("gpt-from-scratch", appauthor=False)


def one_thread_each() -> None:
    """Keep a worker process, of which there is one for each core, from starting threads of its own.

    The `tokenizers` library asks for it when it first encodes.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
