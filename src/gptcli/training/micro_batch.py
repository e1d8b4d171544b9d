"""`--n-batches auto`: how many sequences a process takes at once, as many as the plan says its memory holds. On CUDA
that is tried before the first step, and what was found is kept for the next run of the same configuration."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from gptcli.data.durable import write_json
from gptcli.distributed.runtime import cache_dir
from gptcli.errors import UserError
from gptcli.training.memory import Shape, memory_of
from gptcli.training.numerics import Numerics
from gptcli.training.setup import Setup
from gptcli.training.step import Trainee, seed_step

SHARE = {"cuda": 0.92}  # of the free memory, for what a plan does not foresee
_SHARE_ELSEWHERE = 0.8  # other programs live in the same memory


def sizes(setup: Setup, processes: int) -> list[int]:
    """The micro-batches that make up a step evenly, the largest first."""
    windows = setup.windows_per_step // processes
    return [n for n in range(windows, 0, -1) if windows % n == 0]


def usable(free: int, device_type: str, processes: int) -> int:
    """Of `free` bytes, those that one of `processes` which share them may plan with."""
    return int(free * SHARE.get(device_type, _SHARE_ELSEWHERE) / processes)


def largest(setup: Setup, room: int, precision: str, device_type: str, processes: int) -> int:
    """The largest micro-batch whose step takes no more than `room` bytes by the plan; 1 where none does."""

    def fits(n: int) -> bool:
        return memory_of(Shape.of(setup, n, precision, device_type, processes)).peak <= room

    return next((n for n in sizes(setup, processes) if fits(n)), 1)


def confirmed(trainee: Trainee, setup: Setup) -> Setup:
    """The set-up with a micro-batch that was passed forward and backward with all that a step holds: where the device
    is out of memory on any process the next smaller one is tried. Raises UserError where not even 1 fits.

    A sharded model is not tried: a process that fails in the middle of an exchange leaves the others waiting.
    """
    group = trainee.group
    if group.is_sharded:
        return setup
    if not trainee.optimizers.moments():  # those of a run that goes on are there already, and stay
        trainee.optimizers.prepare_moments(0)
    for n in (n for n in sizes(setup, group.ranks.world_size) if n <= setup.micro_batch):
        ids = torch.zeros(n, setup.length, dtype=torch.int64, device=group.device)
        accumulating = replace(setup, micro_batch=n).accumulation(group.ranks.world_size) > 1
        fits = all(group.gather(_passes(trainee, ids, accumulating)))
        trainee.optimizers.zero_grad()
        if fits:
            return replace(setup, micro_batch=n)
        gc.collect()
        if group.device.type == "cuda":
            torch.cuda.empty_cache()
    raise group.told_once(
        UserError(
            f"{group.device} is out of memory with a single sequence of {setup.length} tokens.",
            "Take --activation-checkpointing block, --shard full on several GPUs, or a smaller model; --dry-run plans.",
        )
    )


def _passes(trainee: Trainee, ids: Tensor, accumulating: bool) -> bool:
    """Whether a step with these ids finds its memory on this process: with `accumulating` that of a second pass, beside
    the gradients of the first. Nothing is compiled for it, and nothing moves."""
    seed_step(0, 0, 0)
    one = torch.ones((), device=ids.device)
    eager = torch.compiler.set_stance("force_eager") if trainee.numerics.compile else contextlib.nullcontext()
    try:
        with eager:
            for _ in range(2 if accumulating else 1):
                trainee.eager().loss(trainee.model, ids, ids).backward()  # type: ignore[no-untyped-call]
        trainee.optimizers.step(0, 0.0, left_out=one, divisor=one)
    except torch.OutOfMemoryError:
        return False
    return True


def settle(trainee: Trainee, setup: Setup, room: int, memo: Memo) -> tuple[Trainee, Setup]:
    """Both with the micro-batch that an earlier call of the run chose on this hardware, else the one remembered, else
    the largest that the plan says fits `room`, the same on all processes. All of them call it."""
    group, numerics = trainee.group, trainee.numerics
    processes = group.ranks.world_size

    def start() -> int:
        known = numerics.micro_batch or memo.read()
        return known or largest(setup, room, numerics.precision, group.device.type, processes)

    setup = replace(setup, micro_batch=group.on_main(start))
    if group.device.type == "cuda":
        setup = confirmed(trainee, setup)
        torch.cuda.reset_peak_memory_stats(group.device)  # of the run, not of what was tried
        if not group.is_sharded:
            group.on_main(lambda: memo.write(setup.micro_batch))
    return replace(trainee, numerics=replace(numerics, micro_batch=setup.micro_batch)), setup


class Memo:
    """What was confirmed for a configuration on some hardware, in the user's cache folder."""

    def __init__(self, setup: Setup, numerics: Numerics, folder: Path | None = None) -> None:
        settings = setup.settings
        what = {
            "model": asdict(setup.config),
            "length": setup.length,
            "windows": setup.windows_per_step,
            "hardware": numerics.hardware,
            "precision": numerics.precision,
            "compile": numerics.compile,
            "options": [settings.optimizer, settings.shard, settings.activation_checkpointing, settings.document_mask],
            "torch": torch.__version__,
        }
        key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
        self.file = (folder or cache_dir() / "micro-batches") / f"{key[:32]}.json"

    def read(self) -> int | None:
        """The micro-batch; None where nothing is known."""
        try:
            found = json.loads(self.file.read_text(encoding="utf-8"))["n_batches"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found if isinstance(found, int) and found > 0 else None

    def write(self, n: int) -> None:
        """Remember it, if the folder can be written."""
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.file, {"n_batches": n})
        except OSError:
            return
