"""How many steps fit into a time: measured on the run itself, before its first step."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from gptcli.errors import UsageError
from gptcli.evals.origin import spread
from gptcli.settings import TrainSettings
from gptcli.training import checkpoint
from gptcli.training.checkpoint import Progress
from gptcli.training.evaluation import Evaluator
from gptcli.training.feed import Feed
from gptcli.training.setup import Setup
from gptcli.training.spikes import RecentSteps
from gptcli.training.step import Trainee, take_step

MARGIN = 0.04  # of the time, left over for what was not measured
WARM_STEPS = 1  # not counted: memory is allocated and kernels are chosen, perhaps compiled
LEAST_STEPS, SHARE = 3, 0.01  # steps are measured until there are so many, and they took this share of the time
TRIAL_EXAMPLES = 32  # of HellaSwag, for each process


@dataclass(frozen=True)
class Costs:
    """What the parts of a run take, in seconds."""

    step: float
    validation: float
    hellaswag: float
    final_hellaswag: float
    sample: float
    save: float


def steps_within(seconds: float, costs: Costs, settings: TrainSettings) -> int:
    """The most steps that end within `seconds` with all that is due between and after them; 0 where none does."""
    evaluation = costs.validation + costs.hellaswag
    at_ends = 2 * costs.validation + costs.final_hellaswag + costs.sample + costs.save
    per_step = (
        costs.step
        + evaluation / settings.eval_every
        + costs.sample / settings.sample_every
        + costs.save * (1 / settings.save_every + (1 / settings.eval_every if settings.keep_best else 0))
    )
    return max(0, math.floor((seconds * (1 - MARGIN) - at_ends) / per_step))


def measure(setup: Setup, trainee: Trainee, feed: Feed, evaluator: Evaluator, stop: Callable[[], bool]) -> Costs | None:
    """Take the run's first steps with a learning rate of 0, then forget them: weights, optimiser and data are as
    before, so that the run is the one that --max-iters would have made. None when it was stopped.

    All processes get the same costs, those of the slowest.
    """
    settings, group = setup.settings, trainee.group
    assert settings.fit_time is not None
    seconds: list[float] = []
    scale = trainee.scaler.state_dict()
    number = 0
    while number < WARM_STEPS + LEAST_STEPS or group.any(sum(seconds) < SHARE * settings.fit_time):
        began = time.monotonic()
        result = take_step(trainee, feed, number, 0.0, settings.grad_clip, stop)
        if result is None:
            return None
        result.numbers.tolist()  # until the device is done
        number += 1
        if number > WARM_STEPS:
            seconds.append(time.monotonic() - began)
    save = _seconds(lambda: _save(setup, trainee))
    if trainee.scaler.is_enabled():
        trainee.scaler.load_state_dict(scale)
    trainee.optimizers.zero_grad()
    trainee.optimizers.forget()
    costs = (
        statistics.median(seconds),
        _seconds(evaluator.validation_loss),
        *_hellaswag_seconds(evaluator),
        _seconds(lambda: evaluator.sample(0)),
        save,
    )
    if group.any(stop()):
        return None
    return Costs(*(max(parts) for parts in zip(*group.gather(costs), strict=True)))


def _seconds(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def _hellaswag_seconds(evaluator: Evaluator) -> tuple[float, float]:
    """Of the examples that are scored during the run, and at its end, by some of them."""
    if not evaluator.items:
        return 0.0, 0.0
    trial = replace(evaluator, items=spread(evaluator.items, TRIAL_EXAMPLES * evaluator.trainee.group.ranks.world_size))
    each = _seconds(lambda: trial.hellaswag(final=True)) / trial.n_examples(final=True)
    return each * evaluator.n_examples(final=False), each * evaluator.n_examples(final=True)


def _save(setup: Setup, trainee: Trainee) -> None:
    """Write a checkpoint as the run will, and remove it."""
    run = Path(setup.settings.log_dir)
    progress = Progress(0, setup.settings.seed, 0.0, True, False, None, None, RecentSteps(), {})
    taken = checkpoint.snapshot(progress, trainee.model, trainee.optimizers, trainee.group)
    if taken is not None:
        checkpoint.remove(checkpoint.write(run, taken, setup.tokenizer))


def too_short(settings: TrainSettings, costs: Costs) -> UsageError:
    """What to tell where not one step fits."""
    least = costs.step + 2 * costs.validation + costs.final_hellaswag + costs.sample + costs.save
    return UsageError(
        f"--fit-time: not one step ends in {settings.fit_time:g} s; a step takes {costs.step:.1f} s here, evaluating "
        f"and saving {least - costs.step:.1f} s.",
        "Give it more time, or take a smaller --total-batch-size, fewer --eval-iters, fewer "
        f"--final-eval-examples, which take {costs.final_hellaswag:.0f} s here.",
    )
