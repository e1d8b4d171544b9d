"""Several texts in a row of ids: which positions belong together, so that attention can be kept within each.

Rows of training data are cut from one stream and hold parts of several documents; without a mask a token looks at the
documents before its own too. And texts that begin alike, such as the answers to one question, need that beginning only
once in a row, from which they branch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask


@dataclass(frozen=True)
class Documents:
    """What the network needs to know of the documents in ids (B, T): how far each token stands in its own, (B, T), and
    who may look at whom: (B, 1, T, T), true where row looks at column, or the same as blocks for a kernel that leaves
    out those in which nobody does. A row may be longer than the context, as long as its documents are not."""

    positions: Tensor
    mask: Tensor | BlockMask


def find_documents(ids: Tensor, eot: int, *, blocks: bool) -> Documents:
    """The documents in `ids` (B, T), each of which begins with the id `eot`; what stands before the first is one too.

    `blocks` makes the mask one for flex attention, which CUDA has.
    """
    B, T = ids.shape
    begins = ids == eot  # (B, T)
    number = begins.cumsum(1)  # of the document that a token is in
    places = torch.arange(T, device=ids.device)
    start = torch.where(begins, places, 0).cummax(1).values  # where its document begins
    if not blocks:
        together = number[:, :, None] == number[:, None, :]  # (B, T, T)
        return Documents(places - start, together.tril()[:, None])

    from torch.nn.attention.flex_attention import create_block_mask  # it takes two seconds to import

    def looks_at(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (q >= k) & (number[b, q] == number[b, k])

    return Documents(places - start, create_block_mask(looks_at, B, None, T, T, device=str(ids.device)))


def branching(trunks: Sequence[int], branches: Sequence[Sequence[int]], device: torch.device) -> Documents:
    """Rows in which texts branch: each begins with a trunk of `trunks` tokens, which goes on in as many ways as it has
    `branches`, so many tokens each, one after the other. Shorter rows have padding at their end."""
    T = max(trunk + sum(row) for trunk, row in zip(trunks, branches, strict=True))
    positions, numbers = torch.zeros(len(trunks), T, dtype=torch.int64), torch.zeros(len(trunks), T, dtype=torch.int64)
    for i, (trunk, row) in enumerate(zip(trunks, branches, strict=True)):
        places = torch.cat([torch.arange(trunk), *(torch.arange(trunk, trunk + length) for length in row)])
        positions[i, : len(places)] = places
        lengths = torch.tensor([trunk, *row, T - len(places)])
        numbers[i] = torch.arange(len(lengths)).repeat_interleave(lengths)  # of the branch; 0 is the trunk
    positions, numbers = positions.to(device), numbers.to(device)
    seen = (numbers[:, None, :] == 0) | (numbers[:, None, :] == numbers[:, :, None])  # (B, T, T)
    return Documents(positions, seen.tril()[:, None])


def attention_within(q: Tensor, k: Tensor, v: Tensor, documents: Documents, drop_rate: float, grouped: bool) -> Tensor:
    """Attention (B, H, T, D) of queries to the keys of their own document, up to their own place."""
    if isinstance(documents.mask, Tensor):
        return F.scaled_dot_product_attention(q, k, v, documents.mask, drop_rate, enable_gqa=grouped)
    assert not drop_rate, "flex attention has no dropout"
    out: Tensor = _flex_attention()(q, k, v, block_mask=documents.mask, enable_gqa=grouped)
    return out


@cache
def _flex_attention() -> Callable[..., Any]:
    """Compiled: otherwise it would hold all scores in memory."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)
