"""A training run as it is watched: a live view on a terminal, plain lines in a log, or its beginning and notes only."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from gptcli.cli.progress import Interval, count, duration
from gptcli.cli.report import console
from gptcli.cli.terminal import printable, surviving
from gptcli.cli.wording_of_runs import evaluated, figures
from gptcli.runs.progress import RunProgress
from gptcli.training.events import Evaluated, Event, Listener, Note, Profiled, Sampled, Saved, Started, StepDone

if TYPE_CHECKING:
    from rich.console import Console


@contextlib.contextmanager
def watching(monitor: bool, is_main: bool) -> Iterator[Listener]:
    """A listener for `train`. Without `monitor` it draws nothing live; only the main process draws at all."""
    out = console()
    if not is_main:
        yield _ignore
    elif monitor and out.is_terminal and not out.is_dumb_terminal:
        from gptcli.cli.live import LiveRun

        with LiveRun(out) as live:
            yield live
    else:
        yield Lines(out) if monitor else Quiet(out)


def _ignore(event: Event) -> None:
    pass


class Quiet:
    """Tells how the run is set up, notes, and what was asked for: a profile."""

    def __init__(self, out: Console) -> None:
        self.out = out

    def __call__(self, event: Event) -> None:
        match event:
            case Started():
                self.started(event)
            case Note(message=message):
                self.line(f"note: {message}", "yellow")
            case Profiled():
                self.profiled(event)

    def line(self, text: str, style: str = "") -> None:
        from rich.text import Text

        # Styled as a text: a style given to print() would colour the view that is drawn again beneath it too.
        with surviving(self.out):
            self.out.print(Text(printable(" ".join(text.splitlines())), style=style))

    def started(self, event: Started) -> None:
        width = max((len(name) for name in event.facts), default=0)
        for name, value in event.facts.items():
            self.line(f"{name:<{width}}  {value}")
        if event.step:
            self.line(f"Continuing after step {event.step:,} of {event.steps:,}.")

    def profiled(self, event: Profiled) -> None:
        self.line(f"step {event.step:,}  profile of {count(event.steps, 'step')}, {event.step_ms:,.1f} ms each", "bold")
        width = max(len(part) for part in event.parts)
        for part, taken in sorted(event.parts.items(), key=lambda item: -item[1]):
            self.line(f"  {part:<{width}}  {taken:>10,.1f} ms  {taken / event.step_ms:>6.1%}")
        self.line(f"  trace, for ui.perfetto.dev: {event.path}")


class Lines(Quiet):
    """Also a line every few seconds, and one for every evaluation, sample and checkpoint."""

    def __init__(self, out: Console, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(out)
        self.interval = Interval(clock=clock)
        self.clock = clock
        self.progress = RunProgress()

    def __call__(self, event: Event) -> None:
        self.progress.take(event, self.clock())
        self.tell(event)

    def tell(self, event: Event) -> None:
        """The line of an event that `progress` knows of already."""
        match event:
            case StepDone():
                self.step_done(event)
            case Evaluated():
                self.line(evaluated(event), "bold")
            case Sampled():
                sample = " ".join(f"{event.prompt}{event.text}".split())
                self.line(f"step {event.step:,}  sample: {sample}", "dim")
            case Saved():
                self.line(f"step {event.step:,}  saved {event.path}")
            case _:
                super().__call__(event)

    def step_done(self, event: StepDone) -> None:
        if self.interval.due() or event.step == self.progress.steps:
            told = [f"loss {event.loss:.4f}", *figures(event)]
            if (left := self.progress.seconds_left) is not None:
                told.append(f"{duration(left)} left")
            self.line(f"step {event.step:,}/{self.progress.steps:,}  {'  '.join(told)}")
