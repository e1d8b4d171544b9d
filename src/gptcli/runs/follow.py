"""A run's files, read as they grow: by whoever watches it from another process, or another machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gptcli.errors import UsageError
from gptcli.runs import replay
from gptcli.runs.progress import RunProgress
from gptcli.training.events import Event
from gptcli.training.metrics import METRICS, SAMPLES, Tail
from gptcli.training.run_file import RUN, read


class Follower:
    """`poll` gives the events of the run in folder `run` that are new, each with its moment in seconds of the run.

    Where the run was continued from an earlier checkpoint or begun anew, `starts_anew` is true, and the events come
    from the first one on again.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self.starts_anew = False
        self._begin()

    def _begin(self) -> None:
        self._metrics, self._samples = Tail(self.run / METRICS), Tail(self.run / SAMPLES)
        self._recorded: dict[str, Any] | None = None
        self._now = 0.0

    def poll(self) -> list[tuple[Event, float]]:
        """What is new. Raises UserError where `run.json` is damaged."""
        self.starts_anew = self._metrics.is_replaced() or self._samples.is_replaced()
        if self.starts_anew:
            self._begin()
        return list(self._new())

    def _new(self) -> Iterator[tuple[Event, float]]:
        recorded = read(self.run)
        if recorded is not None and (self._recorded is None or recorded["steps"] != self._recorded["steps"]):
            yield replay.started(self.run, recorded), self._now
        self._recorded = recorded
        for file in (self._metrics, self._samples):
            for row in file.rows():
                self._now = max(self._now, replay.number(row.get("time")) or 0.0)
                if event := replay.event_of(self.run, row):
                    yield event, self._now


def progress_of(run: Path) -> RunProgress:
    """What the files of a run tell of it so far. Raises UserError where its `run.json` is damaged."""
    progress = RunProgress()
    for event, now in Follower(run).poll():
        progress.take(event, now)
    return progress


def check_is_run(run: Path) -> None:
    """Raise UsageError where `run` is no run folder."""
    if not (run / RUN).exists():
        raise UsageError(f"{run} is not a run: it has no {RUN}.", "Name a run folder of gpt train.")
