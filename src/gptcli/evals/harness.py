"""The tasks of EleutherAI's lm-evaluation-harness, run on our models as they are: nothing is exported.

The package lm_eval is an extra, so it is imported only once a task of it is asked for.
"""

from __future__ import annotations

import difflib
import importlib.util
import logging
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptcli.distributed.runtime import resolve_device
from gptcli.errors import Errors, Fault, UsageError, UserError, raise_if
from gptcli.evals.harness_surroundings import SEED, offline, quiet, seeded
from gptcli.evals.task import Begins, Figure, Measured, TaskResult
from gptcli.inference.load import ModelFacts, load, read_facts
from gptcli.model.locate import locate_model
from gptcli.settings import EvalSettings

if TYPE_CHECKING:
    from gptcli.evals.harness_model import HarnessModel

Progress = Callable[[int, int, str], None]

STYLE = "lm-evaluation-harness"
_RESAMPLES = 1000  # for standard errors that have no formula: enough for two digits, a hundredth of the harness's own
_NOTES_SHOWN = 5


@dataclass(frozen=True)
class _Loaded:
    """The harness's task objects, with their data, and the groups that they are in."""

    tasks: dict[str, Any]
    groups: dict[str, Any]

    def leaves(self, name: str) -> list[str]:
        """The tasks that the figures of `name` come from."""
        return [task.task_name for task in self.groups[name].get_all_tasks()] if name in self.groups else [name]


def run_harness(
    settings: EvalSettings, progress: Progress | None = None, begins: Begins | None = None
) -> list[TaskResult]:
    """Every model of `settings` on the harness's tasks `settings.harness` (names of tasks, groups or tags, or patterns
    like mmlu_*), one model after the other, in fp32 and in this process. `progress` is told (requests done, requests in
    all, task), `begins` (facts, name shown) of each model before it is scored.

    A model's results come in the order groups, tasks; a group has one of its own where the harness makes figures for
    it. The figures are called as the harness calls them, those of a filter other than "none" `metric (filter)`, and
    standard errors end with `_stderr`. The seconds are those that the model took.

    Raises, with all that is wrong with the call and before anything is computed, UsageError where lm_eval is not
    installed, there is no such task or model; UserError where a model can't be read or has no tokenizer for all text,
    and where a task's data can't be had.
    """
    _check_installed()
    notes: list[str] = []
    with quiet(notes), offline(settings.offline):
        models, loaded = _prepared(settings)
        results = []
        for name, facts in models:
            shown = str(facts.folder) if name is None or Path(name).exists() else name
            if begins:
                begins(facts, shown)
            results += _evaluate(settings, facts, shown, loaded, progress)
    return [replace(result, notes=[*result.notes, *_first(notes)]) for result in results]


def _check_installed() -> None:
    if importlib.util.find_spec("lm_eval") is None:
        raise UsageError("--harness needs lm-evaluation-harness.", "pip install 'gpt-from-scratch[lm-eval]'")


def _prepared(settings: EvalSettings) -> tuple[list[tuple[str | None, ModelFacts]], _Loaded]:
    """The models by name without their weights, and the tasks with their data; raises all that is wrong with either."""
    errors = Errors()
    models: list[tuple[str | None, ModelFacts]] = []
    loaded = _Loaded({}, {})
    with errors.collected():
        resolve_device(settings.device)
    with errors.collected():
        if settings.gpus > 1:
            raise UsageError("--gpus: tasks of lm-evaluation-harness run in one process.", "Leave --gpus away.")
    for name in settings.model or (None,):
        with errors.collected():
            notes: list[str] = []
            facts = read_facts(locate_model(name, notes))
            _check_model(facts)
            models.append((name, replace(facts, notes=[*notes, *facts.notes])))
    manager, names = None, list[str]()
    with errors.collected():
        manager, names = _named(settings.harness, settings.include_path)
    for name in names:
        with errors.collected():
            _load(manager, name, loaded, settings.offline)
    _configure(loaded.tasks, settings.num_fewshot)
    for _, facts in models:
        with errors.collected():
            _check_lengths(loaded.tasks, facts)
    errors.raise_all()
    return models, loaded


def _check_model(facts: ModelFacts) -> None:
    if facts.tokenizer is None:
        raise UserError(
            f"The harness's tasks are text, and the model in {facts.folder} has no tokenizer that gpt knows."
        )
    if not facts.tokenizer.covers_all_text:
        raise UserError(
            f"The harness's tasks may have characters that the tokenizer '{facts.tokenizer.name}' does not know, which "
            f"{facts.folder} was trained with.",
            "Measure the model on its own text: gpt eval loss --data-root FOLDER",
        )


def _named(asked: Sequence[str], include_path: str | None) -> tuple[Any, list[str]]:
    """The harness's task manager, and the names that are asked for. Raises UsageError for those that nothing has."""
    from lm_eval.tasks import TaskManager

    if include_path is not None and not Path(include_path).is_dir():
        raise UsageError(f"--include-path {include_path}: there is no such folder.")
    if include_path is not None:
        # The harness reads thousands of files to know its own tasks, which takes several seconds.
        own = TaskManager(include_path=include_path, include_defaults=False)
        if set(asked) <= set(own.all_subtasks):
            return own, list(dict.fromkeys(asked))
    manager = TaskManager(include_path=include_path)
    names: list[str] = []
    faults = []
    for name in asked:
        found = [name] if name in manager.all_tasks else manager.match_tasks([name])
        names += found
        if not found:
            close = difflib.get_close_matches(name, manager.all_tasks, n=3)
            hint = f"The nearest are: {', '.join(close)}." if close else "Those of your own need --include-path FOLDER."
            faults.append(Fault(f"lm-evaluation-harness has no task called '{name}'.", hint))
    raise_if(faults)
    return manager, list(dict.fromkeys(names))


