"""The order in which training sees the data: a pure function of seed, epoch and sample number, in constant memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]

ROUNDS = 8
_MIN_BITS = 6  # halves of 3 bits: with narrower ones the rounds reach few of the permutations of a tiny range
_GOLDEN_GAMMA = 0x9E3779B97F4A7C15
_WORD = 2**64 - 1


def n_windows(n_tokens: int, length: int) -> int:
    """How many windows of `length` + 1 tokens a stream of `n_tokens` has, when they start every `length` tokens."""
    return max(0, (n_tokens - 1) // length)


class Permutation:
    """A bijection on range(n), chosen by (seed, epoch), any index of it computed by itself.

    A balanced Feistel network permutes the next larger even power of two; where it leads outside the range it is
    applied again until it leads back in, which keeps it a bijection (cycle walking: Black and Rogaway, "Ciphers with
    Arbitrary Finite Domains", 2002). Its round function is the finalizer of SplitMix64 (Steele, Lea and Flood, "Fast
    Splittable Pseudorandom Number Generators", 2014, in Stafford's variant 13).
    """

    def __init__(self, n: int, seed: int, epoch: int) -> None:
        assert 1 <= n <= 2**62, f"a permutation of {n} elements"
        self.n = n
        bits = max(_MIN_BITS, (n - 1).bit_length())
        self._half = np.uint64((bits + 1) // 2)
        self._mask = np.uint64((1 << int(self._half)) - 1)
        self._keys = _round_keys(seed, epoch)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < self.n:
            raise IndexError(f"index {index} of a permutation of {self.n}")
        return int(self.indices(np.array([index], dtype=np.int64))[0])

    def indices(self, positions: Indices) -> Indices:
        """Where each of `positions` (any shape, values in range(n)) is sent; the same shape."""
        values = positions.astype(np.uint64).reshape(-1)
        assert values.size == 0 or int(values.max()) < self.n, "a position outside the permutation"
        n = np.uint64(self.n)
        values = self._encrypt(values)
        outside = np.flatnonzero(values >= n)
        while outside.size:
            walked = self._encrypt(values[outside])
            values[outside] = walked
            outside = outside[walked >= n]
        return values.astype(np.int64).reshape(positions.shape)

    def _encrypt(self, values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        left, right = values >> self._half, values & self._mask
        for key in self._keys:
            left, right = right, left ^ (_mix(right + key) & self._mask)
        return (left << self._half) | right


def window_of(samples: Indices, n: int, seed: int) -> Indices:
    """The window that each sample is, of `n` windows. Samples are numbered through all epochs: the epoch of a sample is
    `sample // n`, and within it every window comes once."""
    windows = np.empty_like(samples)
    epochs = samples // n
    for epoch in np.unique(epochs):
        here = epochs == epoch
        windows[here] = Permutation(n, seed, int(epoch)).indices(samples[here] % n)
    return windows


def samples_of(step: int, micro: int, rank: int, world_size: int, n_batches: int, windows_per_step: int) -> Indices:
    """The samples, counted from the start of the run, of micro-batch `micro` of step `step` on process `rank`, (B,).

    Steps are the next `windows_per_step` samples each, across the border of epochs too, so that nothing is left over.
    They are dealt out `n_batches` at a time to each of `world_size` processes in turn: a step has the same samples in
    the same order however many processes and micro-batches they are spread over.
    """
    assert windows_per_step % (world_size * n_batches) == 0, "a step that can't be dealt out evenly"
    assert 0 <= rank < world_size, f"process {rank} of {world_size}"
    assert 0 <= micro < windows_per_step // (world_size * n_batches), f"micro-batch {micro}"
    first = step * windows_per_step + (micro * world_size + rank) * n_batches
    return np.arange(first, first + n_batches, dtype=np.int64)


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's finalizer on an array; the arithmetic is modulo 2**64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _round_keys(seed: int, epoch: int) -> list[np.uint64]:
    """Keys of the rounds. Seed and epoch are mixed in one after the other, so (1, 0) and (0, 1) are unrelated."""
    state = np.zeros(1, dtype=np.uint64)
    for word in (seed, epoch):
        state = _mix(state ^ np.uint64(word & _WORD)) + np.uint64(_GOLDEN_GAMMA)
    steps = np.arange(1, ROUNDS + 1, dtype=np.uint64) * np.uint64(_GOLDEN_GAMMA)
    return list(_mix(state + steps))
