"""`gpt eval`: the scores of models as a table, HellaSwag's beside the published ones, or as JSON."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from gptcli.cli import report
from gptcli.cli.options import Call
from gptcli.cli.progress import Interval, bar
from gptcli.settings import EvalSettings

EXAMPLES = """\
gpt eval hellaswag
gpt eval loss --data-root books
gpt eval hellaswag --model log --model openai-community/gpt2 --limit 1000"""

# Keys of a result that say what was scored; the others are its figures.
_NAMES = ("task", "style", "model")


def run(settings: EvalSettings, call: Call) -> int:
    """Score, and draw the results or print them as JSON. Returns the exit code."""
    from gptcli.evals.run import TASKS, evaluate

    if settings.list:
        if call.json:
            report.print_json(dict(TASKS))
        else:
            sys.stdout.write("".join(f"{name:<12}{summary}\n" for name, summary in TASKS.items()))
        return report.DONE
    with watching() as progress:
        results = [result.as_dict() for result in evaluate(settings, progress)]
    if call.json:
        report.print_json(results[0] if len(results) == 1 else {"results": results})
    for task in dict.fromkeys(result["task"] for result in results):
        draw(task, [result for result in results if result["task"] == task])
    return report.DONE


def draw(task: str, results: Sequence[Mapping[str, Any]]) -> None:
    """A table of the results of one task; beneath HellaSwag's those that were published for GPT-2."""
    from rich.table import Table

    columns = [key for key in results[0] if key not in _NAMES]
    table = Table(title=_title(task, results[0]), title_justify="left", box=None)
    table.add_column("model", overflow="fold")
    for column in columns:
        table.add_column(column, justify="right")
    for result in results:
        table.add_row(str(result["model"]), *(number(result[column]) for column in columns), style="bold")
    if task == "hellaswag":
        from gptcli.evals.published import GPT2_COMPLETION

        for row in GPT2_COMPLETION:
            known = {"acc": number(row.acc), "acc_norm": number(row.acc_norm)}
            table.add_row(f"{row.name} ({row.source})", *(known.get(column, "") for column in columns), style="dim")
    report.console().print(table, soft_wrap=False)


def _title(task: str, result: Mapping[str, Any]) -> str:
    return f"{task}, {result['style']}" if result.get("style") else task


def number(value: Any) -> str:
    """A figure with the digits that matter."""
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 100 else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else "" if value is None else str(value)


@contextlib.contextmanager
def watching() -> Iterator[Callable[[int, int], None]]:
    """Draws how many of the examples are done: a bar on a terminal, else a plain line every few seconds."""
    out = report.console()
    if not out.is_terminal:
        interval = Interval()

        def line(done: int, total: int) -> None:
            if interval.due():
                out.print(f"{done:,} of {total:,}")

        yield line
        return
    with bar(out) as drawn:
        task = drawn.add_task("", total=None, text="")

        def move(done: int, total: int) -> None:
            drawn.update(task, total=total, completed=done, text=f"{done:,} of {total:,}")

        yield move
