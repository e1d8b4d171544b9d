"""What is known of a run while it goes on, gathered from its events; the same whether they come from the training
itself or are read from its files."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from gptcli.runs.thinned import Thinned
from gptcli.training.events import Evaluated, Event, Note, Profiled, Sampled, Saved, Started, StepDone

MOST_HAPPENINGS = 20


@dataclass(frozen=True)
class Happening:
    """A line of the list of events: `topic` is that of a Note, or "saved", or "profiled"."""

    step: int
    topic: str
    text: str


@dataclass
class RunProgress:
    """`take` is told each event with its moment, on any clock that counts seconds; everything else is read. Losses are
    curves for a sparkline, their numbers exact where they are the last or the lowest."""

    seconds: float = 0.0  # the moment of the last event
    started: Started | None = None
    last: StepDone | None = None
    losses: Thinned = field(default_factory=Thinned)
    val: Evaluated | None = None
    best_val: Evaluated | None = None
    val_losses: Thinned = field(default_factory=Thinned)
    hellaswag: Evaluated | None = None
    scores: Thinned = field(default_factory=Thinned)
    sample: Sampled | None = None
    happenings: deque[Happening] = field(default_factory=lambda: deque(maxlen=MOST_HAPPENINGS))
    _first: tuple[int, float] | None = None  # the first step of this call, and when it was done
    _latest: tuple[int, float] | None = None

    @property
    def step(self) -> int:
        """Steps that are done."""
        return max(self.last.step if self.last else 0, self.started.step if self.started else 0)

    @property
    def steps(self) -> int:
        """Those of the whole run, 0 where that is not yet known."""
        return self.started.steps if self.started else 0

    @property
    def seconds_left(self) -> float | None:
        """Time to the end at the pace since the first step of this call, with its evaluations and checkpoints. None
        before the first step."""
        if self.last is None or self.started is None or self._first is None or self._latest is None:
            return None
        (first, began), (latest, now) = self._first, self._latest
        if latest > first:
            pace = (now - began) / (latest - first)
        else:
            pace = self.started.tokens_per_step / max(self.last.tokens_per_second, 1e-9)
        return pace * (self.steps - latest)

    def take(self, event: Event, now: float) -> None:
        """One more event, which came at the moment `now`."""
        self.seconds = now
        match event:
            case Started():
                self.started = event
                self._first = self._latest = None
                if event.step and not (self.happenings and self.happenings[-1].topic == "resumed"):
                    self._happened(event.step, "resumed", f"resumed after step {event.step:,}")
            case StepDone():
                self._step_done(event, now)
            case Evaluated():
                self._evaluated(event)
            case Sampled():
                self.sample = event
            case Saved():
                self._happened(event.step, "saved", f"saved {event.path.name}")
            case Profiled():
                self._happened(event.step, "profiled", f"profiled {event.steps} steps")
            case Note():
                self._happened(self.step if event.step is None else event.step, event.topic, event.message)
                if event.topic == "resumed":
                    self._first = self._latest = None

    def _step_done(self, event: StepDone, now: float) -> None:
        self.last, self._latest = event, (event.step, now)
        self._first = self._first or self._latest
        if math.isfinite(event.loss):
            self.losses.add(event.loss)

    def _evaluated(self, event: Evaluated) -> None:
        if event.kind == "val":
            self.val = event
            self.val_losses.add(event.values["loss"])
            if self.best_val is None or event.values["loss"] < self.best_val.values["loss"]:
                self.best_val = event
        elif event.kind == "hellaswag":
            self.hellaswag = event
            self.scores.add(event.values["acc_norm"])

    def _happened(self, step: int, topic: str, text: str) -> None:
        self.happenings.append(Happening(step, topic, " ".join(text.split())))
