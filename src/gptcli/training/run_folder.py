"""The folder of a run as a call finds it: where to go on, or made ready for a new run."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from gptcli.data.locks import FolderLock
from gptcli.errors import UsageError, UserError
from gptcli.model.locate import CHECKPOINTS, checkpoints_of
from gptcli.training import checkpoint, metrics, record
from gptcli.training.checkpoint import Progress
from gptcli.training.run_file import PLOTS, PROFILES, RUN, TRACKING, read
from gptcli.training.setup import Setup

# What a run writes into its folder, in the order in which it is moved: without its checkpoints it is none any more.
# Trackers come before them, since one that is still at its end may not let its files be moved.
_OWN = (TRACKING, CHECKPOINTS, metrics.METRICS, metrics.SAMPLES, PLOTS, PROFILES, RUN)


@dataclass(frozen=True)
class Continuation:
    """What the first process found in the run folder: the checkpoint to go on from, where it stood, with how many steps
    and what warm-up it had been set up, notes, and where it moved an earlier run."""

    folder: Path | None
    progress: Progress | None
    steps: int | None
    warmup: int | None
    notes: tuple[str, ...]
    moved_to: Path | None = None


def open_run(run: Path, setup: Setup, stack: ExitStack) -> Continuation:
    """Lock the run folder until `stack` closes, and find where to go on, or make it ready for a new run."""
    stack.enter_context(FolderLock(run))
    moved_to = _move_aside(run) if setup.settings.fresh else None
    checkpoint.remove_unfinished(run)
    recorded, (newest, passed_over) = read(run), checkpoint.newest_valid(run)
    if newest is None:
        _drop_rows_past(run, None)
        moved = (f"The run that was in {run} now lies in {moved_to}.",) if moved_to else ()
        return Continuation(None, None, None, None, moved, moved_to)
    if recorded is None:
        raise UsageError(
            f"{run} holds checkpoints but no {RUN}, so what they were trained with is not known.",
            "Choose another --log-dir, start from one of them with --init-from, or move them aside with --fresh.",
        )
    changes = record.check_same(run, recorded, replace(setup, steps=setup.steps or recorded["steps"]))
    progress = checkpoint.read_progress(newest)
    _drop_rows_past(run, progress)
    if setup.settings.fit_time and recorded["settings"].get("fit_time") != setup.settings.fit_time:
        changes.append(f"The run has {recorded['steps']} steps, which --fit-time does not change any more.")
    notes = (*passed_over, *changes)
    return Continuation(newest, progress, recorded["steps"], recorded["warmup"], notes)


def _move_aside(run: Path) -> Path | None:
    """Move an existing run into the first free `<name>.<number>` beside its folder, whose lock must be held; returns
    where it lies. What else is in the folder is not the run's and stays: data, other runs, somebody's work."""
    own = [path for name in _OWN if (path := run / name).exists()]
    if not ((run / RUN).exists() or checkpoints_of(run)):
        return None
    whole = run.resolve()  # beside the folder itself, where a link leads to it
    aside = next(path for i in range(1, 10_000) if not (path := whole.with_name(f"{whole.name}.{i}")).exists())
    try:
        aside.mkdir()
        for path in own:
            path.rename(aside / path.name)
    except OSError as error:
        raise UserError(
            f"The run in {run} could not be moved to {aside}: {error.strerror or error}.", "Choose another --log-dir."
        ) from error
    return aside


def _drop_rows_past(run: Path, progress: Progress | None) -> None:
    """Lines that were logged after the checkpoint will be written again, and so will be those that it still owes."""
    last = progress.step if progress else -1
    owed = {"val", "hellaswag"} if progress and progress.evaluation_due else set()

    def stays(row: dict[str, object]) -> bool:
        step = row.get("step")
        return isinstance(step, int) and (step < last or (step == last and row.get("kind") not in owed))

    metrics.keep_rows(run / metrics.METRICS, stays)
    samples_to = last - 1 if progress and progress.sample_due else last
    metrics.keep_rows(run / metrics.SAMPLES, lambda row: isinstance(row.get("step"), int) and row["step"] <= samples_to)


def last_val_loss(run: Path) -> float | None:
    """The newest validation loss in the metrics."""
    losses = [row["loss"] for row in metrics.read(run / metrics.METRICS) if row.get("kind") == "val"]
    return losses[-1] if losses else None
