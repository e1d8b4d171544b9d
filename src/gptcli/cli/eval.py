"""`gpt eval`: the scores of models as a table, HellaSwag's beside the published ones, or as JSON."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gptcli.cli import report
from gptcli.cli.options import Call
from gptcli.cli.progress import Interval, bar, duration
from gptcli.settings import EvalSettings, data_folder

if TYPE_CHECKING:
    from gptcli.evals.task import TaskResult

EXAMPLES = """\
gpt eval hellaswag
gpt eval loss --data-root books
gpt eval hellaswag --model log --model openai-community/gpt2 --limit 1000"""

_ERROR = "_stderr"  # acc_stderr is the standard error of acc, and stands beside it


def run(settings: EvalSettings, call: Call) -> int:
    """Score, and draw the results or print them as JSON. Returns the exit code."""
    from gptcli.evals.run import TASKS, evaluate

    if settings.list:
        tasks = {name: task.description for name, task in TASKS.items()}
        if call.json:
            report.print_json(tasks)
        else:
            sys.stdout.write("".join(f"{name:<12}{description}\n" for name, description in tasks.items()))
        return report.DONE
    if settings.data_root is not None:
        report.say(f"Data: {data_folder(settings.data_root)}")
    with watching() as progress:
        results = evaluate(settings, progress)
    for note in dict.fromkeys(note for result in results for note in result.notes):
        report.say(f"note: {note}", "yellow")
    for task in dict.fromkeys(result.task for result in results):
        draw([result for result in results if result.task == task])
    if call.json:
        documents = [result.as_dict() for result in results]
        report.print_json(documents[0] if len(documents) == 1 else {"results": documents})
    return report.DONE


def draw(results: Sequence[TaskResult]) -> None:
    """A table of models on one task; beneath HellaSwag's those that were published for GPT-2."""
    from rich.table import Table

    from gptcli.evals.published import GPT2_COMPLETION

    first = results[0]
    columns = [name for name in first.measured.figures if not name.endswith(_ERROR)]
    table = Table(title=f"{first.task}, {first.style}", title_justify="left", box=None)
    table.add_column("model", overflow="fold")
    for name in ("n", *columns, "time"):
        table.add_column(name, justify="right")
    for result in results:
        figures = [figure(result.measured.figures, name) for name in columns]
        table.add_row(result.model, f"{result.measured.n:,}", *figures, duration(result.seconds), style="bold")
    published = GPT2_COMPLETION if first.task == "hellaswag" else ()
    for row in published:
        known: dict[str, Any] = {"acc": row.acc, "acc_norm": row.acc_norm}
        table.add_row(row.name, "", *(figure(known, name) for name in columns), style="dim")
    out = report.console()
    out.print(table, soft_wrap=False)
    for result in results:
        if result.measured.truncated:
            out.print(f"{result.model}: {result.measured.truncated:,} examples did not fit and were cut from the left.")
    for source in dict.fromkeys(row.source for row in published):
        out.print(f"GPT-2's figures: {source}", style="dim")


def figure(figures: Mapping[str, Any], name: str) -> str:
    """A figure with the digits that matter, and its standard error where there is one."""
    error = figures.get(name + _ERROR)
    return number(figures.get(name)) + ("" if error is None else f" ± {number(error)}")


def number(value: Any) -> str:
    """A number with the digits that matter; nothing for None."""
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 100 else f"{value:,.1f}"
    return "" if value is None else f"{value:,}"


@contextlib.contextmanager
def watching() -> Iterator[Callable[[int, int, str], None]]:
    """Draws how many examples of a task are done: a bar on a terminal, else a plain line every few seconds."""
    out = report.console()
    if not out.is_terminal:
        interval = Interval()

        def line(done: int, total: int, task: str) -> None:
            if interval.due():
                out.print(f"{task}  {done:,} of {total:,}")

        yield line
        return
    with bar(out) as drawn:
        shown = drawn.add_task("", total=None, text="")

        def move(done: int, total: int, task: str) -> None:
            drawn.update(shown, description=task, total=total, completed=done, text=f"{done:,} of {total:,}")

        yield move
