"""A run from its settings to its last checkpoint: set-up or continuation, then the loop."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path

import torch

from gptcli import __version__
from gptcli.data.batches import WindowReader
from gptcli.distributed import machine_memory
from gptcli.distributed.group import Group
from gptcli.distributed.meeting import meet
from gptcli.distributed.orphans import ending_with
from gptcli.distributed.runtime import detect, keep_compiled, keep_freed_memory, launcher, resolve_device
from gptcli.errors import ToldElsewhereError, UsageError, UserError
from gptcli.model.config import stacked
from gptcli.model.huggingface import read_model
from gptcli.model.network import GPT
from gptcli.optim.optimizers import Optimizers, Rates, make_adamw, make_muon
from gptcli.settings import TrainSettings
from gptcli.training import checkpoint, compiling, fitting, hardware, micro_batch, numerics, record
from gptcli.training.batches import Batches
from gptcli.training.checkpoint import Progress
from gptcli.training.evaluation import Evaluator, hellaswag_items
from gptcli.training.events import Listener, Note, Started, TrainResult
from gptcli.training.feed import Feed
from gptcli.training.logbook import Logbook
from gptcli.training.loop import Loop
from gptcli.training.profiling import Profile
from gptcli.training.provenance import origin_of
from gptcli.training.retention import Retention, check_room
from gptcli.training.run_folder import Continuation, last_val_loss, open_run
from gptcli.training.saver import Saver
from gptcli.training.setup import Setup, describe, prepare, with_steps
from gptcli.training.signals import StopSignals
from gptcli.training.step import Trainee
from gptcli.training.telemetry import PeakMemory
from gptcli.training.tracking.listener import Tracking


def train(
    settings: TrainSettings, listener: Listener | None = None, command: Sequence[str] | None = None
) -> TrainResult:
    """Train as `gpt train` does, in this process (as one of the processes of a run where a launcher started it).

    `listener` is told what happens, on the first process only; `command` is noted in `run.json`. SIGINT, SIGTERM,
    SIGUSR1 and --max-time end the run with a checkpoint. Raises UsageError for settings that can't work or contradict
    the run that is in the folder, UserError for what fails on the way.
    """
    began = time.monotonic()
    ranks = detect()
    tell: Listener = listener if listener and ranks.is_main else lambda event: None
    if settings.dry_run:
        raise UsageError("train() trains; what --dry-run tells comes from gptcli.planning.plan().")
    if (settings.gpus > 1 or settings.nodes > 1) and not ranks.launched:
        raise UsageError(
            f"train() is one process, and {settings.gpus * settings.nodes} were asked for.",
            f"Start them with gpt train --gpus {settings.gpus}, or this program with torchrun.",
        )
    if not ranks.launched:
        prepare(settings)  # tells all that is wrong at once, the device among it
    keep_freed_memory()
    keep_compiled()
    with ExitStack() as stack:
        stop = stack.enter_context(StopSignals(began + settings.max_time if settings.max_time else None))
        # Before the processes are grouped, so that none of the others waits for a tracker at the end.
        tell = tracking = stack.enter_context(Tracking(Path(settings.log_dir), tell, lambda: bool(stop)))
        if ranks.launched:
            stack.enter_context(ending_with(launcher()))
        find_device = partial(resolve_device, settings.device, ranks.local_rank)
        device, store = meet(ranks, find_device) if ranks.world_size > 1 else (find_device(), None)
        group = stack.enter_context(Group(ranks, device, store))
        run = Path(settings.log_dir)
        setup = _prepared(settings, group)
        group.compare(_facts_of_rank(setup))
        found = group.on_main(lambda: open_run(run, setup, stack))
        setup = _continued(setup, run, found)
        for note in (*setup.notes, *found.notes):
            tell(Note(note))
        if found.progress and found.folder and _is_finished(found.progress, setup):
            step = found.progress.step
            return TrainResult(run, found.folder, step, setup.steps, last_val_loss(run), None, already_finished=True)
        return _run(setup, group, found, stop, tracking, command, began, stack)


def _prepared(settings: TrainSettings, group: Group) -> Setup:
    """The set-up, or the same end for all processes where any of them can't be set up: the first of these tells why."""
    setup, fault = None, None
    try:
        setup = prepare(settings, group.ranks if group.ranks.launched else None)
    except UserError as error:
        fault = error
    codes = group.gather(fault.exit_code if fault else None)
    failed = [(rank, code) for rank, code in enumerate(codes) if code is not None]
    if failed:
        rank, code = failed[0]
        raise fault if fault and group.ranks.rank == rank else ToldElsewhereError(code)
    assert setup is not None
    return setup


# What may differ from machine to machine.
_LOCAL = {"data_root", "log_dir", "init_from", "hellaswag_data", "node_rank", "gpus", "device", "monitor", "track"}


