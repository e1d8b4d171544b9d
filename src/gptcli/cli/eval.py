"""`gpt eval`: the scores of models as a table, HellaSwag's beside the published ones, or as JSON."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptcli.cli import report
from gptcli.cli.options import Call
from gptcli.cli.origin_line import origin_line
from gptcli.cli.progress import Interval, bar, duration
from gptcli.errors import Fault, raise_if
from gptcli.settings import EvalSettings, data_folder

if TYPE_CHECKING:
    from rich.console import Console

    from gptcli.evals.comparison import Comparison
    from gptcli.evals.published import PublishedScore
    from gptcli.evals.task import TaskResult
    from gptcli.inference.load import ModelFacts

EXAMPLES = """\
gpt eval hellaswag
gpt eval hellaswag,piqa --model log --model openai-community/gpt2
gpt eval loss --text book.txt
gpt eval --harness mmlu"""

_ERROR = "_stderr"  # acc_stderr is the standard error of acc, and stands beside it
_UNLIKELY = 0.05  # by chance: McNemar's test


def run(settings: EvalSettings, call: Call) -> int:
    """Score, and draw the results or print them as JSON. Returns the exit code."""
    from gptcli.evals.run import TASKS

    if settings.list:
        tasks = {name: task.description for name, task in TASKS.items()}
        if call.json:
            report.print_json(tasks)
        else:
            sys.stdout.write("".join(f"{name:<12}{description}\n" for name, description in tasks.items()))
        return report.DONE
    if settings.harness:
        raise_if(_harness_faults(settings))
    if settings.harness or settings.gpus == 1:
        return _evaluate(settings, call)
    from gptcli.distributed.runtime import detect

    return _evaluate(settings, call) if detect().launched else _launch(settings, call)


def _harness_faults(settings: EvalSettings) -> list[Fault]:
    """What does not go together with tasks of the harness, which are another program's."""
    faults = []
    if settings.tasks:
        faults.append(Fault("--harness runs tasks of lm-evaluation-harness.", "Call gpt eval once more for ours."))
    for name in ("style", "data", "save", "data_root", "text", "stride", "per_document"):
        if name in settings.model_fields_set and getattr(settings, name):
            faults.append(Fault(f"--{name.replace('_', '-')} is nothing to tasks of --harness.", "Leave it out."))
    return faults


def _launch(settings: EvalSettings, call: Call) -> int:
    from gptcli.distributed.launch import OnThisMachine, launch
    from gptcli.evals.run import preflight

    preflight(settings)
    return launch(list(call.words), OnThisMachine(settings.gpus))


def _evaluate(settings: EvalSettings, call: Call) -> int:
    from gptcli.distributed.runtime import detect
    from gptcli.evals.comparison import compare
    from gptcli.evals.harness import run_harness
    from gptcli.evals.run import evaluate, save_rows

    if not detect().is_main:
        evaluate(settings)
        return report.DONE
    if settings.data_root is not None:
        report.say(f"Data: {data_folder(settings.data_root)}")
    out = report.console()

    def begins(facts: ModelFacts, shown: str) -> None:
        out.print(origin_line(facts.folder, facts.tokenizer, shown), style="dim")

    with watching(out) as progress:
        score = run_harness if settings.harness else evaluate
        results = score(settings, progress, begins)
    comparisons = compare(results)
    for note in dict.fromkeys(note for result in results for note in result.notes):
        report.say(f"note: {note}", "yellow")
    for task, style in dict.fromkeys((result.task, result.style) for result in results):
        draw([result for result in results if (result.task, result.style) == (task, style)])
        for comparison in comparisons:
            if (comparison.task, comparison.style) == (task, style):
                report.say(compared(comparison))
    if call.json:
        documents = [result.as_dict() for result in results]
        together = {"results": documents, "comparisons": [comparison.as_dict() for comparison in comparisons]}
        if not comparisons:
            del together["comparisons"]
        report.print_json(documents[0] if len(documents) == 1 else together)
        sys.stdout.flush()
    if settings.save is not None:
        save_rows(Path(settings.save), results[0])  # last: should it fail, the scores have been shown
    return report.DONE


def draw(results: Sequence[TaskResult]) -> None:
    """A table of models on one task; beneath it what was published for GPT-2 in the same style, and how each model
    stands to that."""
    from gptcli.evals.published import PUBLISHED

    first = results[0]
    names = [name for name in first.measured.figures if not name.endswith(_ERROR)]
    rows = [("model", ["n", *names, "time", "a second", "tokenizer"], "")]
    for result in results:
        figures = [figure(result.measured.figures, name) for name in names]
        speed = f"{result.measured.n / result.seconds:,.1f}" if result.seconds else ""
        rows.append(
            (
                named(result),
                [f"{result.measured.n:,}", *figures, duration(result.seconds), speed, result.tokenizer or "none"],
                "bold",
            )
        )
    published = PUBLISHED.get((first.task, first.style), ()) if first.is_published else ()
    for row in published:
        known: dict[str, Any] = {"acc": row.acc, "acc_norm": row.acc_norm}
        rows.append((row.name, ["", *(figure(known, name) for name in names), "", "", ""], "dim"))
    out = report.console()
    out.print(f"{first.task}, {first.style}", style="italic")
    for line, style in aligned(rows, out.width if out.is_terminal else sys.maxsize):
        out.print(line, style=style)
    for result in results:
        for line in standing_of(result, published):
            out.print(line)
        if result.measured.truncated:
            cut = "example did not fit and was" if result.measured.truncated == 1 else "examples did not fit and were"
            out.print(f"{named(result)}: {result.measured.truncated:,} {cut} cut from the left.")
    for source in dict.fromkeys(row.source for row in published):
        out.print(f"GPT-2's figures: {source}", style="dim")


def named(result: TaskResult) -> str:
    """The model of a result, and how its weights were held where that is not as they are stored."""
    return result.model if result.weights == "fp32" else f"{result.model} ({result.weights})"


def standing_of(result: TaskResult, published: Sequence[PublishedScore]) -> Iterator[str]:
    """Between which values each accuracy lies, and for the last of them where that is beside what was published."""
    from gptcli.evals.published import standing

    intervals = result.measured.intervals
    for name, (low, high) in intervals.items():
        line = f"{named(result)}: {name} is {low:.4f} to {high:.4f} with 95% confidence"
        if name == "acc_norm" and published:
            line += ": " + ", ".join(f"{standing((low, high), row.acc_norm)} {row.name}" for row in published)
        yield f"{line}."


def compared(comparison: Comparison) -> str:
    """Two models on the same questions, in a line."""
    told = "may be chance" if comparison.p >= _UNLIKELY else "is hardly chance"
    return (
        f"{comparison.figure}: {comparison.only_first:,} of {comparison.n:,} are right only with {comparison.first}, "
        f"{comparison.only_second:,} only with {comparison.second}; that {told} (McNemar, p = {comparison.p:.2g})."
    )


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
def watching(out: Console) -> Iterator[Callable[[int, int, str], None]]:
    """Draws how many examples of a task are done: a bar on a terminal, else a plain line every few seconds."""
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
