"""Checkpoints written beside the training, in a thread; a save that fails is tried again and told, and ends nothing."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gptcli.errors import UserError
from gptcli.tokenizer import Tokenizer
from gptcli.training import checkpoint, metrics
from gptcli.training.checkpoint import Snapshot
from gptcli.training.provenance import Origin
from gptcli.training.retention import Retention, make_room, prune

QUICK_WAITS = (1.0, 5.0)  # seconds before the second and third try: a network file system has its moments
SLOW_WAIT = 30.0  # before each further try, of which there is no end but the next save, or that of the run
LAST_PATIENCE = 600.0  # for which a complete run's last checkpoint is tried: somebody may make room


@dataclass(frozen=True)
class Written:
    """A checkpoint is whole: `seconds` it took to write, `stall` seconds training waited for it."""

    step: int
    folder: Path
    seconds: float
    stall: float


@dataclass(frozen=True)
class Failed:
    """The first tries of a save have failed: `reason` in words for the user."""

    step: int
    reason: str


Outcome = Written | Failed


class Saver:
    """Writes one snapshot after the other into the run's folder; on the first process only."""

    def __init__(
        self, run: Path, tokenizer: Tokenizer | None, retention: Retention, origin: Origin | None = None
    ) -> None:
        self.run, self.tokenizer, self.retention, self.origin = run, tokenizer, retention, origin
        self._outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._failing_since: float | None = None
        self._given_up = threading.Event()

    def save(self, take: Callable[[], Snapshot | None], began: float) -> None:
        """Write what `take` gives, once the save before has ended: two copies of a run may be more than there is memory
        for. One that keeps failing is given up for this one. Training waits from `began` until this returns."""
        self.settle()
        taken = take()
        assert taken is not None, "the first process has the snapshot"
        stall = time.monotonic() - began
        self._failing_since, self._given_up = None, threading.Event()
        self._thread = threading.Thread(target=self._work, args=(taken, stall), name="saver", daemon=True)
        self._thread.start()

    def outcomes(self) -> list[Outcome]:
        """What became of the saves since the last call."""
        found = []
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self._outcomes.get_nowait())
        return found

    def settle(self) -> None:
        """Until the save that is under way is written, or its first tries have failed: then it is given up."""
        while self.is_trying(patience=0.0):
            pass

    def is_trying(self, patience: float) -> bool:
        """Whether a save is still under way after a moment. One that fails is given up after `patience` seconds."""
        if self._thread is None:
            return False
        self._thread.join(0.05)  # no longer: what it has to say, and signals, are heard in between
        if not self._thread.is_alive():
            self._thread = None
        elif self._failing_since is not None and time.monotonic() - self._failing_since >= patience:
            self._given_up.set()
        return self._thread is not None

    def _work(self, taken: Snapshot, stall: float) -> None:
        began = time.monotonic()
        for tries, wait in enumerate(itertools.chain((0.0,), QUICK_WAITS, itertools.repeat(SLOW_WAIT))):
            if self._given_up.wait(wait):
                return
            try:
                folder = self._write(taken)
            except Exception as error:  # noqa: BLE001 (whatever it is, the run goes on, and its user is told)
                if tries == len(QUICK_WAITS):
                    self._outcomes.put(Failed(taken.progress.step, explain(error)))
                    self._failing_since = time.monotonic()
                continue
            self._outcomes.put(Written(taken.progress.step, folder, time.monotonic() - began, stall))
            with contextlib.suppress(OSError):  # what could not be removed goes with the next save
                prune(self.run, self.retention)
            return

    def _write(self, taken: Snapshot) -> Path:
        make_room(self.run, self.retention, taken.bytes, taken.progress)
        for log in (metrics.METRICS, metrics.SAMPLES):  # no checkpoint outlives the lines that led to it
            with contextlib.suppress(FileNotFoundError), (self.run / log).open("rb+") as file:
                os.fsync(file.fileno())
        return checkpoint.write(self.run, taken, self.tokenizer, self.origin)


def explain(error: Exception) -> str:
    """Why a checkpoint could not be written, in words that go on from that."""
    if isinstance(error, UserError):
        return f"{error.faults[0].message} {error.faults[0].hint}".strip()
    if getattr(error, "errno", None) in (errno.ENOSPC, getattr(errno, "EDQUOT", None)) or "os error 28" in str(error):
        return "The disk is full. Make room."
    text = str(error) or type(error).__name__
    return text if text.endswith(".") else f"{text}."
