"""The batches of a run, read ahead: while one is computed a thread prepares the next."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import torch
from torch import Tensor

from gptcli.training.batches import Batches

Key = tuple[int, int]  # step, micro-batch


class Feed:
    """Hands out the micro-batches of one process; use as a context manager, which ends its thread. Which tokens they
    are depends on nothing but their number, so reading ahead changes no run."""

    def __init__(self, batches: Batches, device: torch.device, rank: int, world_size: int) -> None:
        self.batches, self.device = batches, device
        self.waited = 0.0  # seconds that the run has waited for data
        self._rank, self._world_size = rank, world_size
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._ahead: tuple[Key, Future[tuple[Tensor, Tensor]]] | None = None

    def __enter__(self) -> Feed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.shutdown(wait=False, cancel_futures=True)

    @property
    def accumulation(self) -> int:
        """Micro-batches in a step of this process."""
        return self.batches.windows_per_step // (self.batches.n_batches * self._world_size)

    def micro_batch(self, step: int, micro: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets (B, T), on the device, of micro-batch `micro` of `step`. Raises what reading them did."""
        began = time.monotonic()
        key = (step, micro)
        future = self._ahead[1] if self._ahead and self._ahead[0] == key else self._read(key)
        x, y = future.result()
        following = (step, micro + 1) if micro + 1 < self.accumulation else (step + 1, 0)
        self._ahead = (following, self._read(following))
        x, y = (part.to(self.device, non_blocking=True) for part in (x, y))
        self.waited += time.monotonic() - began
        return x, y

    def _read(self, key: Key) -> Future[tuple[Tensor, Tensor]]:
        return self._reader.submit(self._prepare, *key)

    def _prepare(self, step: int, micro: int) -> tuple[Tensor, Tensor]:
        x, y = self.batches.micro_batch(step, micro, self._rank, self._world_size)
        if self.device.type == "cuda":  # from pinned memory the copy runs beside the arithmetic
            return x.pin_memory(), y.pin_memory()
        return x, y
