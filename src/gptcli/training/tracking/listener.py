"""The trackers of a run as its first process has them: one process for each, which nothing here ever waits for but at
the end, and there for a bounded time."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from gptcli.training.events import Event, Listener, Note
from gptcli.training.run_file import TRACKING
from gptcli.training.tracking.follower import Job
from gptcli.training.tracking.registry import TRACKERS

PATIENCE = 120.0  # seconds that a call into a tool may take: W&B waits for its server for 90
LAST_PATIENCE = 30.0  # for which the end of a complete run waits for its trackers
STOPPED_PATIENCE = 10.0  # and one that is stopped: whoever stops it often kills it after 30
ORPHAN_PATIENCE = 60.0  # that a tracker gives itself to finish where nobody waits for it any more
_TOLD_FROM = 3.0  # seconds of waiting from which on it is told
_SECONDS_BETWEEN_LOOKS = 0.05

_KEPT = "metrics.jsonl has everything; what is missing there is sent when the run is continued."


class Tracking:
    """A listener that passes every event on to `tell`, and with it what trackers have to say. Within its block the
    trackers that `begin` starts follow the run; at its end they get the time to finish, less of it where `stopping` or
    an error ends the run."""

    def __init__(self, run: Path, tell: Listener, stopping: Callable[[], bool]) -> None:
        self._run, self._tell, self._stopping = run, tell, stopping
        self._followers: list[_Follower] = []

    def __call__(self, event: Event) -> None:
        self._tell(event)
        self._pass_on()

    def begin(self, names: Sequence[str], after: int | None) -> None:
        """Start the trackers `names` for a run that goes on after a step, or begins (None). Its `run.json` is
        written."""
        for name in names:
            try:
                (self._run / TRACKING).mkdir(exist_ok=True)
                job = Job(name, TRACKERS[name].home, str(self._run.resolve()), after, PATIENCE, ORPHAN_PATIENCE)
                self._followers.append(_Follower(job, self._run / TRACKING / f"{name}.log"))
            except OSError as error:
                self._tell(Note(f"{name} can't be started: {error.strerror or error}. The run goes on without it."))

    def __enter__(self) -> Tracking:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._finish(failed=error is not None)
        finally:
            for follower in self._followers:
                follower.kill()

    def _finish(self, failed: bool) -> None:
        for follower in self._followers:
            follower.ask_to_end()
        began, is_told = time.monotonic(), False
        while names := ", ".join(follower.job.name for follower in self._followers if not follower.has_ended()):
            patience = STOPPED_PATIENCE if failed or self._stopping() else LAST_PATIENCE
            waited = time.monotonic() - began
            if waited >= patience:
                break
            if waited >= _TOLD_FROM and not is_told:
                is_told = True
                self._tell(Note(f"Waiting for {names} to finish, {patience:g} s at most."))
            self._pass_on()
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        self._pass_on()
        if names:
            self._tell(Note(f"{names} did not finish within {patience:g} s. {_KEPT}"))

    def _pass_on(self) -> None:
        for follower in self._followers:
            for message in follower.news():
                self._tell(Note(message))


class _Follower:
    """One tracker's process, as `follower.main` describes it. Raises OSError where it can't be started."""

    def __init__(self, job: Job, log: Path) -> None:
        self.job, self._log = job, log
        paths = [str(Path(path or ".").resolve()) for path in sys.path]
        # A session of its own: Ctrl-C on the terminal is the training's to hear, which then ends its trackers in order.
        group = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
        self._process = subprocess.Popen(
            # -P: these tools leave folders of their own names where they are run, which must not be taken for them.
            [sys.executable, "-P", "-m", "gptcli.training.tracking.follower", job.as_text()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            creationflags=group,
            start_new_session=os.name == "posix",
        )
        self._messages: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._hear, name=f"{job.name}-reports", daemon=True)
        self._thread.start()

    def news(self) -> Iterator[str]:
        """What is to be told of it since the last call."""
        while not self._messages.empty():
            yield self._messages.get()

    def ask_to_end(self) -> None:
        """It ends when its standard input does."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def has_ended(self) -> bool:
        """Whether it is no more, and all that it had to say is among the news."""
        return self._process.poll() is not None and not self._thread.is_alive()

    def kill(self) -> None:
        """End it now, if it has not ended."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait(1.0)

    def _hear(self) -> None:
        assert self._process.stdout is not None
        has_said_last = False
        with contextlib.suppress(OSError, ValueError):
            for line in self._process.stdout:
                report = json.loads(line)
                has_said_last = "started" not in report
                if message := self._in_words(report):
                    self._messages.put(message)
        if not has_said_last:
            self._messages.put(self._in_words({"failed": "its process ended"}))

    def _in_words(self, report: Mapping[str, object]) -> str:
        """What is to be told of a report, nothing where all is well."""
        name, log = self.job.name, self._log
        match report:
            case {"started": str(where)}:
                return f"Tracked by {name}: {where}"
            case {"failed": str(reason)}:
                return f"{name} failed, and the run goes on without it: {reason}. {_KEPT} What it printed: {log}"
            case {"hung": str(what)}:
                waited = f"has not answered for {self.job.patience:g} s ({what})"
                return f"{name} {waited}, and the run goes on without it. {_KEPT}"
        return ""
