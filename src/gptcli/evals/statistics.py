"""How sure a share of right answers is, and a difference between two models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from statistics import NormalDist

CONFIDENCE = 0.95
_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


def standard_error(p: float, n: int) -> float | None:
    """Of the mean of n zeros and ones, from their sample variance, as lm-eval has it; one of them has none."""
    return math.sqrt(p * (1 - p) / (n - 1)) if n > 1 else None


def standard_error_of_mean(values: Sequence[float]) -> float | None:
    """Of the mean of the values, from their sample variance; one of them has none."""
    n = len(values)
    if n < 2:
        return None
    mean = math.fsum(values) / n
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)


def interval(right: int, n: int) -> tuple[float, float]:
    """Between which shares the true one lies with 95% confidence, of `right` out of `n` (Wilson 1927)."""
    p, z2 = right / n, _Z * _Z
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def mcnemar(only_first: int, only_second: int) -> float:
    """The probability of a difference at least as large as this one between two models that are equally good, from the
    questions that only one of them answers rightly (McNemar 1947, the exact test on both sides)."""
    n = only_first + only_second
    tail = sum(math.comb(n, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, float(Fraction(2 * tail, 2**n)))  # a quotient of numbers that are larger than floats can be
