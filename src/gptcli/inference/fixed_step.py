"""A step of generation whose shapes and memory never change, so that a GPU can be given all of its kernels at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gptcli.model.cache import KVCache
from gptcli.model.network import GPT


class FixedStep:
    """One more token for the first `rows` rows of a cache.

    Attention goes over the cache in its whole length, with a mask, so that one CUDA graph serves for texts of every
    length: the kernels of one token are over sooner than Python starts the next one, and a graph starts them all. On
    other devices the same is computed without a graph.
    """

    def __init__(self, model: GPT, cache: KVCache, rows: int) -> None:
        self._model, self._cache = model, cache
        self._ids = torch.zeros(rows, 1, dtype=torch.long, device=model.device)  # (B, 1)
        self._starts = torch.zeros(rows, dtype=torch.long, device=model.device)  # (B,)
        self._hidden = torch.empty(0)
        self._replay: Callable[[], None] | None = None

    def __call__(self, ids: Sequence[int], starts: Sequence[int]) -> Tensor:
        """The final hidden states (B, C) of the tokens `ids`, which are put at the places `starts`. The next call
        overwrites them."""
        self._ids.copy_(torch.tensor(ids)[:, None])
        self._starts.copy_(torch.tensor(starts))
        if self._replay is None:
            self._replay = self._captured() if self._ids.device.type == "cuda" else self._compute
        self._replay()
        return self._hidden

    def _compute(self) -> None:
        self._hidden = self._model.hidden(self._ids, self._cache.extend_at(self._starts))[:, 0]

    def _captured(self) -> Callable[[], None]:
        """What computes the step by a CUDA graph. Warming up, as capturing asks for, is the step itself: it may be
        taken any number of times."""
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            self._compute()
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._compute()
        return graph.replay
