"""What a task is, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gptcli.distributed.group import Group
from gptcli.inference.language_model import LanguageModel
from gptcli.inference.load import ModelFacts
from gptcli.settings import EvalSettings

Figure = float | int | None
Row = Mapping[str, object]


@dataclass(frozen=True)
class Measured:
    """What scoring one model gives: `n` examples, of which `truncated` were cut to fit; figures by name, and between
    which values some of them lie with 95% confidence; for `--save` one row an example (empty where a task has none),
    which has `index` and, where an answer is right or wrong, `label`, `pred` and maybe `pred_norm`; notes for the
    user."""

    n: int
    truncated: int
    figures: Mapping[str, Figure]
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    rows: Sequence[Row] = ()
    notes: Sequence[str] = ()


Progress = Callable[[int, int], None]  # examples done, examples in all
Begins = Callable[[ModelFacts, str], None]  # a model that is about to be scored, and the name that it is shown by


@dataclass(frozen=True)
class Scorer:
    """A task with its data. `check` raises UserError for a model that can't be scored on it, from what the model's
    folder tells and before any weights are read; `score` does the work, shared by the processes of the group, and gives
    the same on all of them. `is_published` says that the data is what others have measured on."""

    check: Callable[[ModelFacts], None]
    score: Callable[[LanguageModel, Group, Progress], Measured]
    is_published: bool = False


@dataclass(frozen=True)
class Task:
    """An entry of the registry.

    `styles` names the ways of scoring that it has, the default first: figures can only be compared within one.
    `prepare` reads the task's data for one of them, once for all models; it raises UserError with all that is wrong
    with the call.
    """

    name: str
    description: str
    styles: tuple[str, ...]
    prepare: Callable[[EvalSettings, str], Scorer]


@dataclass(frozen=True)
class TaskResult:
    """One model's figures on one task. `seconds` is the time of scoring, `notes` what the user should be told,
    `weights` how they were held."""

    task: str
    style: str
    model: str
    folder: Path
    tokenizer: str | None
    measured: Measured
    seconds: float
    notes: list[str] = field(default_factory=list)
    is_published: bool = False
    weights: str = "fp32"

    def as_dict(self) -> dict[str, object]:
        """What `gpt eval --json` prints."""
        return {
            "task": self.task,
            "style": self.style,
            "model": self.model,
            "weights": self.weights,
            "tokenizer": self.tokenizer,
            "n": self.measured.n,
            "truncated": self.measured.truncated,
            **self.measured.figures,
            **{f"{name}_interval": list(ends) for name, ends in self.measured.intervals.items()},
            "seconds": self.seconds,
            "examples_per_second": self.measured.n / self.seconds if self.seconds > 0 else None,
        }
