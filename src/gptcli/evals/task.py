"""What a task is, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gptcli.inference.language_model import LanguageModel
from gptcli.inference.load import ModelFacts
from gptcli.settings import EvalSettings

Figure = float | int | None
Row = Mapping[str, int | Sequence[float]]


@dataclass(frozen=True)
class Measured:
    """What scoring one model gives: `n` examples, of which `truncated` were cut to fit; figures by name; for `--save`
    one row an example (empty where a task has none); notes for the user."""

    n: int
    truncated: int
    figures: Mapping[str, Figure]
    rows: Sequence[Row] = ()
    notes: Sequence[str] = ()


Progress = Callable[[int, int], None]  # examples done, examples in all


@dataclass(frozen=True)
class Scorer:
    """A task with its data. `check` raises UserError for a model that can't be scored on it, from what the model's
    folder tells and before any weights are read; `score` does the work."""

    check: Callable[[ModelFacts], None]
    score: Callable[[LanguageModel, Progress], Measured]


@dataclass(frozen=True)
class Task:
    """An entry of the registry.

    `style` names the way of scoring, which figures can only be compared within. `prepare` reads the task's data, once
    for all models; it raises UserError with all that is wrong with the call. `saves_rows` says that there are rows for
    `--save`.
    """

    name: str
    description: str
    style: str
    prepare: Callable[[EvalSettings], Scorer]
    saves_rows: bool = False


@dataclass(frozen=True)
class TaskResult:
    """One model's figures on one task. `seconds` is the time of scoring, `notes` what the user should be told."""

    task: str
    style: str
    model: str
    folder: Path
    measured: Measured
    seconds: float
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, str | Figure]:
        """What `gpt eval --json` prints."""
        return {
            "task": self.task,
            "style": self.style,
            "model": self.model,
            "n": self.measured.n,
            "truncated": self.measured.truncated,
            **self.measured.figures,
            "seconds": self.seconds,
            "examples_per_second": self.measured.n / self.seconds if self.seconds > 0 else None,
        }
