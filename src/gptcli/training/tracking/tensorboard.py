"""TensorBoard: event files in the run's folder, for `tensorboard --logdir`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import ClassVar

from torch.utils.tensorboard import FileWriter, SummaryWriter
from torch.utils.tensorboard.summary import hparams

from gptcli.training.tracking import points
from gptcli.training.tracking.registry import TrackedRun

_SECONDS_BETWEEN_FLUSHES = 5


class TensorBoard:
    """Its event files can be read while they are written. `purge_step` hides what older ones have of later steps."""

    takes_back: ClassVar[bool] = True

    def __init__(self, run: TrackedRun) -> None:
        first = 0 if run.after is None else run.after + 1
        self._writer = SummaryWriter(str(run.folder), purge_step=first, flush_secs=_SECONDS_BETWEEN_FLUSHES)
        self.where = f"tensorboard --logdir {run.folder.parent}"
        self._write_configuration(run, first)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def sample(self, step: int, prompt: str, text: str) -> None:
        self._writer.add_text("samples", points.as_code(prompt + text), step)

    def finish(self) -> None:
        self._writer.close()

    def _write_configuration(self, run: TrackedRun, step: int) -> None:
        """As a text, and as what the tab of hyperparameters compares runs by."""
        self._writer.add_text("configuration", points.as_code(json.dumps(run.configuration, indent=2)), step)
        kinds = (bool, int, float, str)
        flat = {name: value for name, value in points.flat(run.configuration).items() if isinstance(value, kinds)}
        describe: Callable[..., tuple[object, object, object]] = hparams
        get_file_writer: Callable[[], FileWriter] = self._writer._get_file_writer
        experiment, session, _ = describe(flat, {"val/loss": 0.0})  # the last says that the run has ended
        for summary in (experiment, session):
            get_file_writer().add_summary(summary)
