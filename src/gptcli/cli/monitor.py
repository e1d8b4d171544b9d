"""A training run as it is watched: a live bar on a terminal, plain lines in a log, or only its beginning and notes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from gptcli.cli.progress import Interval, bar, brief, count, duration, gibibytes, short
from gptcli.cli.report import console
from gptcli.training.events import Evaluated, Event, Listener, Note, Profiled, Sampled, Saved, Started, StepDone

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

_WORTH_TELLING = 0.01  # of a step's time, waiting for data
_SHORTEST_BAR = 10 + 2  # columns, with those that part it from the text on both sides


@contextlib.contextmanager
def watching(monitor: bool, is_main: bool) -> Iterator[Listener]:
    """A listener for `train`. Without `monitor` it draws nothing live; only the main process draws at all."""
    out = console()
    if not is_main:
        yield _ignore
    elif monitor and out.is_terminal:
        with bar(out) as progress:
            yield Bar(out, progress)
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

        # Styled as a text: a style given to print() would colour the bar that is drawn again beneath it too.
        self.out.print(Text(text, style=style))

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
        self.steps = self.tokens_per_step = 0
        self.first: tuple[int, float] | None = None  # the first step of this call, and when it was done

    def __call__(self, event: Event) -> None:
        match event:
            case StepDone():
                self.step_done(event)
            case Evaluated():
                self.line(_evaluated(event), "bold")
            case Sampled():
                self.line(f"step {event.step:,}  sample: {event.prompt}{event.text}", "dim")
            case Saved():
                self.line(f"step {event.step:,}  saved {event.path}")
            case _:
                super().__call__(event)

    def started(self, event: Started) -> None:
        super().started(event)
        self.steps, self.tokens_per_step = event.steps, event.tokens_per_step

    def left(self, event: StepDone) -> str:
        """Time to the end at the pace since the first step of this call, with its evaluations and checkpoints."""
        if self.first is None:
            self.first = (event.step, self.clock())
        step, since = self.first
        if event.step > step:
            pace = (self.clock() - since) / (event.step - step)
        else:
            pace = self.tokens_per_step / max(event.tokens_per_second, 1e-9)
        return f"{duration(pace * (self.steps - event.step))} left"

    def step_done(self, event: StepDone) -> None:
        left = self.left(event)
        if self.interval.due() or event.step == self.steps:
            self.line(f"step {event.step:,}/{self.steps:,}  {'  '.join((*_figures(event), left))}")


class Bar(Lines):
    """The same on a terminal, where a bar at the bottom moves instead of the lines."""

    def __init__(self, out: Console, progress: Progress) -> None:
        super().__init__(out)
        self.progress = progress
        self.task: TaskID | None = None

    def started(self, event: Started) -> None:
        super().started(event)
        self.task = self.progress.add_task("step", total=event.steps, completed=event.step, text="")

    def step_done(self, event: StepDone) -> None:
        if self.task is not None:
            description, left = f"step {event.step:,}/{self.steps:,}", self.left(event)
            room = self.out.options.max_width - len(description) - _SHORTEST_BAR
            text = next((text for text in _texts(event, left) if len(text) <= room), left)
            self.progress.update(self.task, completed=event.step, description=description, text=text)


def _texts(event: StepDone, left: str) -> Iterator[str]:
    """What to show beside the bar, shorter and shorter."""
    loss = f"loss {event.loss:.4f}"
    figures = _figures(event)
    for shown in range(len(figures), 3, -1):
        yield "  ".join((*figures[:shown], left))
    yield f"{loss}  {figures[2]}  {left}"
    yield f"{loss}  {left}"
    yield loss


def _figures(event: StepDone) -> list[str]:
    """Loss, learning rate, speed, and what else is known or worth telling, from the most important on."""
    figures = [f"loss {event.loss:.4f}", f"lr {event.lr:.2e}", f"{short(event.tokens_per_second)} tokens/s"]
    figures.append(brief(event.seconds))
    if event.waited >= _WORTH_TELLING:
        figures.append(f"{event.waited:.0%} waiting for data")
    if event.peak_memory is not None:
        figures.append(f"peak {gibibytes(event.peak_memory)}")
    if event.mfu is not None:
        figures.append(f"MFU {event.mfu:.1%}")
    return figures


def _evaluated(event: Evaluated) -> str:
    names = {"val": "validation", "hellaswag": "HellaSwag"}
    values = "  ".join(f"{name} {_number(value)}" for name, value in event.values.items())
    return f"step {event.step:,}  {names.get(event.kind, event.kind)}  {values}"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
