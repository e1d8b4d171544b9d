"""The key-value cache: what attention has computed for a prefix, in memory that is allocated once."""

from __future__ import annotations

import torch
from torch import Tensor

from gptcli.model.config import GPTConfig


class LayerCache:
    """Keys and values of one layer, (B, K, longest, D) each, of which the first `length` positions are filled."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values, self.length = keys, values, 0

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store T new positions, (B, K, T, D) each; returns all that are stored, (B, K, length, D) each."""
        end = self.length + k.shape[2]
        assert end <= self.keys.shape[2], "the cache is full"
        self.keys[:, :, self.length : end] = k
        self.values[:, :, self.length : end] = v
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]


class KVCache:
    """The caches of all layers for `batch` sequences of equal length, at most `longest`, or the model's context."""

    def __init__(
        self,
        config: GPTConfig,
        batch: int,
        device: torch.device,
        dtype: torch.dtype,
        longest: int | None = None,
    ) -> None:
        longest = min(longest or config.context_length, config.context_length)
        shape = (config.n_layers, 2, batch, config.n_kv_heads, longest, config.head_dim)
        memory = torch.zeros(shape, device=device, dtype=dtype)
        self.layers = [LayerCache(keys, values) for keys, values in memory.unbind(0)]

    @property
    def length(self) -> int:
        """Positions that are filled."""
        return self.layers[0].length

    def clear(self) -> None:
        """Forget everything; the memory stays."""
        for layer in self.layers:
            layer.length = 0

    def copy_first_to(self, other: KVCache) -> None:
        """Give every sequence of `other` what this cache holds for its first one: a prompt is computed once."""
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            theirs.keys[:, :, : mine.length] = mine.keys[:1, :, : mine.length]
            theirs.values[:, :, : mine.length] = mine.values[:1, :, : mine.length]
            theirs.length = mine.length
