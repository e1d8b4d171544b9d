"""The one view of a run that goes on: some lines of text, as many and as wide as the terminal has room for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gptcli.cli.progress import duration
from gptcli.cli.sparkline import ASCII, BLOCKS, loss_sparkline, sparkline
from gptcli.cli.terminal import printable
from gptcli.cli.wording_of_runs import figures, percent
from gptcli.evals.published import PUBLISHED

if TYPE_CHECKING:
    from rich.text import Text

    from gptcli.runs.progress import Happening, RunProgress

LABEL = len("validation") + 2  # columns
WIDEST = 100  # columns: curves and bars beyond that tell nothing more
MOST_EVENTS, SAMPLE_LINES = 5, 2
_GUESSING, _GPT2 = 0.25, PUBLISHED["hellaswag", "completion"][0]
_STYLES = {"running": "green", "finished": "bold green", "stopped": "yellow", "crashed": "bold red"}
_TOPICS = {"spike": "red", "slow data": "yellow", "note": "yellow"}


@dataclass(frozen=True)
class Room:
    """Columns and lines that may be filled, and whether the terminal can show more than ASCII."""

    width: int
    height: int
    ascii_only: bool = False

    @property
    def levels(self) -> str:
        """The characters of a sparkline."""
        return ASCII if self.ascii_only else BLOCKS


def dashboard(progress: RunProgress, name: str, state: str, seconds: float, room: Room) -> list[Text]:
    """The lines of the view. What matters least is left out where there is little room, last the progress."""
    width = min(room.width, WIDEST)
    lines = [_headline(name, state, seconds, width), _bar(progress, room, width)]
    lines += _curves(progress, room, width)
    if progress.last:
        lines += _figures(progress, width)
    left = room.height - len(lines)
    if progress.sample and left >= 1:
        lines += _sample(progress.sample.prompt + progress.sample.text, width)[:left]
    left = min(room.height - len(lines), MOST_EVENTS)
    if left >= 1 and progress.happenings:
        lines += _events(list(progress.happenings)[-left:], width)
    return lines[: max(room.height, 1)]


def _headline(name: str, state: str, seconds: float, width: int) -> Text:
    """Name on the left, state and time on the right."""
    told = f"  {duration(seconds)}"
    left = _line([(name, "bold")], width - len(state) - len(told) - 2)
    gap = max(2, width - left.cell_len - len(state) - len(told))
    return _line([(left.plain, "bold"), (" " * gap, ""), (state, _STYLES.get(state, "")), (told, "")], width)


def _bar(progress: RunProgress, room: Room, width: int) -> Text:
    """How far it is, as a bar and in numbers, and how long it will still take."""
    share = progress.step / progress.steps if progress.steps else 0.0
    left = progress.seconds_left
    told = f"{progress.step:,}/{progress.steps:,}  {math.floor(100 * share)}%"
    if left is not None and progress.step < progress.steps:
        told += f"  {duration(left)} left"
    length = width - len(told) - 2
    if length < 4:
        return _line([(told, "")], width)
    full = round(length * share)
    done, rest = ("#", ".") if room.ascii_only else ("━", "─")
    return _line([(done * full, "green"), (rest * (length - full), "dim"), (f"  {told}", "")], width)


def _curves(progress: RunProgress, room: Room, width: int) -> list[Text]:
    """Losses and scores, each with its curve so far."""
    lines = []
    if progress.last:
        curve = loss_sparkline(progress.losses.values, _curve_width(width), room.levels)
        lines.append(_labelled("train loss", f"{progress.last.loss:.4f}", curve, "", width))
    if progress.val and progress.best_val:
        best = progress.best_val
        told = f"best {best.values['loss']:.4f} at step {best.step:,}"
        curve = loss_sparkline(progress.val_losses.values, _curve_width(width), room.levels)
        lines.append(_labelled("validation", f"{progress.val.values['loss']:.4f}", curve, told, width))
    if progress.hellaswag:
        # The curve's highest level is GPT-2's score and its lowest that of guessing, so that it tells how far it is.
        curve = sparkline(
            progress.scores.values, _curve_width(width), levels=room.levels, low=_GUESSING, high=_GPT2.acc_norm
        )
        told = f"{_GPT2.name} {percent(_GPT2.acc_norm)}"
        lines.append(_labelled("HellaSwag", percent(progress.hellaswag.values["acc_norm"]), curve, told, width))
    return lines


def _curve_width(width: int) -> int:
    """What is left of a line between its label with its number, and the words behind the curve."""
    return max(0, min(40, width - LABEL - 8 - 30))


def _labelled(label: str, number: str, curve: str, told: str, width: int) -> Text:
    curve = f"{curve}  " if curve else ""
    return _line([(f"{label:<{LABEL}}", "dim"), (f"{number:<8}", "bold"), (curve, "cyan"), (told, "dim")], width)


def _figures(progress: RunProgress, width: int) -> list[Text]:
    """Learning rate, gradient norm, speed, memory, on as many lines as they take, two at most."""
    assert progress.last is not None
    lines, line = list[str](), ""
    for piece in figures(progress.last):
        longer = f"{line}   {piece}" if line else piece
        if len(longer) > width and line:
            lines.append(line)
            line = piece
        else:
            line = longer
    return [_line([(line, "")], width) for line in [*lines, line][:2]]


def _sample(text: str, width: int) -> list[Text]:
    """The newest sample, on two lines at most."""
    from rich.console import Console
    from rich.text import Text

    words = Text(_on_one_line(text))
    wrapped = words.wrap(Console(), max(1, width - LABEL))
    lines = [line.plain.rstrip() for line in wrapped[:SAMPLE_LINES]]
    if len(wrapped) > SAMPLE_LINES:
        lines[-1] += "…"
    return [
        _line([(f"{'sample' if index == 0 else '':<{LABEL}}", "dim"), (line, "italic")], width)
        for index, line in enumerate(lines)
    ]


def _events(happenings: Sequence[Happening], width: int) -> list[Text]:
    """The newest events, the last one at the bottom."""
    steps = max(len(f"{happening.step:,}") for happening in happenings)
    return [
        _line(
            [
                (f"{'events' if index == 0 else '':<{LABEL}}", "dim"),
                (f"{happening.step:>{steps},}  ", "dim"),
                (_on_one_line(happening.text), _TOPICS.get(happening.topic, "")),
            ],
            width,
        )
        for index, happening in enumerate(happenings)
    ]


def _on_one_line(text: str) -> str:
    """Text of several lines on one, with what is no text made visible: a model may write anything."""
    return printable(" ".join(text.split()))


def _line(parts: Sequence[tuple[str, str]], width: int) -> Text:
    """A line of styled parts, cut where it is too long."""
    from rich.text import Text

    line = Text.assemble(*parts, no_wrap=True)
    line.rstrip()
    line.truncate(max(1, width), overflow="ellipsis")
    return line
