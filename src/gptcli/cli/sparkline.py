"""A curve in one line of text (Tufte's sparkline), with block characters, or letters where a terminal lacks those."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

BLOCKS, ASCII = "▁▂▃▄▅▆▇█", "_.-~=+*#"


def sparkline(values: Sequence[float], width: int, *, levels: str = BLOCKS, low: float = 0, high: float = 0) -> str:
    """The newest value stands last; more than `width` of them are drawn together. The lowest level is the least of the
    values, or `low`, and the highest the greatest, or `high`, where these are given (not both 0)."""
    values = _drawn_together(values, width)
    if not values:
        return ""
    if low == high == 0:
        low, high = min(values), max(values)
    step = (high - low) / (len(levels) - 1)
    places = (round((value - low) / step) if step > 0 else 0 for value in values)
    return "".join(levels[min(max(place, 0), len(levels) - 1)] for place in places)


def loss_sparkline(values: Sequence[float], width: int, levels: str = BLOCKS) -> str:
    """A curve of losses: by their logarithm, since they fall fast at first and slowly for most of a run."""
    return sparkline([math.log(max(value, 1e-9)) for value in values], width, levels=levels)


def _drawn_together(values: Sequence[float], width: int) -> list[float]:
    """The means of `width` stretches as equal as can be; the values themselves where there are no more than that."""
    if len(values) <= width or width < 1:
        return list(values) if width >= 1 else []
    borders = [round(index * len(values) / width) for index in range(width + 1)]
    return [sum(values[start:end]) / (end - start) for start, end in itertools.pairwise(borders)]
