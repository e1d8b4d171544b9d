"""`evaluate`: every task on every model. A new task is a few lines of data and one entry in `TASKS`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from gptcli.data.durable import check_writable, write_bytes
from gptcli.distributed.group import Group
from gptcli.distributed.launch import check_processes
from gptcli.distributed.meeting import meet
from gptcli.distributed.orphans import ending_with
from gptcli.distributed.runtime import Ranks, detect, launcher, resolve_device
from gptcli.errors import Errors, Fault, UserError, nearest, raise_if
from gptcli.evals.common_tasks import ARC_EASY, LAMBADA, PIQA
from gptcli.evals.hellaswag import HELLASWAG
from gptcli.evals.loss import LOSS
from gptcli.evals.task import Begins, Scorer, Task, TaskResult
from gptcli.evals.weights import is_decision, on_own_split, weigh
from gptcli.inference.language_model import LanguageModel
from gptcli.inference.load import ModelFacts, load, read_facts
from gptcli.model.locate import locate_model
from gptcli.settings import EvalSettings

TASKS: dict[str, Task] = {
    task.name: task for task in (HELLASWAG.task(), PIQA.task(), ARC_EASY.task(), LAMBADA.task(), LOSS)
}

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class _Chosen:
    """A task in one of its styles, with its data."""

    task: Task
    style: str
    scorer: Scorer


def evaluate(
    settings: EvalSettings, progress: Progress | None = None, begins: Begins | None = None
) -> list[TaskResult]:
    """Score every model of `settings` (default: the newest under ./log) on every task, one model after the other,
    their weights held as `settings` say; in this process, or with the others of a launcher that started it. `progress`
    is told (examples done, examples in all, task), `begins` (facts, name shown) of each model before it is scored.

    Everything that is wrong with the call is raised at once, before anything is computed: UsageError, or UserError
    where only data is at fault. That includes a file `settings.save` that can't be written; `save_rows` writes it,
    once the scores have been shown.
    """
    ranks = detect()
    with ExitStack() as stack:
        if ranks.launched:
            stack.enter_context(ending_with(launcher()))
        find_device = partial(resolve_device, settings.device, ranks.local_rank)
        if ranks.world_size == 1:
            chosen, models = _prepared(settings, ranks)
            group = Group(ranks, find_device())
        else:
            device, store = meet(ranks, find_device)
            group = stack.enter_context(Group(ranks, device, store))
            group.on_main(lambda: _check(settings, ranks))  # and fetch what is missing, so that the others find it
            chosen, models = _prepared(settings, ranks)
        results = []
        for name, facts in models:
            shown = str(facts.folder) if name is None or Path(name).exists() else name
            if begins:
                begins(facts, shown)
            if is_decision(settings):
                score = partial(_score, chosen[0], shown=shown, group=group, progress=progress)
                results += weigh(facts, group.device, settings, score)
                continue
            model = load(facts.folder, settings.weights, str(group.device))
            model.notes = facts.notes
            results += [_score(each, model, shown, group, progress) for each in chosen]
    return results


def preflight(settings: EvalSettings) -> None:
    """Check a call before its processes are started. Raises what `evaluate` raises before it computes."""
    _check(settings, Ranks(world_size=settings.gpus))


def _check(settings: EvalSettings, ranks: Ranks) -> None:
    _prepared(settings, ranks)


def _prepared(settings: EvalSettings, ranks: Ranks) -> tuple[list[_Chosen], list[tuple[str | None, ModelFacts]]]:
    """The tasks with their data, and the models by name without their weights; raises all that is wrong with either."""
    tasks = _tasks(settings)
    errors = Errors()
    chosen: list[_Chosen] = []
    models: list[tuple[str | None, ModelFacts]] = []
    with errors.collected():
        _check_save(settings, tasks)
    with errors.collected():
        resolve_device(settings.device)
        if not ranks.launched:
            check_processes(settings.gpus, settings.device)
    for name in settings.model or (None,):
        with errors.collected():
            notes: list[str] = []
            facts = read_facts(locate_model(name, notes))
            models.append((name, replace(facts, notes=[*notes, *facts.notes])))
    if models and is_decision(settings):
        with errors.collected():
            settings = on_own_split(settings, [facts for _, facts in models])
    for task, style in tasks:
        with errors.collected():
            chosen.append(_Chosen(task, style, task.prepare(settings, style)))
    for _, facts in models:
        for each in chosen:
            with errors.collected():
                each.scorer.check(facts)
    errors.raise_all()
    return chosen, models


def _score(chosen: _Chosen, model: LanguageModel, shown: str, group: Group, progress: Progress | None) -> TaskResult:
    task, scorer = chosen.task, chosen.scorer

    def tell(done: int, total: int) -> None:
        if progress and group.ranks.is_main:
            progress(done, total, task.name)

    began = time.perf_counter()
    measured = scorer.score(model, group, tell)
    seconds = time.perf_counter() - began
    return TaskResult(
        task=task.name,
        style=chosen.style,
        model=shown,
        folder=model.folder,
        tokenizer=model.tokenizer.name if model.tokenizer else None,
        measured=measured,
        seconds=seconds,
        notes=[*model.notes, *measured.notes],
        is_published=scorer.is_published,
        weights=model.weights,
    )


def _tasks(settings: EvalSettings) -> list[tuple[Task, str]]:
    """The tasks that are named, each in the styles that are asked for."""
    faults, found = [], []
    for name in dict.fromkeys(settings.tasks):
        if name not in TASKS:
            close = nearest(name, TASKS)
            hint = f"Did you mean '{close}'? " if close else ""
            listed = f"There are: {', '.join(TASKS)}; and those of lm-evaluation-harness with --harness {name}."
            faults.append(Fault(f"There is no task called '{name}'.", hint or listed))
            continue
        task = TASKS[name]
        styles = _styles(task, settings.style)
        if not styles:
            faults.append(
                Fault(f"--style {settings.style}: the task {name} has no such style.", f"It has {task.styles[0]}.")
            )
        found += [(task, style) for style in styles]
    if not settings.tasks:
        faults.append(Fault("No task is named.", f"There are: {', '.join(TASKS)}. For example: gpt eval hellaswag"))
    raise_if(faults)
    return found


def _styles(task: Task, asked: str | None) -> tuple[str, ...]:
    """The default one; both where both are asked for; none where there is no such style."""
    if asked is None:
        return task.styles[:1]
    if asked == "both":
        return task.styles if len(task.styles) > 1 else ()
    return (asked,) if asked in task.styles else ()


def _check_save(settings: EvalSettings, tasks: list[tuple[Task, str]]) -> None:
    if settings.save is None:
        return
    file = Path(settings.save)
    faults = []
    if len(tasks) * max(1, len(settings.model)) > 1:
        faults.append(Fault("--save takes the rows of one task and one model.", "Call gpt eval once for each."))
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
