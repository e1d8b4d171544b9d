"""Sides that are measured in turns: each computes in a process of its own, and only while it is told to.

The program of a side makes everything ready and calls `Turns.next` before each step; who measures holds a `Side` for
each. Only the standard library is imported, so that a side runs in any environment.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

HERE = Path(__file__).parent
MIB = 2**20
T = TypeVar("T")


class Turns:
    """The turns of this process. What it prints goes to the log, answers go over what was its standard output."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._held = 0
        self._began: float | None = None

    def measure_memory(self) -> None:
        """From here on: call it when all is imported and no model is built. As `gpt train` measures its own."""
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # Linux: the peak begins anew
        self._held = _memory("VmRSS")

    def next(self, seconds: float | None = None, peak: int | None = None, **facts: object) -> None:
        """End this turn, the first of which is to make ready, and wait for the next one. Where the side knows better
        than the clock here it says how long its step took and its peak memory in bytes. Raises SystemExit at the
        end."""
        if seconds is None:
            seconds = 0.0 if self._began is None else time.perf_counter() - self._began
        peak = _memory("VmHWM") - self._held if peak is None else peak
        print(json.dumps({"seconds": seconds, "peak": peak, **facts}), file=self._answers, flush=True)
        if not sys.stdin.readline():
            raise SystemExit
        self._began = time.perf_counter()


def _memory(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def given(kind: type[T]) -> T:
    """What this side was started with."""
    return kind(**json.loads(sys.argv[2]))


@dataclass(frozen=True)
class Turn:
    """One step of a side: its seconds, and the most memory in bytes that the side has held so far."""

    seconds: float
    peak: int


class Side:
    """A running side, the module `program` of the folder `sides`; use as a context manager, which ends it. `facts` are
    what it said when it was ready."""

    def __init__(
        self, program: str, task: Any, work: Path, python: Path | str, environment: Mapping[str, str] | None = None
    ) -> None:
        self.program = program
        self._log = work / f"output_of_{program}.txt"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [str(python), "-m", "sides", program, json.dumps(asdict(task))],
                cwd=HERE,
                env=os.environ | (environment or {}),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                encoding="utf-8",
            )
        self.facts = self._answer()

    def step(self) -> Turn:
        """Let it take one step; nobody else computes meanwhile."""
        assert self._process.stdin is not None
        self._process.stdin.write("step\n")
        self._process.stdin.flush()
        answer = self._answer()
        return Turn(answer["seconds"], answer["peak"])

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            end = self._log.read_text(encoding="utf-8", errors="replace")[-2000:]
            raise SystemExit(f"{self.program} ended with {self._process.wait()}:\n{end}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Side:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()


def in_turns(sides: Mapping[str, Side], rounds: int) -> dict[str, list[Turn]]:
    """A step of every side in every round, the order turned by one each time, after one of each that does not count."""
    turns: dict[str, list[Turn]] = {name: [] for name in sides}
    names = list(sides)
    for number in range(rounds + 1):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            turn = sides[name].step()
            told = "warms up" if number == 0 else f"round {number}"
            print(f"  {told}: {name}, {turn.seconds:.3f} s", file=sys.stderr, flush=True)
            if number:
                turns[name].append(turn)
    return turns


def spread(values: Sequence[float], digits: int = 2) -> str:
    """The median, the smallest and the largest."""
    low, middle, high = (f"{value:.{digits}f}" for value in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low} to {high})"
