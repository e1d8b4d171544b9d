"""Windows of a token stream as what a model learns from: inputs, and the same shifted by one as targets."""

from __future__ import annotations

import numpy as np

from gptcli.data.order import Indices, n_windows
from gptcli.data.token_stream import TokenStream
from gptcli.errors import UserError


class WindowReader:
    """The windows of a stream. Window w is `length` + 1 tokens from token w × `length` on, across shards too."""

    def __init__(self, stream: TokenStream, length: int, vocab_size: int) -> None:
        self.stream = stream
        self.length = length
        self.vocab_size = vocab_size

    def __len__(self) -> int:
        return n_windows(len(self.stream), self.length)

    def read(self, windows: Indices) -> tuple[Indices, Indices]:
        """Inputs and targets (N, T) of these N windows, as int64. Raises UserError for an id beyond the vocabulary."""
        rows = np.empty((len(windows), self.length + 1), dtype=np.int64)  # (N, T+1)
        for row, window in zip(rows, windows.tolist(), strict=True):
            row[:] = self.stream.read(window * self.length, self.length + 1)
        if rows.size and rows.max() >= self.vocab_size:
            at = int(windows[rows.max(axis=1).argmax()]) * self.length
            raise UserError(
                f"{self.stream.file_of(at)} holds the id {rows.max():,} near its token {at:,} of the split; the model "
                f"has a vocabulary of {self.vocab_size:,}.",
                "The shard is damaged (gpt tokenize --verify FOLDER tells), or made for another model.",
            )
        return np.ascontiguousarray(rows[:, :-1]), np.ascontiguousarray(rows[:, 1:])
