"""What a run tells whoever watches it. The trainer emits these; the command line draws them; nothing flows back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Started:
    """The run is set up and about to take its first step.

    `facts` are the resolved choices in the order to show them (device, precision, model, data, batch arithmetic,
    length); `step` is the number of steps that an earlier call has completed, `steps` the length of the whole run.
    """

    log_dir: Path
    step: int
    steps: int
    tokens_per_step: int
    facts: Mapping[str, str]


@dataclass(frozen=True)
class Note:
    """Something worth one line: a fallback, a change since the last call, a metric that is left out."""

    message: str


@dataclass(frozen=True)
class StepDone:
    """One optimiser step, and the `train` line that `metrics.jsonl` has for it."""

    step: int
    loss: float
    lr: float
    grad_norm: float
    tokens_per_second: float
    tokens: int


@dataclass(frozen=True)
class Evaluated:
    """A `val` or `hellaswag` line: `kind`, and its values by name."""

    step: int
    kind: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class Sampled:
    """A completion by the model as it is now."""

    step: int
    prompt: str
    text: str


@dataclass(frozen=True)
class Saved:
    """A checkpoint is whole."""

    step: int
    path: Path


Event = Started | Note | StepDone | Evaluated | Sampled | Saved
Listener = Callable[[Event], None]


@dataclass(frozen=True)
class TrainResult:
    """How a call of `train` ended.

    `signal` is the number of the signal that stopped it early, None where the run is complete. `already_finished` says
    that the run was complete before the call and nothing was done.
    """

    log_dir: Path
    checkpoint: Path
    step: int
    steps: int
    val_loss: float | None
    signal: int | None
    already_finished: bool = False