def _facts_of_rank(setup: Setup) -> dict[str, str]:
    """What all processes of a run must have in common."""
    settings = setup.settings.model_dump(mode="json", exclude=_LOCAL)
    return {
        "gpt": __version__,
        "torch": torch.__version__,
        "data with fingerprint": setup.shards.fingerprint,
        **{f"--{name.replace('_', '-')}": str(value) for name, value in settings.items()},
        **{f"model {name}": str(value) for name, value in asdict(setup.config).items()},
    }


def _continued(setup: Setup, run: Path, found: Continuation) -> Setup:
    """The set-up with what depends on the run that was found: one that goes on keeps its warm-up, even if it grows; the
    weights of one that was moved aside are found where they now are."""
    if found.warmup is not None:
        steps = setup.steps or found.steps or 0
        notes = tuple(note for note in setup.notes if note != setup.warmup_note)
        return replace(setup, steps=steps, warmup=found.warmup, notes=notes)
    if found.moved_to and setup.init_from and run.resolve() in setup.init_from.resolve().parents:
        return replace(setup, init_from=found.moved_to / setup.init_from.resolve().relative_to(run.resolve()))
    return setup


def _run(
    setup: Setup,
    group: Group,
    found: Continuation,
    stop: StopSignals,
    tell: Tracking,
    command: Sequence[str] | None,
    began: float,
    stack: ExitStack,
) -> TrainResult:
    """Build everything that the loop needs, and run it. `began` is when this call did; `stack` closes what it opens."""
    settings, run = setup.settings, Path(setup.settings.log_dir)
    memory = PeakMemory(group.device)
    group.on_main(lambda: _check_room(run, setup))
    room = 0 if setup.micro_batch else _room(group)
    trainee, notes = _trainee(setup, group, found)
    if not setup.micro_batch:
        trainee, setup = micro_batch.settle(trainee, setup, room, micro_batch.Memo(setup, trainee.numerics))
    items, note = group.on_main(lambda: hellaswag_items(setup))
    notes += [note] if note else []
    for note in notes:
        tell(Note(note))
    batches = Batches(
        WindowReader(setup.shards.split("train"), setup.length, setup.config.vocab_size),
        setup.train_windows,
        setup.windows_per_step,
        setup.micro_batch,
        settings.seed,
    )
    feed = stack.enter_context(Feed(batches, group.device, group.ranks.rank, group.ranks.world_size))
    first = torch.zeros(setup.micro_batch, setup.length, dtype=torch.int64, device=group.device)
    trainee, compile_notes = compiling.settle(trainee, first, asked_for=settings.compile == "on")
    for note in compile_notes:
        tell(Note(note))
    evaluator = Evaluator(setup, trainee, items, lambda: bool(stop))
    if setup.steps == 0:
        tell(Note(f"Measuring how many steps end in {settings.fit_time:g} s."))
        fitted = _fitted(setup, trainee, feed, evaluator, stop, began)
        if fitted is None:
            signal = next((number for number in group.gather(stop.received) if number is not None), None)
            return TrainResult(run, None, 0, 0, None, signal, out_of_time=signal is None)
        for note in fitted.notes[len(setup.notes) :]:
            tell(Note(note))
        setup = fitted
        evaluator = replace(evaluator, setup=setup)
    facts = _facts(setup, trainee)
    group.on_main(lambda: record.write(run, setup, trainee, facts, command))
    tell.begin(setup.trackers, found.progress.step if found.progress else None)
    step, seconds = (found.progress.step, found.progress.seconds) if found.progress else (0, 0.0)
    logbook = Logbook(run, setup.tokens_per_step, memory, tell, time.monotonic() - seconds, is_main=group.ranks.is_main)
    gpu, choices = hardware.known(group.device), trainee.numerics
    if gpu and (peak := hardware.peak_of(gpu, choices.precision, choices.matmul_precision)):
        parameters = trainee.model.n_parameters()
        logbook.measure_against(peak * group.ranks.world_size, setup.config, parameters, setup.length)
    for note in (*setup.notes, *found.notes, *notes, *compile_notes):
        logbook.note(step, note, told=True)
    if found.folder:
        logbook.note(step, f"resumed from {found.folder.name}", told=True, topic="resumed")
    tell(Started(run, step, setup.steps, setup.tokens_per_step, facts))
    retention = Retention(settings.keep_last, settings.keep_every, settings.keep_best)
    saver = Saver(run, setup.tokenizer, retention, origin_of(run)) if group.ranks.is_main else None
    profile = None
    if settings.profile and group.ranks.is_main:
        intervals = (settings.eval_every, settings.sample_every)
        profile = stack.enter_context(Profile(trainee.model, group.device, settings.profile, intervals, logbook))
    return Loop(setup, trainee, feed, evaluator, logbook, saver, stop, found.progress, profile).run()


