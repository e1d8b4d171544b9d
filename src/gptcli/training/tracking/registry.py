"""The trackers by name. A new one is

- a module here with a class that does what `Tracker` says,
- its line in `TRACKERS`,
- its name among those that `--track` offers, in `settings/train.py`, and an extra of that name in `pyproject.toml`.

The class is imported only in the process that tracks; nothing here imports it.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from gptcli.errors import Fault, nearest, raise_if

PROJECT = "gpt-from-scratch"  # where a tool sorts runs into projects, and its own environment names none


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of the run: its `name`, an `id` that stays the same until it begins anew, the tracker's
    own `folder` within it, its configuration as `run.json` has it, and the step `after` which it goes on (None: it
    begins)."""

    folder: Path
    name: str
    id: str
    configuration: Mapping[str, Any]
    after: int | None


class Tracker(Protocol):
    """One tool, from its start to its end. Every call may raise whatever it likes, and may never return.

    `takes_back` says that what it was told of the steps past `TrackedRun.after` goes when a run continues from there;
    otherwise those steps are not told to it again. `where` tells people where to look.
    """

    takes_back: ClassVar[bool]
    where: str

    def __init__(self, run: TrackedRun) -> None: ...

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step, by names such as `train/loss`. Steps never go down; one may come in several calls."""

    def sample(self, step: int, prompt: str, text: str) -> None:
        """A completion of `prompt` by the model after a step."""

    def finish(self) -> None:
        """Everything was told; returns when the tool has it."""


@dataclass(frozen=True)
class Registered:
    """`package` is what must be installed, `home` the `module:class` that tells it of a run."""

    package: str
    home: str


TRACKERS = {
    "tensorboard": Registered("tensorboard", "gptcli.training.tracking.tensorboard:TensorBoard"),
    "wandb": Registered("wandb", "gptcli.training.tracking.wandb:WeightsAndBiases"),
    "trackio": Registered("trackio", "gptcli.training.tracking.trackio:Trackio"),
}


def chosen(names: tuple[str, ...]) -> tuple[str, ...]:
    """The trackers that are named, in lower case, each once. Raises UsageError for one that is not known or not
    installed."""
    lowered = tuple(dict.fromkeys(name.lower() for name in names))
    if lowered == ("none",):
        return ()
    faults = [fault for name in lowered if (fault := _fault(name))]
    raise_if(faults)
    return lowered


def load(home: str) -> type[Tracker]:
    """The class that `home` names. Raises what its import does."""
    module, name = home.split(":")
    found: type[Tracker] = getattr(importlib.import_module(module), name)
    return found


def _fault(name: str) -> Fault | None:
    if name == "none":
        return Fault("--track: none stands alone.", "Leave none out, or the others.")
    if name not in TRACKERS:
        close = nearest(name, (*TRACKERS, "none"))
        hint = f"Did you mean '{close}'?" if close else f"Known are {', '.join(TRACKERS)} and none."
        return Fault(f"--track: there is no tracker called '{name}'.", hint)
    if not _is_installed(TRACKERS[name].package):
        return Fault(
            f"--track {name}: the package {TRACKERS[name].package} is not installed.",
            f"pip install 'gpt-from-scratch[{name}]'",
        )
    return None


def _is_installed(package: str) -> bool:
    """Whether a package is there, without importing it. Folders of such names, which these tools leave behind where
    they were run, are packages to Python too: those have no origin."""
    try:
        found = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return False
    return found is not None and found.origin is not None
