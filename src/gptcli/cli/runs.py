"""`gpt runs`: the runs under a folder as a table, or as JSON."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptcli.cli import report
from gptcli.cli.options import Call
from gptcli.cli.progress import duration, short
from gptcli.errors import UsageError, UserError
from gptcli.settings import RunsSettings

if TYPE_CHECKING:
    from rich.table import Table

    from gptcli.runs.summary import RunSummary

EXAMPLES = """\
gpt runs
gpt runs log --sort best
gpt runs --json"""

# What each column is sorted by. Where more is better the greatest comes first, else the least.
_KEYS: dict[str, tuple[Callable[[RunSummary], Any], bool]] = {
    "started": (lambda run: run.started, True),
    "run": (lambda run: str(run.path), False),
    "state": (lambda run: run.state, False),
    "step": (lambda run: run.step, True),
    "tokens": (lambda run: run.tokens, True),
    "loss": (lambda run: run.loss, False),
    "val": (lambda run: run.val_loss, False),
    "best": (lambda run: run.best_val_loss, False),
    "hellaswag": (lambda run: run.hellaswag, True),
    "speed": (lambda run: run.tokens_per_second, True),
    "time": (lambda run: run.seconds, True),
    "size": (lambda run: run.bytes, True),
    "model": (lambda run: run.parameters, True),
}
_STYLES = {"running": "green", "finished": "", "stopped": "yellow", "crashed": "red"}


def run(settings: RunsSettings, call: Call) -> int:
    """List the runs. Returns the exit code."""
    summaries = ordered(_summaries(Path(settings.folder)), settings.sort, settings.reverse)
    if call.json:
        report.print_json({"runs": [summary.as_dict() for summary in summaries]})
    else:
        _print(table(summaries))
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
    return summaries


def ordered(summaries: Sequence[RunSummary], column: str, reverse: bool) -> list[RunSummary]:
    """Sorted by a column, the best or greatest first; what has no value there comes last either way."""
    key, greatest_first = _KEYS[column]
    known = [summary for summary in summaries if key(summary) is not None]
    unknown = [summary for summary in summaries if key(summary) is None]
    return [*sorted(known, key=key, reverse=greatest_first != reverse), *unknown]


def table(summaries: Sequence[RunSummary]) -> Table:
    """A row for each run."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="dim")
    made.add_column("run", overflow="fold")
    made.add_column("state", no_wrap=True)
    made.add_column("model", overflow="fold")
    for name in ("params", "step", "tokens", "loss", "val", "best", "HellaSwag", "tokens/s", "time", "size"):
        made.add_column(name, justify="right", no_wrap=True)
    for summary in summaries:
        made.add_row(
            str(summary.path),
            Text(summary.state, style=_STYLES[summary.state]),
            summary.model,
            *_cells(summary),
        )
    return made


def _cells(summary: RunSummary) -> list[str]:
    score = "" if summary.hellaswag is None else f"{100 * summary.hellaswag:.2f}%"
    return [
        _short(summary.parameters),
        f"{summary.step:,}/{summary.steps:,}",
        short(summary.tokens),
        *(_loss(loss) for loss in (summary.loss, summary.val_loss, summary.best_val_loss)),
        score,
        _short(summary.tokens_per_second),
        duration(summary.seconds),
        f"{short(summary.bytes)}B",
    ]


def _short(number: float | None) -> str:
    return "" if number is None else short(number)


def _loss(loss: float | None) -> str:
    return "" if loss is None else f"{loss:.4f}"


def _print(made: Table) -> None:
    """To standard output, as wide as the terminal, or as wide as it is where there is none."""
    from rich.console import Console

    out = Console(file=sys.stdout, markup=False, emoji=False, highlight=False)
    if not out.is_terminal:
        out = Console(file=sys.stdout, markup=False, emoji=False, highlight=False, width=10_000)
    out.print(made)
