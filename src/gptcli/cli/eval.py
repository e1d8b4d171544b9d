"""`gpt eval`: the scores of models as a table, HellaSwag's beside the published ones, or as JSON."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
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
    from gptcli.evals.run import TASKS, evaluate, save_rows

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
        sys.stdout.flush()
    if settings.save is not None:
        save_rows(Path(settings.save), results[0])  # last: should it fail, the scores have been shown
    return report.DONE


def draw(results: Sequence[TaskResult]) -> None:
    """A table of models on one task; beneath HellaSwag's those that were published for GPT-2."""
    from gptcli.evals.published import GPT2_COMPLETION

    first = results[0]
    names = [name for name in first.measured.figures if not name.endswith(_ERROR)]
    rows = [("model", ["n", *names, "time"], "")]
    for result in results:
        figures = [figure(result.measured.figures, name) for name in names]
        rows.append((result.model, [f"{result.measured.n:,}", *figures, duration(result.seconds)], "bold"))
    published = GPT2_COMPLETION if first.task == "hellaswag" else ()
    for row in published:
        known: dict[str, Any] = {"acc": row.acc, "acc_norm": row.acc_norm}
        rows.append((row.name, ["", *(figure(known, name) for name in names), ""], "dim"))
    out = report.console()
    out.print(f"{first.task}, {first.style}", style="italic")
    for line, style in aligned(rows, out.width if out.is_terminal else sys.maxsize):
        out.print(line, style=style)
    for result in results:
        if result.measured.truncated:
            cut = "example did not fit and was" if result.measured.truncated == 1 else "examples did not fit and were"
            out.print(f"{result.model}: {result.measured.truncated:,} {cut} cut from the left.")
    for source in dict.fromkeys(row.source for row in published):
        out.print(f"GPT-2's figures: {source}", style="dim")


def aligned(rows: Sequence[tuple[str, Sequence[str], str]], width: int) -> list[tuple[str, str]]:
    """The lines of a table, each with its style, from rows of a name, cells and a style. A name is never broken: where
    the widest leaves its cells no room on the line, each stands above its cells."""
    cell_widths = [max(map(len, column)) for column in zip(*(cells for _, cells, _ in rows), strict=True)]
    name_width = max(len(name) for name, _, _ in rows)
    above = name_width + sum(2 + cell_width for cell_width in cell_widths) > width
    lines = []
    for name, cells, style in rows:
        figures = "".join(f"  {cell:>{cell_width}}" for cell, cell_width in zip(cells, cell_widths, strict=True))
        lines += [(name, style), (figures, style)] if above else [(f"{name:<{name_width}}{figures}", style)]
    return [(line.rstrip(), style) for line, style in lines]


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
