"""A run from its settings to its last checkpoint: set-up or continuation, then the loop."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from gptcli.data.batches import WindowReader
from gptcli.data.locks import FolderLock
from gptcli.distributed.group import Group
from gptcli.distributed.runtime import detect, resolve_device
from gptcli.model.huggingface import read_model
from gptcli.model.locate import checkpoints_of
from gptcli.model.network import GPT
from gptcli.optim.adamw import make_adamw
from gptcli.settings import TrainSettings
from gptcli.training import checkpoint, metrics, numerics, record
from gptcli.training.checkpoint import Progress
from gptcli.training.evaluation import Evaluator, hellaswag_items
from gptcli.training.events import Listener, Note, Started, TrainResult
from gptcli.training.loop import Loop
from gptcli.training.setup import Setup, describe_model, prepare
from gptcli.training.signals import StopSignals
from gptcli.training.step import Batches, Trainee
from gptcli.training.telemetry import PeakMemory


@dataclass(frozen=True)
class Continuation:
    """What the first process found in the run folder: the checkpoint to go on from, where it stood, and notes."""

    folder: Path | None
    progress: Progress | None
    notes: tuple[str, ...]


def train(
    settings: TrainSettings, listener: Listener | None = None, command: Sequence[str] | None = None
) -> TrainResult:
    """Train as `gpt train` does, in this process (as one of the processes of a run where a launcher started it).

    `listener` is told what happens, on the first process only; `command` is noted in `run.json`. SIGINT, SIGTERM and
    SIGUSR1 end the run with a checkpoint. Raises UsageError for settings that can't work or contradict the run that is
    in the folder, UserError for what fails on the way.
    """
    ranks = detect()
    tell: Listener = listener if listener and ranks.is_main else lambda event: None
    setup = prepare(settings, ranks if ranks.launched else None)
    device = resolve_device(settings.device, ranks.local_rank)
    with ExitStack() as stack:
        stop = stack.enter_context(StopSignals())
        group = stack.enter_context(Group(ranks, device))
        run = Path(settings.log_dir)
        found = group.on_main(lambda: _open_run(run, setup, command, stack))
        for note in (*setup.notes, *found.notes):
            tell(Note(note))
        if found.progress and found.folder and _is_finished(found.progress, setup):
            step = found.progress.step
            return TrainResult(run, found.folder, step, setup.steps, _last_val_loss(run), None, already_finished=True)
        return _run(setup, group, found, stop, tell)


def _run(setup: Setup, group: Group, found: Continuation, stop: StopSignals, tell: Listener) -> TrainResult:
    """Build everything that the loop needs, and run it."""
    settings, device, ranks = setup.settings, group.device, group.ranks
    memory = PeakMemory(device)
    choices, notes = numerics.choose(settings, device, ranks)
    if found.progress:
        choices, changes = numerics.keep(choices, found.progress.numerics, settings)
        notes += changes
    for note in notes:
        tell(Note(note))
    choices.apply()
    model = _build_model(setup).to(device).train()
    optimizer = make_adamw(
        model,
        betas=(settings.beta1, settings.beta2),
        weight_decay=settings.weight_decay,
        fused=choices.fused_adamw,
    )
    if found.folder:
        checkpoint.restore(found.folder, model, optimizer)
    wrapped = group.wrap(model)
    if choices.compile:
        wrapped = torch.compile(wrapped, dynamic=False)  # type: ignore[assignment]
    trainee = Trainee(model, wrapped, optimizer, group, choices)
    items, note = group.on_main(lambda: hellaswag_items(setup))
    if note:
        tell(Note(note))
    loop = Loop(
        setup=setup,
        trainee=trainee,
        batches=Batches(
            WindowReader(setup.shards.split("train"), setup.length),
            setup.train_windows,
            setup.windows_per_step,
            settings.n_batches,
            settings.seed,
        ),
        evaluator=Evaluator(setup, trainee, items, lambda: bool(stop)),
        memory=memory,
        stop=stop,
        tell=tell,
        start=found.progress,
    )
    step = found.progress.step if found.progress else 0
    tell(Started(Path(settings.log_dir), step, setup.steps, setup.tokens_per_step, _facts(setup, trainee)))
    return loop.run()


def _build_model(setup: Setup) -> GPT:
    if setup.init_from is None:
        return GPT.create(setup.config, setup.settings.seed)
    model = GPT.create(setup.config, setup.settings.seed)
    model.load_state_dict(read_model(setup.init_from).state_dict())
    return model


def _open_run(run: Path, setup: Setup, command: Sequence[str] | None, stack: ExitStack) -> Continuation:
    """Lock the run folder until `stack` closes, and either find where to go on or start a new run in it."""
    if setup.settings.fresh:
        notes = _move_aside(run)
    else:
        notes = []
    run.mkdir(parents=True, exist_ok=True)
    stack.enter_context(FolderLock(run))
    recorded = record.read(run)
    if recorded:
        notes += record.check_same(run, recorded, setup)
    checkpoint.remove_unfinished(run)
    checkpoints = checkpoints_of(run)
    folder = checkpoints[-1] if checkpoints and recorded else None
    progress = checkpoint.read_progress(folder) if folder else None
    _drop_rows_past(run, progress)
    if not (progress and _is_finished(progress, setup)):
        record.write(run, setup, command)
    return Continuation(folder, progress, tuple(notes))


def _move_aside(run: Path) -> list[str]:
    """Rename an existing run to the first free `<name>.<number>`."""
    if not run.exists() or not any(run.iterdir()):
        return []
    with FolderLock(run):  # a run that is being written is not moved
        pass
    aside = next(path for i in range(1, 10_000) if not (path := run.with_name(f"{run.name}.{i}")).exists())
    run.rename(aside)
    return [f"The run that was in {run} now lies in {aside}."]


def _drop_rows_past(run: Path, progress: Progress | None) -> None:
    """Lines that were logged after the checkpoint will be written again."""
    step = progress.step if progress else -1

    def stays(row: dict[str, object]) -> bool:
        at = row.get("step")
        if not isinstance(at, int) or at > step:
            return False
        if progress and at == step and row.get("kind") in ("val", "hellaswag"):
            return not progress.evaluation_due
        return True

    for name in (metrics.METRICS, metrics.SAMPLES):
        metrics.keep_rows(run / name, stays)


def _is_finished(progress: Progress, setup: Setup) -> bool:
    return progress.step >= setup.steps and not (progress.evaluation_due or progress.sample_due)


def _last_val_loss(run: Path) -> float | None:
    losses = [row["loss"] for row in metrics.read(run / metrics.METRICS) if row.get("kind") == "val"]
    return losses[-1] if losses else None


def _facts(setup: Setup, trainee: Trainee) -> dict[str, str]:
    """What the run has decided, for people."""
    settings, ranks, choices = setup.settings, trainee.group.ranks, trainee.numerics
    accumulation = setup.accumulation(ranks.world_size)
    steps_per_epoch = setup.train_windows / setup.windows_per_step
    processes = f"{ranks.world_size} process{'es' if ranks.world_size > 1 else ''}"
    return {
        "Run": settings.log_dir,
        "Device": f"{choices.hardware}, {choices.precision}{', compiled' if choices.compile else ''}",
        "Model": describe_model(setup.config, trainee.model.n_parameters()),
        "Data": f"{setup.shards.folder}: {len(setup.shards.split('train')):,} tokens to train on, "
        f"{len(setup.shards.split('val')):,} to validate",
        "Batch": f"{settings.n_batches} × {setup.length} tokens × {accumulation} accumulated × {processes} "
        f"= {setup.tokens_per_step:,} tokens a step",
        "Length": f"{setup.steps:,} steps, {setup.steps * setup.tokens_per_step:,} tokens, "
        f"{setup.steps / steps_per_epoch:.2f} epochs of {steps_per_epoch:,.1f} steps",
    }
