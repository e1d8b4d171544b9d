"""Trackio: a database on this machine (TRACKIO_DIR), or a Space or server, as TRACKIO_SPACE_ID or TRACKIO_SERVER_URL
say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import trackio

from gptcli.training.tracking import points
from gptcli.training.tracking.registry import PROJECT, TrackedRun


class Trackio:
    """What it has of a step stays: it would keep a second value of it beside the first."""

    takes_back: ClassVar[bool] = False

    def __init__(self, run: TrackedRun) -> None:
        self._run = trackio.init(PROJECT, run.name, config=dict(run.configuration), resume="never", embed=False)
        # trackio.init finds the run to go on with by its name, which another run may have had since.
        self._run.id = run.id
        self.where = f"trackio show --project {PROJECT}"

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def sample(self, step: int, prompt: str, text: str) -> None:
        self._run.log({"samples": trackio.Markdown(points.as_code(prompt + text))}, step=step)

    def finish(self) -> None:
        self._run.finish()
