"""Windows of a token stream as what a model learns from: inputs, and the same shifted by one as targets."""

from __future__ import annotations

import numpy as np

from gptcli.data.order import Indices, n_windows
from gptcli.data.shards import TokenStream


class WindowReader:
    """The windows of a stream. Window w is `length` + 1 tokens from token w × `length` on, across shards too."""

    def __init__(self, stream: TokenStream, length: int) -> None:
        self.stream = stream
        self.length = length

    def __len__(self) -> int:
        return n_windows(len(self.stream), self.length)

    def read(self, windows: Indices) -> tuple[Indices, Indices]:
        """Inputs and targets (N, T) of these N windows, as int64."""
        rows = np.empty((len(windows), self.length + 1), dtype=np.int64)  # (N, T+1)
        for row, window in zip(rows, windows.tolist(), strict=True):
            row[:] = self.stream.read(window * self.length, self.length + 1)
        return np.ascontiguousarray(rows[:, :-1]), np.ascontiguousarray(rows[:, 1:])
