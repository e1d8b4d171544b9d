"""Which sequences of the data make up the micro-batches of a run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gptcli.data.batches import WindowReader
from gptcli.data.order import Indices, samples_of, window_of


@dataclass(frozen=True)
class Batches:
    """Where the samples of a step come from: sample numbers go on over the whole run, `n_batches` at a time to each
    process in turn, so that every number of processes sees the same samples in a step."""

    reader: WindowReader
    n_windows: int
    windows_per_step: int
    n_batches: int
    seed: int

    def micro_batch(self, step: int, micro: int, rank: int, world_size: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets (B, T) of micro-batch `micro` of `step` for one process."""
        x, y = self.reader.read(self.windows(step, micro, rank, world_size))
        return torch.from_numpy(x), torch.from_numpy(y)

    def windows(self, step: int, micro: int, rank: int, world_size: int) -> Indices:
        """Which windows of the training split that micro-batch is, (B,)."""
        samples = samples_of(step, micro, rank, world_size, self.n_batches, self.windows_per_step)
        return window_of(samples, self.n_windows, self.seed)
