"""What an axis counts in: steps, billions of tokens, hours, powers of ten."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Axis = Literal["step", "tokens", "time", "flops"]

_THOUSANDS = ((1e12, "trillions"), (1e9, "billions"), (1e6, "millions"), (1e3, "thousands"))
_TIMES = ((86_400.0, "days"), (3_600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))
_SEVERAL = 2  # of a larger unit of time: 90 minutes are read more easily than 1.5 hours
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Unit:
    """Values are divided by `size` before they are drawn; `label` names what they then are."""

    size: float
    label: str


def unit_of(axis: Axis, highest: float) -> Unit:
    """The unit of an x axis that ends at `highest` (steps, tokens, seconds or FLOPs)."""
    if axis == "step":
        return Unit(1.0, "Step")
    if axis == "tokens":
        return in_thousands("Tokens", highest)
    if axis == "flops":
        return in_powers("Training FLOPs", highest)
    size, name = next((unit for unit in _TIMES if highest >= _SEVERAL * unit[0]), _TIMES[-1])
    return Unit(size, f"Time, {name}")


def in_thousands(label: str, highest: float) -> Unit:
    """Thousands, millions, billions, trillions: `Tokens, billions`."""
    size, name = next((unit for unit in _THOUSANDS if highest >= unit[0]), (1.0, ""))
    return Unit(size, f"{label}, {name}" if name else label)


def in_powers(label: str, highest: float) -> Unit:
    """Powers of ten: `FLOPs × 10¹⁸`. Between 0.1 and 1,000 numbers are short enough as they are."""
    if not highest or 0.1 <= highest < 1_000:
        return Unit(1.0, label)
    exponent = math.floor(math.log10(highest))
    return Unit(10.0**exponent, f"{label} × 10{str(exponent).translate(_SUPERSCRIPTS)}".strip())


def ticks(low: float, high: float, at_most: int, whole: bool = False) -> list[float]:
    """Round numbers from `low` to `high`, `at_most` (2 or more) of them: 1, 2 or 5 times a power of ten apart, at least
    1 where only `whole` numbers have a meaning."""
    power = 10.0 ** math.floor(math.log10((high - low) / at_most))
    apart = next(
        factor * power
        for factor in (1, 2, 5, 10, 20)
        if math.floor(high / (factor * power)) - math.ceil(low / (factor * power)) < at_most
    )
    apart = max(apart, 1.0) if whole else apart
    first, last = math.ceil(low / apart), math.floor(high / apart)
    return [float(f"{number * apart:.12g}") for number in range(first, last + 1)]
