"""How long a run is, and how much of it is warm-up."""

from __future__ import annotations

import math

from gptcli.errors import UsageError
from gptcli.presets import PRESETS
from gptcli.settings import TrainSettings

ORIGINAL_STEPS = 19_073  # 10 B tokens in steps of 2**19


def run_steps(settings: TrainSettings, windows: int, windows_per_step: int) -> int:
    """Steps of the run over data of so many windows, at least one, by the rules of --max-iters and --n-epochs.

    Raises UsageError for data that is too short.
    """
    if settings.max_iters and settings.n_epochs is None:
        return settings.max_iters
    passes = settings.n_epochs or 1.0
    steps = math.floor(passes * windows / windows_per_step)
    if steps == 0:
        tokens = windows * settings.total_batch_size // windows_per_step
        raise UsageError(
            f"{passes:g} pass{'es' if passes > 1 else ''} over the {tokens:,} training tokens "
            f"{'are' if passes > 1 else 'is'} less than one step of {settings.total_batch_size:,}.",
            "Choose a smaller --total-batch-size, or say how long to train with --max-iters.",
        )
    return min(settings.max_iters or (steps if settings.n_epochs else ORIGINAL_STEPS), steps)


def run_warmup(settings: TrainSettings, steps: int) -> tuple[int, str]:
    """The steps of warm-up and a note, empty as a rule: a warm-up by default or preset that would not end in time is
    shortened to a tenth of the run.

    Raises UsageError for one that was asked for: it is not changed.
    """
    warmup = settings.warmup_iters
    if warmup < steps:
        return warmup, ""
    of_preset = PRESETS.get(settings.preset or "", {}).get("warmup_iters")
    if "warmup_iters" in settings.model_fields_set and warmup != of_preset:
        raise UsageError(
            f"--warmup-iters {warmup} does not end within the run's {steps} steps.",
            f"Try --warmup-iters {steps // 10}.",
        )
    return steps // 10, f"The run has {steps} steps, so warm-up takes {steps // 10} in place of {warmup}."
