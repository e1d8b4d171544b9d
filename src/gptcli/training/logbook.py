"""What a run writes down as it goes, and tells whoever listens: its metrics, samples, and events."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptcli.model.arithmetic import flops_per_token
from gptcli.model.config import GPTConfig
from gptcli.training import metrics
from gptcli.training.events import Evaluated, Listener, Note, Profiled, Sampled, Saved, Spent, StepDone, Topic
from gptcli.training.saver import Written
from gptcli.training.slow_data import SlowData
from gptcli.training.telemetry import PeakMemory


@dataclass(frozen=True)
class StepNumbers:
    """One step as it is logged: `seconds` is its wall time with its data, `waited` the part of it in which it waited
    for these, `skipped` that it did not reach the weights, `profiled` that it was slowed by being recorded."""

    step: int
    loss: float
    lr: float
    grad_norm: float
    seconds: float
    waited: float
    skipped: bool
    profiled: bool


class Logbook:
    """Of the first process; the others' writes and tells nothing. `began` is when the run would have begun had it never
    been interrupted, on the clock of `time.monotonic`; `peak_flops` is that of all devices together."""

    def __init__(
        self, run: Path, tokens_per_step: int, memory: PeakMemory, tell: Listener, began: float, is_main: bool
    ) -> None:
        self.run, self.tokens_per_step, self.memory = run, tokens_per_step, memory
        self.tell, self.began, self.is_main = tell, began, is_main
        self._metrics, self._samples = metrics.Log(run / metrics.METRICS), metrics.Log(run / metrics.SAMPLES)
        self.spent = Spent()
        self._slow_data = SlowData()
        self._flops_per_step = 0.0
        self._peak_flops: float | None = None

    def measure_against(self, peak_flops: float | None, config: GPTConfig, parameters: int, length: int) -> None:
        """Log the share of `peak_flops`, that of all devices, where it is known."""
        self._peak_flops = peak_flops
        self._flops_per_step = flops_per_token(config, parameters, length) * self.tokens_per_step

    @property
    def seconds(self) -> float:
        """Time of the run so far, that of earlier calls included."""
        return time.monotonic() - self.began

    def step_done(self, numbers: StepNumbers) -> None:
        """A `train` line. What is not finite is null there: JSON has no word for it."""
        row: dict[str, float | int | bool | None] = {
            "loss": _finite(numbers.loss),
            "lr": numbers.lr,
            "grad_norm": _finite(numbers.grad_norm),
            "tokens_per_second": self.tokens_per_step / numbers.seconds,
            "step_ms": 1000 * numbers.seconds,
            "data_ms": 1000 * numbers.waited,
        }
        mfu = self._flops_per_step / numbers.seconds / self._peak_flops if self._peak_flops else None
        peak = self.memory.bytes()
        known = {"peak_memory_bytes": peak, "mfu": mfu}
        marks = {"skipped": numbers.skipped, "profiled": numbers.profiled}
        row |= {name: value for name, value in known.items() if value is not None}
        row |= {name: True for name, value in marks.items() if value}
        self.spent = self.spent.plus(steps=numbers.seconds, waiting=numbers.waited, tokens=self.tokens_per_step)
        self._log("train", numbers.step, row)
        self.tell(
            StepDone(
                numbers.step,
                numbers.loss,
                numbers.lr,
                numbers.grad_norm,
                self.tokens_per_step / numbers.seconds,
                numbers.step * self.tokens_per_step,
                numbers.seconds,
                numbers.waited / numbers.seconds,
                peak,
                mfu,
            )
        )
        if slow := self._slow_data.after_step(numbers.seconds, numbers.waited):
            self.note(numbers.step, slow, topic="slow data")

    def evaluated(self, step: int, kind: str, values: Mapping[str, float], seconds: float) -> None:
        """A `val` or `hellaswag` line, with the time that it took."""
        self.evaluating(seconds)
        self._log(kind, step, {**values, "seconds": seconds})
        self.tell(Evaluated(step, kind, values))

    def evaluating(self, seconds: float) -> None:
        """Count time that went into evaluations and samples."""
        self.spent = self.spent.plus(evaluating=seconds)

    def sampled(self, step: int, prompt: str, text: str, ids: Sequence[int]) -> None:
        """A line of `samples.jsonl`."""
        self._append(self._samples, {"step": step, "prompt": prompt, "text": text, "ids": list(ids)})
        self.tell(Sampled(step, prompt, text))

    def saved(self, written: Written) -> None:
        """An `event` line of a checkpoint that is whole, with what it took."""
        self.spent = self.spent.plus(saving=written.stall)
        figures = {"stall_ms": 1000 * written.stall, "save_seconds": written.seconds}
        self._log("event", written.step, {"message": f"saved {written.folder.name}", **figures})
        self.tell(Saved(written.step, written.folder, 1000 * written.stall, written.seconds))

    def profiled(self, event: Profiled) -> None:
        """An `event` line of steps that were profiled."""
        figures = {"step_ms": event.step_ms, "parts_ms": event.parts, "trace": str(event.path.relative_to(self.run))}
        self._log("event", event.step, {"message": f"profiled {event.steps} steps", **figures})
        self.tell(event)

    def note(self, step: int, message: str, told: bool = False, topic: Topic = "note") -> None:
        """An `event` line, which the listener is told too unless it was already."""
        self._log("event", step, {"message": message, **({} if topic == "note" else {"topic": topic})})
        if not told:
            self.tell(Note(message, step, topic))

    def _log(self, kind: str, step: int, values: Mapping[str, object]) -> None:
        row = {"kind": kind, "step": step, "tokens": step * self.tokens_per_step, "time": self.seconds}
        self._append(self._metrics, {**row, **values})

    def _append(self, log: metrics.Log, row: dict[str, Any]) -> None:
        """The run is worth more than its log: what can't be written waits, and is told once."""
        if self.is_main and (trouble := log.append(row)):
            self.tell(Note(f"{log.file} can't be written: {trouble}. Its lines are kept until it can be."))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
