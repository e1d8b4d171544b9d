"""`gpt runs`: the runs under a folder as a table, or as JSON."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptcli.cli import report
from gptcli.cli.options import Call
from gptcli.cli.progress import duration, short
from gptcli.cli.terminal import printable
from gptcli.cli.wording_of_runs import percent
from gptcli.errors import UsageError, UserError
from gptcli.settings import RunsSettings

if TYPE_CHECKING:
    from rich.table import Table

    from gptcli.runs.summary import RunSummary

EXAMPLES = """\
gpt runs
gpt runs log --sort best
gpt runs --json"""


@dataclass(frozen=True)
class Column:
    """`name` is what --sort calls it, `key` what it is sorted by; where more is better the greatest comes first."""

    name: str
    title: str
    cell: Callable[[RunSummary], str]
    key: Callable[[RunSummary], Any]
    greatest_first: bool = False
    is_number: bool = True


COLUMNS = (
    Column("run", "run", lambda run: str(run.path), lambda run: str(run.path), is_number=False),
    Column("state", "state", lambda run: run.state, lambda run: run.state, is_number=False),
    Column("model", "model", lambda run: run.model, lambda run: run.model, is_number=False),
    Column("parameters", "params", lambda run: _short(run.parameters), lambda run: run.parameters, True),
    Column("step", "step", lambda run: f"{run.step:,}/{run.steps:,}", lambda run: run.step, True),
    Column("tokens", "tokens", lambda run: short(run.tokens), lambda run: run.tokens, True),
    Column("loss", "loss", lambda run: _loss(run.loss), lambda run: run.loss),
    Column("val", "val", lambda run: _loss(run.val_loss), lambda run: run.val_loss),
    Column("best", "best", lambda run: _loss(run.best_val_loss), lambda run: run.best_val_loss),
    Column("hellaswag", "HellaSwag", lambda run: _score(run.hellaswag), lambda run: run.hellaswag, True),
    Column("speed", "tokens/s", lambda run: _short(run.tokens_per_second), lambda run: run.tokens_per_second, True),
    Column("time", "time", lambda run: duration(run.seconds), lambda run: run.seconds, True),
    Column("size", "size", lambda run: f"{short(run.bytes)}B", lambda run: run.bytes, True),
    Column("started", "started", lambda run: (run.started or "")[:16].replace("T", " "), lambda run: run.started, True),
)
# What a narrow terminal leaves out, the first of them first.
_LEFT_OUT = ("started", "tokens", "model", "size", "parameters", "loss", "time", "speed", "val", "hellaswag", "step")
_GAP = 2  # columns between two
_STYLES = {"running": "green", "finished": "", "stopped": "yellow", "crashed": "red"}


def run(settings: RunsSettings, call: Call) -> int:
    """List the runs. Returns the exit code."""
    summaries = ordered(_summaries(Path(settings.folder)), settings.sort, settings.reverse)
    if call.json:
        report.print_json({"runs": [summary.as_dict() for summary in summaries]})
    else:
        _print(summaries)
    return report.DONE


def _summaries(folder: Path) -> list[RunSummary]:
    """Raises UsageError where no run is found; one that is damaged is told and left out."""
    from gptcli.runs.summary import find_runs, summarise

    if not folder.is_dir():
        raise UsageError(f"There is no folder {folder}.", "Name a folder that holds runs, or a run itself.")
    found = find_runs(folder)
    if not found:
        raise UsageError(f"There are no runs under {folder}.", "A run is a folder of gpt train, with its run.json.")
    summaries = []
    for path in found:
        try:
            summaries.append(summarise(path))
        except UserError as error:
            report.say(f"note: {error.faults[0].message}", "yellow")
        except OSError as error:
            report.say(f"note: {path} can't be read: {error.strerror or error}.", "yellow")
    if not summaries:
        raise UserError(f"None of the runs under {folder} can be read.", "The notes above tell why.")
    return summaries


def ordered(summaries: Sequence[RunSummary], column: str, reverse: bool) -> list[RunSummary]:
    """Sorted by a column, the best or greatest first; what has no value there comes last either way."""
    sorted_by = next(known for known in COLUMNS if known.name == column)
    known = [summary for summary in summaries if sorted_by.key(summary) is not None]
    unknown = [summary for summary in summaries if sorted_by.key(summary) is None]
    return [*sorted(known, key=sorted_by.key, reverse=sorted_by.greatest_first != reverse), *unknown]


def table(summaries: Sequence[RunSummary], width: int) -> Table:
    """A row for each run, with as many columns as `width` has room for."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="dim", padding=(0, _GAP, 0, 0))
    columns = _fitting(summaries, width)
    for column in columns:
        first = column.name == "run"
        made.add_column(
            column.title,
            justify="right" if column.is_number else "left",
            no_wrap=not first,
            overflow="fold" if first else "ellipsis",
        )
    for summary in summaries:
        made.add_row(
            *(
                Text(printable(column.cell(summary)), style=_STYLES[summary.state] if column.name == "state" else "")
                for column in columns
            )
        )
    return made


def _fitting(summaries: Sequence[RunSummary], width: int) -> list[Column]:
    """The columns that fit, of which the most telling stay longest. A name of a run is broken if need be."""
    widths = {column.name: _GAP + max(map(len, (column.title, *map(column.cell, summaries)))) for column in COLUMNS}
    shown = list(COLUMNS)
    for name in _LEFT_OUT:
        if sum(widths[column.name] for column in shown) - _GAP <= width:
            break
        shown = [column for column in shown if column.name != name]
    return shown


def _score(accuracy: float | None) -> str:
    return "" if accuracy is None else percent(accuracy)


def _short(number: float | None) -> str:
    return "" if number is None else short(number)


def _loss(loss: float | None) -> str:
    return "" if loss is None else f"{loss:.4f}"


def _print(summaries: Sequence[RunSummary]) -> None:
    """To standard output, as wide as the terminal, or as wide as it is where there is none."""
    from rich.console import Console

    out = Console(file=sys.stdout, markup=False, emoji=False, highlight=False)
    if not out.is_terminal:
        out = Console(file=sys.stdout, markup=False, emoji=False, highlight=False, width=10_000)
    out.print(table(summaries, out.width))
