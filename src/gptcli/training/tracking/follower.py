"""The process of one tracker: it reads the run's files as they grow, and tells the tracker what is new in them.

Its standard input is the training process' end of a pipe, on which nothing comes but its end: then what the files hold
is told, and the tracker finished. What it has to say goes to standard output, one JSON object a line. What the tool
prints goes to a file in the run's folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from gptcli.training import metrics, run_file
from gptcli.training.metrics import Tail
from gptcli.training.tracking import points
from gptcli.training.tracking.handed_over import HandedOver, MovedAsideError
from gptcli.training.tracking.registry import TrackedRun, Tracker, load

SECONDS_BETWEEN_LOOKS = 1.0
_AT_ONCE = 50  # rows that are noted together, and so missing together where the process dies over them
_LONGEST_REASON = 300  # characters
_NICENESS = 5  # the training goes first

Report = Callable[..., None]


@dataclass(frozen=True)
class Job:
    """What to track with what: `home` as in the registry, `run` the run's folder, and the step `after` which it goes on
    (None: it begins). A call into the tracker may take `patience` seconds, and everything that is left `last_patience`
    once standard input has ended, where the training process does not end this one before."""

    name: str
    home: str
    run: str
    after: int | None
    patience: float
    last_patience: float

    def as_text(self) -> str:
        """For the command line of the process."""
        return json.dumps(asdict(self))

    @property
    def folder(self) -> Path:
        """The trackers' own within the run's."""
        return Path(self.run) / run_file.TRACKING


def main(argument: str) -> None:
    """Track as the Job says, and end the process, with whatever the tool has left running in it."""
    job = Job(**json.loads(argument))
    gone, report = _detached(job)
    over = threading.Event()

    def wait_for_the_end() -> None:
        while os.read(gone, 1):
            pass
        over.set()
        time.sleep(job.last_patience)
        os._exit(1)

    threading.Thread(target=wait_for_the_end, name="training-watch", daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
    try:
        follow(job, over, report)
        report(finished=True)
    except MovedAsideError:
        report(finished=True)
    except BaseException as error:  # noqa: BLE001 (whatever a tool does, SystemExit among it, is told and ends it)
        with contextlib.suppress(OSError):
            traceback.print_exc()
        report(failed=_reason(error))
    os._exit(0)  # past what the tool would do, and wait for, at the interpreter's end


def follow(job: Job, over: threading.Event, report: Report) -> None:
    """Tell the tracker of the run until `over`. Raises what the tracker does, OSError, MovedAsideError."""
    log, samples = Tail(Path(job.run) / metrics.METRICS), Tail(Path(job.run) / metrics.SAMPLES)
    with _within(job.patience, "start", report):
        # An earlier call's process may still be at its end.
        lock = FileLock(job.folder / f"{job.name}.lock", timeout=job.patience)
        lock.acquire()
        handed_over, tracker = _start(job)
    report(started=tracker.where)
    while True:
        is_last = over.is_set()
        # In this order: whatever was sampled before the newest line of the metrics is then among the samples.
        rows = [row for row in log.rows() if points.is_told(row)]
        rows += [{**row, "kind": points.SAMPLE} for row in samples.rows()]
        missing = handed_over.missing(rows)
        for first in range(0, len(missing), _AT_ONCE):
            some = missing[first : first + _AT_ONCE]
            with _within(job.patience, "log", report):
                handed_over.note(some)
                for row in some:
                    points.tell(tracker, row)
        if is_last:
            break
        over.wait(SECONDS_BETWEEN_LOOKS)
    with _within(job.patience, "finish", report):
        tracker.finish()


def _start(job: Job) -> tuple[HandedOver, Tracker]:
    kind = load(job.home)
    handed_over = HandedOver.open(job.folder / f"{job.name}.json", job.after)
    if kind.takes_back and job.after is not None:
        handed_over.take_back(job.after)
    content = run_file.read(Path(job.run)) or {}
    name = Path(job.run).resolve().name
    return handed_over, kind(
        TrackedRun(job.folder, name, handed_over.id, points.configuration(content), after=job.after)
    )


@contextlib.contextmanager
def _within(patience: float, what: str, report: Report) -> Iterator[None]:
    """Ends the process where the block takes longer: a call that hangs can't be ended otherwise."""

    def give_up() -> None:
        report(hung=what)
        os._exit(1)

    timer = threading.Timer(patience, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _detached(job: Job) -> tuple[int, Report]:
    """Keep the pipes from and to the training process out of the tool's reach: it finds nothing to read, and prints
    into a file. Returns the end to read, and what reports."""
    gone, told = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    try:
        printed = os.open(job.folder / f"{job.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError:
        printed = nothing
    os.dup2(nothing, 0)
    os.dup2(printed, 1)
    os.dup2(printed, 2)

    def report(**what: Any) -> None:
        with contextlib.suppress(OSError):  # nobody is left to hear it
            os.write(told, (json.dumps(what) + "\n").encode())

    return gone, report


def _reason(error: BaseException) -> str:
    """An error in one line of readable length."""
    text = " ".join(str(error).split()).rstrip(".")
    named = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return named if len(named) <= _LONGEST_REASON else named[:_LONGEST_REASON] + "…"


if __name__ == "__main__":
    main(sys.argv[1])
