"""Trackers for the tests, which the processes of trackers import by their names: one that writes down what it is told,
and others that fail in every way that a tool can."""

from __future__ import annotations

import atexit
import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from typing import ClassVar

from gptcli.training.tracking.registry import TrackedRun

TOLD = "told.jsonl"


class Recording:
    """Writes a line for whatever it is told."""

    takes_back: ClassVar[bool] = False

    def __init__(self, run: TrackedRun) -> None:
        self._file = run.folder / TOLD
        self.where = str(self._file)
        self._write(start=run.id, name=run.name, after=run.after, configuration=dict(run.configuration))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._write(step=step, values=dict(values))

    def sample(self, step: int, prompt: str, text: str) -> None:
        self._write(step=step, sample=prompt + text)

    def finish(self) -> None:
        self._write(finish=True)

    def _write(self, **told: object) -> None:
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(told) + "\n")


class TakingBack(Recording):
    takes_back = True


class FailingAtStart(Recording):
    def __init__(self, run: TrackedRun) -> None:
        raise RuntimeError("no login")


class LeavingAtStart(Recording):
    def __init__(self, run: TrackedRun) -> None:
        sys.exit("some tools do so")


class FailingAtLog(Recording):
    def log(self, step: int, values: Mapping[str, float]) -> None:
        if step == 2:
            raise OSError(28, "No space left on device")


class FailingAtFinish(Recording):
    def finish(self) -> None:
        raise ConnectionError("the server is gone")


class Dying(Recording):
    def log(self, step: int, values: Mapping[str, float]) -> None:
        os._exit(9)


class HangingAtStart(Recording):
    def __init__(self, run: TrackedRun) -> None:
        time.sleep(3600)


class HangingAtLog(Recording):
    def log(self, step: int, values: Mapping[str, float]) -> None:
        time.sleep(3600)


class HangingAtFinish(Recording):
    def finish(self) -> None:
        time.sleep(3600)


class Rude(Recording):
    """Prints, asks, sets seeds, and leaves behind what would keep a process from ending."""

    def __init__(self, run: TrackedRun) -> None:
        import random

        random.seed(0)
        print("CHATTER on standard output", flush=True)
        print("CHATTER on standard error", file=sys.stderr, flush=True)
        os.write(1, b"CHATTER past Python\n")
        try:
            answer = input("Log in? ")
        except EOFError:
            answer = "nobody is there"
        threading.Thread(target=time.sleep, args=(3600,)).start()
        atexit.register(time.sleep, 3600)
        super().__init__(run)
        self._write(answer=answer)
