"""What is done to curves before they are drawn, and the axes that they are drawn between."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptcli.plotting.curves import Points, beginning, limits, medians, smoothed, thinned
from gptcli.plotting.raster import NOBODY, Raster
from gptcli.plotting.units import in_powers, in_thousands, ticks, unit_of

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=80)


def points(y: list[float], x: list[float] | None = None) -> Points:
    return Points(np.array(x if x is not None else range(len(y)), float), np.array(y, float))


@given(VALUES, st.floats(0.01, 50))
def test_smoothing_is_the_kernel_average_that_it_says(y: list[float], span: float) -> None:
    curve = points(y)
    weights = np.exp(-np.abs(curve.x[:, None] - curve.x[None, :]) / span)
    expected = (weights * curve.y).sum(1) / weights.sum(1)
    np.testing.assert_allclose(smoothed(curve, span).y, expected, rtol=1e-9, atol=1e-4)


def test_smoothing_goes_by_distance_and_not_by_number_of_points() -> None:
    dense = points([10 - i / 100 for i in range(1000)])
    sparse = Points(dense.x[::10], dense.y[::10])
    np.testing.assert_allclose(smoothed(dense, 50).y[::10][20:-20], smoothed(sparse, 50).y[20:-20], atol=1e-2)


def test_a_falling_line_is_not_drawn_too_late_by_smoothing() -> None:
    line = points([100.0 - i for i in range(101)])
    np.testing.assert_allclose(smoothed(line, 5).y[40:60], line.y[40:60], atol=1e-2)


@pytest.mark.parametrize("average", [smoothed, medians])
@pytest.mark.parametrize("span", [0.0, 1e-9])
def test_no_span_leaves_a_curve_as_it_is(average: object, span: float) -> None:
    assert callable(average)
    curve = points([3.0, 1.0, 2.0])
    np.testing.assert_array_equal(average(curve, span).y, curve.y)
    assert len(average(points([]), 1.0)) == 0


def test_a_stall_does_not_move_a_median() -> None:
    curve = points([100.0] * 50)
    curve.y[[3, 21, 22]] = 1.0
    found = medians(curve, 10)
    np.testing.assert_array_equal(found.y, [100.0] * 5)
    np.testing.assert_array_equal(found.x, [4.5, 14.5, 24.5, 34.5, 44.5])


@given(st.integers(1, 5000), st.integers(1, 60))
def test_thinning_keeps_ends_and_extremes_in_order(n: int, stretches: int) -> None:
    curve = points(list(np.random.default_rng(n).normal(size=n)))
    found = thinned(curve, stretches)
    assert len(found) <= 4 * stretches
    assert (np.diff(found.x) > 0).all()
    assert set(zip(found.x, found.y, strict=True)) <= set(zip(curve.x, curve.y, strict=True))
    assert (found.x[0], found.x[-1]) == (curve.x[0], curve.x[-1])
    assert (found.y.min(), found.y.max()) == (curve.y.min(), curve.y.max())


def test_the_y_axis_of_a_long_run_is_not_ruled_by_its_beginning_nor_by_a_spike() -> None:
    x = np.arange(1, 20_001, dtype=float)
    loss = Points(x, 3 + 8 * np.exp(-x / 200))
    raw = Points(x, loss.y.copy())
    raw.y[12_000] = 9.0
    low, high = limits([loss], [raw], levels=[3.2924], start=beginning(loss))
    assert 2.9 < low < 3 < 3.2924 < high < 3.5


def test_the_y_axis_of_a_short_run_shows_all_of_it() -> None:
    loss = points([10.9, 9.0, 8.0, 7.5, 7.2])
    low, high = limits([loss], start=beginning(loss))
    assert low < 7.2 < 10.9 < high


@pytest.mark.parametrize("y", [[], [0.0], [2.5], [-1.0, -1.0]])
@pytest.mark.parametrize("floor", [None, 0.0])
def test_a_y_axis_has_a_height(y: list[float], floor: float | None) -> None:
    low, high = limits([points(y)], floor=floor)
    assert low < high


def test_what_lies_only_in_the_beginning_is_shown_all_the_same() -> None:
    low, high = limits([points([5.0, 4.0])], start=1_000)
    assert low < 4 < 5 < high


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9), st.integers(2, 12), st.booleans())
def test_ticks_are_few_within_the_axis_and_evenly_apart(low: float, width: float, at_most: int, whole: bool) -> None:
    high = low + width
    if not high - low > 1e-9 * abs(low):
        return
    found = ticks(low, high, at_most, whole)
    assert len(found) <= at_most
    slack = 1e-9 * max(abs(low), abs(high))
    assert all(low - slack <= tick <= high + slack for tick in found)
    if whole:
        assert all(tick == int(tick) for tick in found)
    if len(found) > 2:
        np.testing.assert_allclose(np.diff(found), found[1] - found[0], rtol=1e-3)


@pytest.mark.parametrize(
    ("axis", "highest", "label", "size"),
    [
        ("step", 19_073, "Step", 1),
        ("tokens", 512, "Tokens", 1),
        ("tokens", 10e9, "Tokens, billions", 1e9),
        ("time", 50, "Time, seconds", 1),
        ("time", 5_400, "Time, minutes", 60),
        ("time", 30_000, "Time, hours", 3_600),
        ("time", 400_000, "Time, days", 86_400),
        ("flops", 8.6e18, "Training FLOPs × 10¹⁸", 1e18),
    ],
)
def test_an_axis_has_the_unit_that_its_numbers_are_short_in(axis: str, highest: float, label: str, size: float) -> None:
    unit = unit_of(axis, highest)  # type: ignore[arg-type]
    assert unit.label == label
    assert unit.size == pytest.approx(size)


def test_small_numbers_get_powers_of_ten_and_large_ones_words() -> None:
    assert in_powers("", 6e-4).label == "× 10⁻⁴"
    assert in_powers("Norm", 1.5).label == "Norm"
    assert in_powers("", 0.0).size == 1
    assert in_thousands("Tokens/s", 174_000).label == "Tokens/s, thousands"


def test_a_raster_draws_a_line_in_dots_or_in_ascii() -> None:
    raster = Raster(4, 2)
    raster.line(np.array([0.0, 1.0]), np.array([0.0, 1.0]), owner=3)

    def rows(plain: bool) -> list[str]:
        return ["".join(raster.character(row, column, plain) for column in range(4)) for row in range(2)]

    assert rows(plain=False) == ["  ⡠⠊", "⡠⠊  "]
    assert rows(plain=True) == ["  .'", ".'  "]
    assert raster.owners.tolist() == [[NOBODY, NOBODY, 3, 3], [3, 3, NOBODY, NOBODY]]


def test_what_lies_outside_of_a_raster_is_cut_off() -> None:
    raster = Raster(10, 4)
    raster.line(np.array([-1.0, 2.0]), np.array([50.0, 60.0]), owner=0)
    raster.mark(0.5, 1.5, "x", 0)
    assert (raster.owners == NOBODY).all()
