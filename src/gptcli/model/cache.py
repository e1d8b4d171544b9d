"""The key-value cache: what attention has computed for a prefix, in memory that is allocated once."""

from __future__ import annotations

import torch
from torch import Tensor

from gptcli.model.config import GPTConfig


class KVCache:
    """Keys and values of `rows` sequences side by side, each filled to a length of its own of at most `longest`, or the
    model's context: L layers of (rows, K, longest, D) for keys and for values."""

    def __init__(
        self, config: GPTConfig, rows: int, device: torch.device, dtype: torch.dtype, longest: int | None = None
    ) -> None:
        self.longest = min(longest or config.context_length, config.context_length)
        shape = (2, config.n_layers, rows, config.n_kv_heads, self.longest, config.head_dim)
        # Zeros: what lies behind a row's end is masked, but 0 times NaN would be NaN.
        self.keys, self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.lengths = [0] * rows

    @staticmethod
    def row_bytes(config: GPTConfig, longest: int) -> int:
        """What a row takes in fp32."""
        return 2 * config.n_layers * config.n_kv_heads * config.head_dim * longest * torch.float32.itemsize

    def extend(self, rows: range, new: int) -> Extension | RaggedExtension:
        """Room for `new` more positions in each of `rows`, which the network fills in its next pass.

        Rows of different lengths go on one position at a time.
        """
        starts = self.lengths[rows.start : rows.stop]
        self.lengths[rows.start : rows.stop] = [start + new for start in starts]
        keys, values = self.keys[:, rows.start : rows.stop], self.values[:, rows.start : rows.stop]
        if len(set(starts)) == 1:
            return Extension(keys, values, starts[0], new)
        assert new == 1, "rows of different lengths"
        return RaggedExtension(keys, values, torch.tensor(starts, device=keys.device), max(starts) + 1)

    def extend_at(self, starts: Tensor) -> RaggedExtension:
        """One more position for the first rows, at `starts` (B,) on the device: for a pass whose shapes and memory stay
        the same however long the rows are. `lengths` does not know of it."""
        rows = len(starts)
        return RaggedExtension(self.keys[:, :rows], self.values[:, :rows], starts, self.longest)

    def copy(self, source: int, target: int, length: int) -> None:
        """Give row `target` the first `length` positions of row `source`: a shared beginning is computed once."""
        for memory in (self.keys, self.values):
            memory[:, target, :, :length] = memory[:, source, :, :length]
        self.lengths[target] = length


class Extension:
    """The part of a cache that one pass of the network extends by T positions, in all of its B rows from `start` on.

    `positions` are those of the new tokens, `end` is the rows' length after the pass, S. `causal`: each new position
    looks at itself and those before it in the pass, else `mask` tells at which; None: at all.
    """

    def __init__(self, keys: Tensor, values: Tensor, start: int, new: int) -> None:
        self.keys, self.values = keys, values  # (L, B, K, longest, D)
        self.start, self.end = start, start + new
        self.positions = torch.arange(start, self.end, device=keys.device)  # (T,)
        self.causal = start == 0  # the kernels have this mask of their own
        self.mask = None
        if new > 1 and not self.causal:
            self.mask = torch.ones(new, self.end, dtype=torch.bool, device=keys.device).tril(diagonal=start)  # (T, S)

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new positions, (B, K, T, D) each; returns all that are stored, (B, K, S, D) each."""
        keys, values = self.keys[layer], self.values[layer]
        keys[:, :, self.start : self.end] = k
        values[:, :, self.start : self.end] = v
        return keys[:, :, : self.end], values[:, :, : self.end]


class RaggedExtension:
    """One more position for rows of different lengths: `starts` (B,), none of which reaches `end`."""

    causal = False

    def __init__(self, keys: Tensor, values: Tensor, starts: Tensor, end: int) -> None:
        self.keys, self.values = keys, values
        self.starts, self.end = starts, end
        self.rows = torch.arange(len(starts), device=starts.device)
        self.positions = starts[:, None]  # (B, 1)
        seen = torch.arange(end, device=starts.device) <= self.positions  # (B, S)
        self.mask = seen[:, None, None]  # (B, 1, 1, S): alike for all heads

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store one new position a row, (B, K, 1, D) each; returns (B, K, S, D) each, of which `mask` tells the row's
        own."""
        keys, values = self.keys[layer], self.values[layer]
        keys[self.rows, :, self.starts] = k[:, :, 0]
        values[self.rows, :, self.starts] = v[:, :, 0]
        return keys[:, :, : self.end], values[:, :, : self.end]
