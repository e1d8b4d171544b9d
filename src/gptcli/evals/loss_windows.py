"""Which tokens a model reads together when the loss of a long row of them is measured, and which of these count."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from gptcli.data.order import Indices

Flags = npt.NDArray[np.bool_]
Number = TypeVar("Number", np.int64, np.float64)


class Stream(Protocol):
    """Tokens in a row, read by position."""

    def __len__(self) -> int: ...

    def read(self, start: int, count: int) -> Indices:
        """`count` tokens from `start` on."""


@dataclass(frozen=True)
class Windows:
    """Windows of a stream, as arrays (N,): the position of their first token, how many tokens the model reads of each,
    and after how many of these, the last ones, the next token counts. `units` numbers, in rising order, what each
    belongs to: it is a window by itself, or one of a document."""

    starts: Indices
    lengths: Indices
    scored: Indices
    units: Indices

    def __len__(self) -> int:
        return len(self.starts)

    def per_unit(self, values: npt.NDArray[Number]) -> npt.NDArray[Number]:
        """The sum of the windows' `values` (N,) over each unit."""
        sums: npt.NDArray[Number] = np.add.reduceat(values, np.flatnonzero(np.diff(self.units, prepend=-1)))
        return sums

    def read(self, stream: Stream, chosen: Indices) -> tuple[Indices, Indices, Flags]:
        """Inputs and targets of the `chosen` windows, and which targets count, (B, T) each. Shorter windows have
        padding at their end, which changes nothing: no position looks at those after it."""
        lengths, scored = self.lengths[chosen, None], self.scored[chosen, None]  # (B, 1)
        rows = np.zeros((len(chosen), int(lengths.max()) + 1), dtype=np.int64)  # (B, T+1)
        for row, start, length in zip(rows, self.starts[chosen].tolist(), lengths[:, 0].tolist(), strict=True):
            row[: length + 1] = stream.read(start, length + 1)
        places = np.arange(rows.shape[1] - 1)
        counts = (places < lengths) & (places >= lengths - scored)
        return np.ascontiguousarray(rows[:, :-1]), np.ascontiguousarray(rows[:, 1:]), counts


def window_tokens(context_length: int, stride: int | None) -> int:
    """Tokens of a whole window, with the last one, which is only predicted.

    Windows that overlap hold as many as the context, as in Hugging Face's recipe for the perplexity of models with a
    fixed length. Side by side that would leave the first token of each without any before it, so there they hold one
    more, the first of the next window.
    """
    return context_length + 1 if stride in (None, context_length) else context_length


def windows_of_stream(
    n_tokens: int, n_begin: int, context_length: int, stride: int | None, *, whole: bool, limit: int | None
) -> Windows:
    """The first `limit` windows of a stream of `n_tokens`, the first `n_begin` of which don't count. `whole` leaves out
    a shorter one at the end; without it every other token counts once. See `_slide`."""
    if limit is not None:
        n_tokens = min(n_tokens, window_tokens(context_length, stride) + (limit - 1) * (stride or context_length))
    begins, sizes = np.zeros(1, dtype=np.int64), np.array([n_tokens], dtype=np.int64)
    found = _slide(begins, sizes, n_begin, context_length, stride, whole)
    return Windows(found.starts, found.lengths, found.scored, np.arange(len(found), dtype=np.int64))


def windows_of_documents(
    begins: Indices, n_tokens: int, n_begin: int, context_length: int, stride: int | None, limit: int | None
) -> Windows:
    """The windows of the first `limit` documents of a stream of `n_tokens` in which they begin at `begins` (D,), each
    with `n_begin` tokens that don't count. Documents without any other are left out, and keep their number."""
    sizes = np.diff(begins, append=n_tokens)
    numbers = np.flatnonzero(sizes > n_begin)[:limit]
    found = _slide(begins[numbers], sizes[numbers], n_begin, context_length, stride, whole=False)
    return Windows(found.starts, found.lengths, found.scored, numbers[found.units])


def _slide(
    begins: Indices, sizes: Indices, n_begin: int, context_length: int, stride: int | None, whole: bool
) -> Windows:
    """Windows of every part of a stream that begins at `begins` and has `sizes` tokens, (D,) each; each advances by
    `stride` over the one before and counts what that did not reach. `units` are the parts.

    https://huggingface.co/docs/transformers/perplexity
    """
    width, step = window_tokens(context_length, stride), stride or context_length
    assert n_begin < width, "a window that holds nothing but the beginning of a document"
    beyond = sizes - width  # what the first window does not hold
    if whole:
        counts = np.where(beyond >= 0, 1 + beyond // step, 0)
    else:
        counts = np.where(sizes > n_begin, 1 + -(-np.maximum(beyond, 0) // step), 0)
    parts = np.repeat(np.arange(len(sizes), dtype=np.int64), counts)
    starts = step * (np.arange(len(parts), dtype=np.int64) - np.repeat(np.cumsum(counts) - counts, counts))
    ends = np.minimum(starts + width, sizes[parts])
    reached = np.where(starts > 0, starts - step + width, n_begin)
    return Windows(begins[parts] + starts, ends - starts - 1, ends - reached, parts)


def batches(windows: Windows, batch_tokens: int, part: int = 0, n_parts: int = 1) -> Iterator[Indices]:
    """The numbers of the windows that `part` of `n_parts` has, at most `batch_tokens` tokens together with padding, at
    least one window. The longest come first: little is padding then, and a batch that is too large for the memory shows
    at once."""
    own = np.argsort(-windows.lengths, kind="stable")[part::n_parts]
    start = 0
    while start < len(own):
        size = max(1, batch_tokens // int(windows.lengths[own[start]]))
        yield own[start : start + size]
        start += size
