"""What is done to a curve before it is drawn: smoothed, thinned out, put into limits that show what matters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_MANY = 200  # points; a curve of fewer is shown from its first point on
_BEGINNING = 0.05  # of the x axis, in which the loss falls further than in all the rest
_OUTLIERS = 0.005  # of the raw values at either end: spikes, which leave the picture rather than flatten it
_MARGIN = 0.05  # of the height, above and below


@dataclass(frozen=True)
class Points:
    """A curve: values `y` at the places `x`, which rise; both (N,), all of them finite."""

    x: Floats
    y: Floats

    def __len__(self) -> int:
        return len(self.x)


def smoothed(points: Points, span: float) -> Points:
    """Average over the neighbours on both sides, of which what lies `span` away counts 1/e as much. With 0 the points
    as they are.

    Weights go by distance, not by number of points, so that curves logged at different intervals are smoothed alike,
    and are divided by their sum, so that the ends are not biased: a kernel average (Nadaraya 1964, Watson 1964) with
    exp(-|d|/span). The moving average of TensorBoard looks back only, and draws a falling loss too far to the right.
    """
    if span <= 0 or len(points) < 2:
        return points
    kept = np.exp(-np.diff(points.x) / span).tolist()
    y = points.y.tolist()
    before, after = _decaying(y, kept), _decaying(y[::-1], kept[::-1])[::-1]
    averages = [
        (total + total_after - value) / (weight + weight_after - 1)
        for (total, weight), (total_after, weight_after), value in zip(before, after, y, strict=True)
    ]
    return Points(points.x, np.array(averages))


def _decaying(values: list[float], kept: list[float]) -> list[tuple[float, float]]:
    """For every value the sum of those up to it and that of their weights, of which each step keeps a share."""
    total = weight = 0.0
    sums = []
    for share, value in zip([0.0, *kept], values, strict=True):
        total, weight = total * share + value, weight * share + 1
        sums.append((total, weight))
    return sums


def medians(points: Points, span: float) -> Points:
    """The median of each stretch of `span` on the x axis, at its median place; steps that stalled don't move it. With
    0 the points as they are."""
    if span <= 0 or not len(points):
        return points
    stretches = _split(points, np.floor((points.x - points.x[0]) / span))
    return Points(
        np.array([np.median(part.x) for part in stretches]), np.array([np.median(part.y) for part in stretches])
    )


def thinned(points: Points, stretches: int) -> Points:
    """At most 4 points for each of so many stretches of the x axis: first, lowest, highest and last, which is all that
    a picture of that width shows (M4: Jugel et al. 2014)."""
    if len(points) <= 4 * stretches:
        return points
    width = (points.x[-1] - points.x[0]) / stretches
    if width <= 0:
        return points
    numbers = np.minimum(np.floor((points.x - points.x[0]) / width), stretches - 1)
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))
    kept = []
    for start, end in zip(starts, [*starts[1:], len(points)], strict=True):
        y = points.y[start:end]
        kept += sorted({start, start + int(y.argmin()), start + int(y.argmax()), end - 1})
    return Points(points.x[kept], points.y[kept])


def beginning(points: Points) -> float:
    """Where on the x axis a training curve begins to count for the limits of the y axis: for a long one after 5%, in
    which the loss falls from that of guessing further than ever after, and the rest would be a flat line."""
    if len(points) < _MANY:
        return -np.inf
    begin, end = float(points.x[0]), float(points.x[-1])
    return begin + _BEGINNING * (end - begin)


def limits(
    curves: Iterable[Points],
    raw: Iterable[Points] = (),
    levels: Iterable[float] = (),
    start: float = -np.inf,
    floor: float | None = None,
) -> tuple[float, float]:
    """The y axis that shows the `curves` from `start` on, the `raw` ones but for their outliers, and the `levels`.
    `floor` is where the axis begins, if nothing lies below."""
    values = list(levels)
    for some, left_out in ((curves, 0.0), (raw, _OUTLIERS)):
        for points in some:
            counted = points.y[points.x >= start] if len(points) and points.x[-1] >= start else points.y
            values += _extremes(counted, left_out if len(points) >= _MANY else 0.0)
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if floor is not None:
        low = min(low, floor)
    margin = _MARGIN * (high - low) or _MARGIN * abs(high) or 1.0
    return (low if low == floor else low - margin), high + margin


def _extremes(y: Floats, left_out: float) -> tuple[float, ...]:
    return tuple(float(value) for value in np.quantile(y, (left_out, 1 - left_out))) if len(y) else ()


def _split(points: Points, numbers: Floats) -> list[Points]:
    """The points in runs of equal `numbers`."""
    borders = np.flatnonzero(np.diff(numbers)) + 1
    return [Points(x, y) for x, y in zip(np.split(points.x, borders), np.split(points.y, borders), strict=True)]
