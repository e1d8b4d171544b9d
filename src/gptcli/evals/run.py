"""`evaluate`: every task on every model. A new task is one file with a `Task`, and one entry in `TASKS`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from gptcli.data.durable import check_writable, write_bytes
from gptcli.distributed.runtime import resolve_device
from gptcli.errors import Errors, Fault, UserError, nearest, raise_if
from gptcli.evals.hellaswag import HELLASWAG
from gptcli.evals.loss import LOSS
from gptcli.evals.task import Scorer, Task, TaskResult
from gptcli.inference.language_model import LanguageModel
from gptcli.inference.load import ModelFacts, load, read_facts
from gptcli.model.locate import locate_model
from gptcli.settings import EvalSettings

TASKS: dict[str, Task] = {task.name: task for task in (HELLASWAG, LOSS)}

Progress = Callable[[int, int, str], None]


def evaluate(settings: EvalSettings, progress: Progress | None = None) -> list[TaskResult]:
    """Score every model of `settings` (default: the newest under ./log) on every task, one model after the other, all
    in fp32. `progress` is told (examples done, examples in all, task).

    Everything that is wrong with the call is raised at once, before anything is computed: UsageError, or UserError
    where only data is at fault. That includes a file `settings.save` that can't be written; `save_rows` writes it,
    once the scores have been shown.
    """
    scorers, models = _prepared(settings)
    results = []
    for name, facts in models:
        model = load(facts.folder, device=settings.device)
        shown = str(facts.folder) if name is None or Path(name).exists() else name
        results += [_score(task, scorer, model, facts.notes, shown, progress) for task, scorer in scorers]
    return results


def _prepared(settings: EvalSettings) -> tuple[list[tuple[Task, Scorer]], list[tuple[str | None, ModelFacts]]]:
    """The tasks with their data, and the models by name without their weights; raises all that is wrong with either."""
    tasks = _tasks(settings)
    errors = Errors()
    scorers: list[tuple[Task, Scorer]] = []
    models: list[tuple[str | None, ModelFacts]] = []
    with errors.collected():
        _check_save(settings, tasks)
    with errors.collected():
        resolve_device(settings.device)
    for name in settings.model or (None,):
        with errors.collected():
            notes: list[str] = []
            facts = read_facts(locate_model(name, notes))
            models.append((name, replace(facts, notes=[*notes, *facts.notes])))
    for task in tasks:
        with errors.collected():
            scorers.append((task, task.prepare(settings)))
    for _, facts in models:
        for _, scorer in scorers:
            with errors.collected():
                scorer.check(facts)
    errors.raise_all()
    return scorers, models


def _score(
    task: Task, scorer: Scorer, model: LanguageModel, notes: list[str], shown: str, progress: Progress | None
) -> TaskResult:
    def tell(done: int, total: int) -> None:
        if progress:
            progress(done, total, task.name)

    began = time.perf_counter()
    measured = scorer.score(model, tell)
    seconds = time.perf_counter() - began
    return TaskResult(task.name, task.style, shown, model.folder, measured, seconds, [*notes, *measured.notes])


def _tasks(settings: EvalSettings) -> list[Task]:
    faults = []
    for name in settings.tasks:
        if name not in TASKS:
            close = nearest(name, TASKS)
            hint = f"Did you mean '{close}'?" if close else f"There are: {', '.join(TASKS)}."
            faults.append(Fault(f"There is no task called '{name}'.", hint))
    if not settings.tasks:
        faults.append(Fault("No task is named.", f"There are: {', '.join(TASKS)}. For example: gpt eval hellaswag"))
    raise_if(faults)
    return [TASKS[name] for name in dict.fromkeys(settings.tasks)]


def _check_save(settings: EvalSettings, tasks: list[Task]) -> None:
    if settings.save is None:
        return
    file = Path(settings.save)
    faults = []
    if len(tasks) * max(1, len(settings.model)) > 1:
        faults.append(Fault("--save takes the rows of one task and one model.", "Call gpt eval once for each."))
    faults += [Fault(f"The task {task.name} has no rows to --save.") for task in tasks if not task.saves_rows]
    try:
        if file.is_dir():
            faults.append(Fault(f"--save {file}: it is a folder.", "Name a file in it."))
        elif not file.parent.is_dir():
            faults.append(Fault(f"--save {file}: there is no folder {file.parent}.", "Make it first."))
        else:
            check_writable(file)
    except OSError as error:
        faults.append(Fault(f"--save {file}: it can't be written: {error.strerror or error}.", "Name another."))
    raise_if(faults)


def save_rows(file: Path, result: TaskResult) -> None:
    """Write the result's rows, a line of JSON each. Raises UserError where that fails."""
    lines = [json.dumps(dict(row)) for row in result.measured.rows]
    try:
        write_bytes(file, ("\n".join(lines) + "\n").encode())
    except OSError as error:
        raise UserError(
            f"{file} could not be written: {error.strerror or error}.", "Name another with --save."
        ) from error
