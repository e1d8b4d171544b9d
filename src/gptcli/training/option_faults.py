"""What can be wrong with the options of a run by themselves, before any data or model is looked at."""

from __future__ import annotations

from gptcli.errors import Fault, raise_if
from gptcli.settings import TrainSettings


def check_options(settings: TrainSettings, context_length: int, processes: int) -> None:
    """What can be wrong with the options by themselves. Raises UsageError."""
    length = settings.n_tokens or context_length
    faults = _batch_faults(settings, length, processes)
    if length > context_length:
        faults.append(
            Fault(
                f"--n-tokens {length} is longer than --context-length {context_length}.",
                "Sequences can't be longer than the context.",
            )
        )
    if settings.min_lr > settings.max_lr:
        faults.append(Fault(f"--min-lr {settings.min_lr:g} is above --max-lr {settings.max_lr:g}."))
    if settings.fit_time and (settings.max_iters or settings.n_epochs):
        given = "--max-iters" if settings.max_iters else "--n-epochs"
        faults.append(
            Fault(f"--fit-time measures how many steps the run has, {given} says it.", "Leave one of them out.")
        )
    if settings.precision == "fp16" and settings.shard != "none":
        faults.append(
            Fault("--precision fp16: its loss scaling does not go with --shard.", "Take --precision bf16 or fp32.")
        )
    if settings.on and not settings.dry_run:
        faults.append(Fault("--on plans for other devices; nothing is trained on them.", "Add --dry-run."))
    if settings.keep_every and settings.keep_every % settings.save_every:
        faults.append(
            Fault(
                f"--keep-every {settings.keep_every}: nothing is saved there but every {settings.save_every} steps.",
                "Take a multiple of --save-every.",
            )
        )
    raise_if(faults)


def _batch_faults(settings: TrainSettings, length: int, processes: int) -> list[Fault]:
    at_once = 1 if settings.n_batches == "auto" else settings.n_batches
    micro_batch = at_once * length * processes
    total = settings.total_batch_size
    if total % micro_batch == 0:
        return []
    below = total - total % micro_batch
    nearest_totals = [str(size) for size in (below, below + micro_batch) if size]
    product = f"--n-batches {at_once} × {length} tokens"
    product += f" × {processes} processes" if processes > 1 else ""
    smaller = [size for size in range(at_once, 0, -1) if total % (size * length * processes) == 0]
    return [
        Fault(
            f"--total-batch-size {total} can't be divided by a micro-batch of {product} = {micro_batch} tokens.",
            f"The nearest that can: {' or '.join(nearest_totals)}"
            + (f"; or keep it with --n-batches {smaller[0]}." if smaller else "."),
        )
    ]
