"""What a run tells whoever watches it. The trainer emits these; the command line draws them; nothing flows back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

Topic = Literal["note", "spike", "slow data", "resumed", "stopped", "finished"]


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
    """Something worth one line: a fallback, a change since the last call, a step that was left out, a failed save.
    `step` is None for what comes before the first one of a call."""

    message: str
    step: int | None = None
    topic: Topic = "note"


@dataclass(frozen=True)
class StepDone:
    """One optimiser step, as the `train` line that `metrics.jsonl` has for it tells it: `waited` is the share of its
    time in which it waited for data, `peak_memory` in bytes and `mfu` are None where they are not known."""

    step: int
    loss: float
    lr: float
    grad_norm: float
    tokens_per_second: float
    tokens: int
    seconds: float
    waited: float = 0.0
    peak_memory: int | None = None
    mfu: float | None = None


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
    """A checkpoint is whole. Training waited `stall_ms` for it; writing it beside the training took `seconds`."""

    step: int
    path: Path
    stall_ms: float
    seconds: float


@dataclass(frozen=True)
class Profiled:
    """The last `steps` steps, up to `step`, were profiled: `parts` are the milliseconds that each part took of one of
    them, which together are the step; `path` is the trace."""

    step: int
    steps: int
    parts: Mapping[str, float]
    path: Path

    @property
    def step_ms(self) -> float:
        """One step, with what it cost to record it."""
        return sum(self.parts.values())


Event = Started | Note | StepDone | Evaluated | Sampled | Saved | Profiled
Listener = Callable[[Event], None]


@dataclass(frozen=True)
class Spent:
    """Where the time of one call went, in seconds: `waiting` for data is a part of `steps`; `saving` is what training
    waited for, not what was written beside it. `tokens` are those of the steps."""

    steps: float = 0.0
    waiting: float = 0.0
    evaluating: float = 0.0
    saving: float = 0.0
    tokens: int = 0

    def plus(self, **more: float) -> Spent:
        """With so much more of each."""
        return replace(self, **{name: getattr(self, name) + value for name, value in more.items()})


@dataclass(frozen=True)
class TrainResult:
    """How a call of `train` ended.

    `signal` is the number of the signal that stopped it early, `out_of_time` says that --max-time did; the run is
    complete where neither is so. `already_finished`: it was complete before the call and nothing was done. `checkpoint`
    is None where the run was stopped before its length was fixed: there was nothing to save. `peak_memory` is in bytes,
    None where it is not known.
    """

    log_dir: Path
    checkpoint: Path | None
    step: int
    steps: int
    val_loss: float | None
    signal: int | None
    out_of_time: bool = False
    already_finished: bool = False
    spent: Spent = Spent()
    peak_memory: int | None = None

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do."""
        return self.signal is None and not self.out_of_time
