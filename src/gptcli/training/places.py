"""Where in the data a batch lies, for people who want to look at it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gptcli.training.batches import Batches

SHOWN = 8  # sequences that are named at most


def name_places(batches: Batches, step: int, micro_losses: Sequence[Sequence[float]], world_size: int) -> str:
    """The sequences of the micro-batch that the bad numbers of `step` come from: the first whose loss is not finite,
    else the one with the largest. `micro_losses` are those of each process."""
    losses = {(rank, micro): loss for rank, row in enumerate(micro_losses) for micro, loss in enumerate(row)}
    rank, micro = max(losses, key=lambda key: (not math.isfinite(losses[key]), _size(losses[key]), -key[1], -key[0]))
    windows = batches.windows(step, micro, rank, world_size).tolist()
    length, stream = batches.reader.length, batches.reader.stream
    shown = [f"{window * length:,} ({stream.file_of(window * length).name})" for window in windows[:SHOWN]]
    more = f" and {len(windows) - SHOWN} more" if len(windows) > SHOWN else ""
    return (
        f"Its micro-batch {micro + 1} of process {rank} has a loss of {losses[rank, micro]:g}; its sequences of "
        f"{length} begin at the tokens {', '.join(shown)}{more} of the training split."
    )


def _size(loss: float) -> float:
    return loss if math.isfinite(loss) else 0.0