def _check_room(run: Path, setup: Setup) -> None:
    """Raise UserError where the disk of the run has no room for one checkpoint."""
    with torch.device("meta"):
        parameters = GPT(setup.config).n_parameters()
    check_room(run, checkpoint.size(setup.config, parameters))


def _room(group: Group) -> int:
    """Bytes that each process may plan with, before its model takes its part."""
    sharing = 1 if group.device.type == "cuda" else group.ranks.local_world_size
    free = machine_memory.free_memory(group.device)
    return min(group.gather(micro_batch.usable(free, group.device.type, sharing)))


def _fitted(
    setup: Setup, trainee: Trainee, feed: Feed, evaluator: Evaluator, stop: StopSignals, began: float
) -> Setup | None:
    """The set-up with as many steps as end in --fit-time, counted from `began`; None where it was stopped. Raises
    UsageError where none does."""
    settings, group = setup.settings, trainee.group
    assert settings.fit_time is not None
    costs = fitting.measure(setup, trainee, feed, evaluator, lambda: bool(stop))
    if costs is None:
        return None
    left = min(group.gather(settings.fit_time - (time.monotonic() - began)))
    steps = fitting.steps_within(left, costs, settings)
    try:
        if steps == 0:
            raise fitting.too_short(settings, costs)
        return with_steps(setup, steps)
    except UserError as error:
        raise group.told_once(error) from error


def _trainee(setup: Setup, group: Group, found: Continuation) -> tuple[Trainee, list[str]]:
    """The model, where it left off or with its first weights, and its optimiser; and notes on how they compute."""
    settings, device = setup.settings, group.device
    measured = cache(lambda: group.on_main(lambda: numerics.fastest_matmul(device)))
    choices, notes = numerics.choose(settings, device, group.ranks, setup.config.emb_dim, measured)
    if found.progress:
        choices, changes = numerics.keep(choices, found.progress.numerics, settings)
        notes += changes
    # What one process can't do none does: they add up each other's gradients, and compile together.
    precisions = set(group.gather(choices.precision))
    if len(precisions) > 1:
        choices = replace(choices, precision="fp32")
        notes.append(f"The processes' devices differ ({', '.join(sorted(precisions))}), so all train in fp32.")
    choices = replace(choices, compile=all(group.gather(choices.compile)))
    choices.apply()
    try:
        if found.progress:
            model = GPT.allocate(setup.config)
        elif setup.init_from:
            model = read_model(setup.init_from, settings.drop_rate)
        else:
            model = GPT.create(setup.config, settings.seed, settings.init)
        model.train()
        model.recompute_blocks = settings.activation_checkpointing == "block"
        if choices.compile:
            compiling.compile_parts(model)
        low_precision = torch.bfloat16 if choices.precision == "bf16" else None
        wrapped = group.spread(model, model.blocks, settings.shard, low_precision)
        optimizers, scaler = optimizers_of(setup, model, choices), choices.scaler(device)
        if found.progress:
            checkpoint.restore(found.folder if group.ranks.is_main else None, model, optimizers, group)
            if scaler.is_enabled() and found.progress.loss_scale:
                scaler.load_state_dict(found.progress.loss_scale)
    except UserError as error:
        raise group.told_once(error) from error
    return Trainee(model, wrapped, optimizers, group, choices, scaler, setup.masked_eot), notes


def optimizers_of(setup: Setup, model: GPT, choices: numerics.Numerics) -> Optimizers:
    """What moves the weights of a model, by the settings of its run."""
    settings = setup.settings
    rates = Rates(settings.embedding_lr or settings.max_lr, settings.head_lr or settings.max_lr, settings.max_lr)
    make = make_adamw
    if settings.optimizer == "muon":
        make = partial(make_muon, heights=stacked(setup.config), dtype=numerics.DTYPES[choices.muon_precision])
    return make(
        model,
        rates,
        betas=(settings.beta1, settings.beta2),
        weight_decay=settings.weight_decay,
        fused=choices.fused_adamw,
    )


def _is_finished(progress: Progress, setup: Setup) -> bool:
    return progress.step >= setup.steps and not (progress.evaluation_due or progress.sample_due)


def _facts(setup: Setup, trainee: Trainee) -> dict[str, str]:
    """What the run has decided, for people."""
    choices = trainee.numerics
    return {
        "Run": setup.settings.log_dir,
        "Device": f"{choices.hardware}, {choices.precision}{', compiled' if choices.compile else ''}",
        **describe(setup, trainee.model.n_parameters(), trainee.group.ranks.world_size),
    }
