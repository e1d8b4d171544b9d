"""`--profile`: records a few steps with torch's profiler, keeps the trace, and tells where their time went."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from gptcli.data.durable import write_bytes
from gptcli.distributed.runtime import keep_profiler_quiet
from gptcli.model.network import GPT, Block
from gptcli.training.breakdown import ATTENTION, BLOCKS, IDLE, MLP, MODEL, STEP, break_down
from gptcli.training.events import Profiled
from gptcli.training.logbook import Logbook
from gptcli.training.run_file import PROFILES

WARM_STEPS = 2  # of a call, in which memory is allocated and kernels are chosen
_PACKED = 3  # gzip's level: higher ones take several times as long for a tenth less

T = TypeVar("T")


class Profile:
    """Records `steps` steps of a call on the first process; use as a context manager, which ends it in any case.

    They begin where all of them lie between two of the things that are done every so many steps (`intervals`), such as
    evaluations, which the trace would be full of. Nothing is marked in the network but while it is recorded.
    """

    def __init__(
        self, model: GPT, device: torch.device, steps: int, intervals: tuple[int, ...], logbook: Logbook
    ) -> None:
        self._model, self._device, self._steps, self._intervals = model, device, steps, intervals
        self._logbook = logbook
        self._left_to_warm = WARM_STEPS
        self._recorded = 0
        self._is_over = False
        self._profile: profile | None = None
        self._marks = ExitStack()

    def __enter__(self) -> Profile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    @property
    def recording(self) -> bool:
        """Whether the step that is being taken is recorded."""
        return self._profile is not None

    def begin(self, step: int) -> None:
        """Before each step of the call; `step` of the run are complete. Begin to record where it is time."""
        if self._is_over or self._profile:
            return
        self._left_to_warm -= 1
        if self._left_to_warm >= 0 or not all(_fit(self._steps, step, interval) for interval in self._intervals):
            return
        keep_profiler_quiet()
        on_device = [ProfilerActivity.CUDA] if self._device.type == "cuda" else []
        self._profile = profile(activities=[ProfilerActivity.CPU, *on_device])
        _mark(self._model, self._marks)
        self._profile.start()

    def take(self, number: int, work: Callable[[], T | None]) -> T | None:
        """Take step `number`, which is `work`; None says that it was broken off, and does not count."""
        if not self._profile:
            return work()
        with record_function(f"{STEP} {number}"):
            result = work()
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)  # the kernels of a step end with it
        if result is not None:
            self._recorded += 1
        return result

    def end(self, step: int, last: bool) -> None:
        """After each step: where all are recorded, or no more come, write the trace and tell of them."""
        if self._is_over or (self._recorded < self._steps and not last):
            return
        recorded = self._stop()
        if recorded is None or not self._recorded:
            self._logbook.note(step, "--profile: the run ended before a step could be recorded.")
            return
        try:
            self._tell(recorded, step)
        except OSError as error:
            self._logbook.note(step, f"--profile: the trace can't be written: {error.strerror or error}.")

    def _stop(self) -> profile | None:
        """Record no more; returns what was recorded, if it was."""
        self._is_over = True
        recorded, self._profile = self._profile, None
        if recorded:
            recorded.stop()
        self._marks.close()
        return recorded

    def _tell(self, recorded: profile, step: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            raw = Path(folder) / "trace.json"
            recorded.export_chrome_trace(str(raw))
            content = raw.read_bytes()
        path = self._logbook.run / PROFILES / f"step_{step:07d}.json.gz"
        path.parent.mkdir(exist_ok=True)
        write_bytes(path, gzip.compress(content, _PACKED))
        found = break_down(json.loads(content)["traceEvents"], self._recorded, self._device.type == "cuda")
        if found.parts.keys() == {IDLE}:  # what torch can't trace with, CUPTI, is missing or taken
            self._logbook.note(step, f"--profile: torch saw nothing of the device; its host's trace is {path}.")
            return
        self._logbook.profiled(Profiled(step, self._recorded, found.milliseconds(), path))


def _fit(steps: int, done: int, interval: int) -> bool:
    """Whether so many steps end before, or with, the next multiple of `interval`; true where they never could."""
    return steps > interval or done % interval + steps <= interval


def _mark(model: GPT, marks: ExitStack) -> None:
    """Put scopes around the parts of a model, until `marks` is closed. What is compiled is one part: scopes inside it
    would have it compiled again."""
    for block in model.blocks:
        assert isinstance(block, Block)
        if block._compiled_call_impl is not None:
            marks.callback(setattr, block, "_compiled_call_impl", block._compiled_call_impl)
            block._compiled_call_impl = _within(BLOCKS, block._compiled_call_impl)
        else:
            _mark_forward(block.attention, ATTENTION, marks)
            _mark_forward(block.mlp, MLP, marks)
    _mark_forward(model, MODEL, marks)


def _mark_forward(module: nn.Module, part: str, marks: ExitStack) -> None:
    module.forward = _within(part, module.forward)
    marks.callback(delattr, module, "forward")


def _within(part: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def recorded(*args: Any, **options: Any) -> Any:
        with record_function(part):
            return call(*args, **options)

    return recorded