def _load(manager: Any, name: str, loaded: _Loaded, is_offline: bool) -> None:
    """Add what `name` stands for. Loading reads data from anywhere and runs the task's own code, so that it may fail in
    any way: UserError."""
    try:
        with seeded():
            found = manager.load([name])
    except Exception as error:
        hint = ""
        if isinstance(error, OSError):
            hint = "Its data has to be fetched once" + (
                ": leave --offline away." if is_offline else ", from the network."
            )
        elif isinstance(error, ImportError):
            hint = "Install with pip what it needs."
        raise UserError(f"The harness's task {name} can't be loaded ({_reason(error)}).", hint) from error
    faults = []
    for task in found["tasks"].values():
        if getattr(task, "UNSAFE_CODE", False):
            faults.append(Fault(f"The harness's task {task.task_name} runs code that the model wrote: gpt does not."))
        if getattr(task, "MULTIMODAL", False):
            faults.append(Fault(f"The harness's task {task.task_name} has pictures or sound, the model reads text."))
    if faults:
        raise UserError(faults=faults)
    loaded.tasks.update(found["tasks"])
    loaded.groups.update(found.get("groups", {}))


def _configure(tasks: Mapping[str, Any], num_fewshot: int | None) -> None:
    """Examples before each question as the harness's own command line sets them: a task that says 0 keeps it."""
    log = logging.getLogger("lm_eval")
    for name, task in tasks.items():
        own = task.get_config("num_fewshot")
        if own is None or (num_fewshot is not None and own != 0):
            task.set_config(key="num_fewshot", value=num_fewshot or 0)
        elif num_fewshot:
            log.warning(
                "%s has no examples before its questions by its own configuration, whatever is asked for.", name
            )


def _check_lengths(tasks: Mapping[str, Any], facts: ModelFacts) -> None:
    from gptcli.evals.harness_model import GenerationOptions

    errors = Errors()
    for name, task in tasks.items():
        if task.OUTPUT_TYPE == "generate_until":
            with errors.collected():
                options = GenerationOptions.read(task.get_config("generation_kwargs") or {})
                options.check(name, facts.config.context_length)
    errors.raise_all()


def _evaluate(
    settings: EvalSettings, facts: ModelFacts, shown: str, loaded: _Loaded, progress: Progress | None
) -> list[TaskResult]:
    """One model's results."""
    from lm_eval import evaluate

    from gptcli.evals.harness_model import HarnessModel

    model = HarnessModel(load(facts.folder, settings.weights, settings.device), settings.batch_tokens, progress)
    for task in loaded.tasks.values():
        task.set_fewshot_seed(seed=SEED)  # for each model anew: all are asked the same
    try:
        with seeded():
            told = evaluate(
                lm=model,
                task_dict={"tasks": loaded.tasks, "groups": loaded.groups},
                limit=settings.limit,
                bootstrap_iters=_RESAMPLES,
            )
    except (OSError, ImportError, LookupError, ValueError) as error:  # of a task's own code: a package or file it wants
        raise UserError(f"The harness could not evaluate {', '.join(settings.harness)} ({_reason(error)}).") from error
    names = [*loaded.groups, *loaded.tasks]
    return [
        TaskResult(
            task=name,
            style=STYLE,
            model=shown,
            folder=facts.folder,
            tokenizer=facts.tokenizer.name if facts.tokenizer else None,
            measured=measured,
            seconds=math.fsum(model.seconds.get(leaf, 0.0) for leaf in loaded.leaves(name)),
            notes=[*facts.notes, *model.notes],
        )
        for name in names
        if (measured := _measured(told["results"][name], model, loaded.leaves(name))).figures
    ]


def _measured(told: Mapping[str, Any], model: HarnessModel, leaves: Sequence[str]) -> Measured:
    figures = {_figure_name(key): _figure(value) for key, value in told.items() if "," in key}
    cut = sum(len(model.cut.get(leaf, ())) for leaf in leaves)
    return Measured(n=int(told.get("sample_len", 0)), truncated=cut, figures=figures)


def _figure_name(key: str) -> str:
    """What the harness calls `metric,filter` or `metric_stderr,filter`; a standard error is named after its figure."""
    metric, _, kind = key.rpartition(",")
    if kind == "none":
        return metric
    name = metric.removesuffix("_stderr")
    return f"{name} ({kind})" + ("_stderr" if name != metric else "")


def _figure(value: object) -> Figure:
    """None for what is not known ("N/A") or no number that JSON has."""
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) and math.isfinite(value) else None


def _reason(error: Exception) -> str:
    """In one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    if isinstance(error, LookupError) or not lines:
        text = f"{type(error).__name__}: {text}"
    return text[:300].rstrip(". ")


def _first(notes: Sequence[str]) -> list[str]:
    """The harness's own warnings, which may be hundreds."""
    distinct = list(dict.fromkeys(notes))
    more = len(distinct) - _NOTES_SHOWN
    return distinct[:_NOTES_SHOWN] + ([f"lm-evaluation-harness has {more:,} more warnings."] if more > 0 else [])
