"""The figure as text for a terminal of any width, in braille dots or in ASCII.

What is drawn is returned as spans of text with a style each: the number of a run, for its colour, or one of the names
below. Without colours curves are told apart by their marks: a run's number, and for a run alone a dot where something
was measured apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from gptcli.plotting.content import Content, Curve, Panel
from gptcli.plotting.raster import NOBODY, Raster
from gptcli.plotting.units import ticks

TEXT, STRONG, FAINT = "text", "strong", "faint"
Style = int | str
Line = list[tuple[str, Style]]

_WIDEST = 160  # columns; beyond that a curve gains nothing
_NARROWEST = 24
_SIDE_BY_SIDE = 36  # columns of a panel that has others beside it
_GAP = 2
_HIGH, _LOW = 14, 7  # rows of the first panel, and of the others
_MARKS = "123456789abcdefghijklmnopqrstuvwxyz"
_MARKS_APART, _DOTS_APART = 18, 5  # columns between two marks of a curve, or two of its measures that are marked
_COLUMNS_OF_TICK, _ROWS_OF_TICK = 11, 3


@dataclass(frozen=True)
class _Signs:
    """What axes, legends and lines to compare with are made of."""

    corner: str
    upright: str
    tick: str
    base: str
    base_tick: str
    dot: str
    levels: str
    is_plain: bool


_UNICODE = _Signs("└", "│", "┤", "─", "┬", "●", "╌┈", is_plain=False)
_ASCII = _Signs("+", "|", "+", "-", "+", "o", "=~", is_plain=True)
_IN_ASCII = str.maketrans(
    {"×": "x", "…": "~", **dict(zip("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789", strict=True))}
)  # fmt: skip


def draw(content: Content, width: int, plain: bool) -> list[Line]:
    """The lines of the figure, none wider than `width` (a terminal of less than 24 columns breaks them); `plain` draws
    with nothing but ASCII."""
    width = min(max(width, _NARROWEST), _WIDEST)
    signs = _ASCII if plain else _UNICODE
    first, *others = content.panels
    lines = [*_heading(content, width), [], *_draw_panel(first, content, width, _HIGH, signs)]
    columns = max(1, min(len(others), (width + _GAP) // (_SIDE_BY_SIDE + _GAP)))
    if others:
        columns = -(-len(others) // -(-len(others) // columns))  # as many in the last row as can be
    for start in range(0, len(others), columns):
        room = (width - _GAP * (columns - 1)) // columns
        row = [_draw_panel(panel, content, room, _LOW, signs) for panel in others[start : start + columns]]
        lines += [[], *_beside(row, room)]
    return [[(_plain(text), style) for text, style in line] for line in lines] if plain else lines


def _heading(content: Content, width: int) -> list[Line]:
    if content.title:
        return _wrapped([[(content.title, STRONG)], [(content.subtitle, FAINT)]], width)
    return _wrapped([[(f"{_mark(number)} {name}", number)] for number, name in enumerate(content.names)], width)


def _mark(run: int) -> str:
    return _MARKS[run % len(_MARKS)]


def _draw_panel(panel: Panel, content: Content, width: int, rows: int, signs: _Signs) -> list[Line]:
    """Title and legend, the curves between their axes, ticks and the unit of the x axis."""
    (low, high), (begin, end) = panel.limits, content.x_limits
    heights = {}
    for value, text in _labelled(ticks(low, high, max(2, rows // _ROWS_OF_TICK))):
        heights[Raster(1, rows).row_of((value - low) / (high - low))] = text
    margin = max((len(text) for text in heights.values()), default=0) + 1
    raster = Raster(max(1, width - margin - 1), rows)
    is_alone = len(content.names) == 1
    for curve in panel.curves:
        if len(curve.points):
            owner, mark = (curve.apart, signs.dot) if is_alone else (curve.run, _mark(curve.run))
            _draw_curve(raster, curve, (begin, end), (low, high), int(owner), mark)
    levels = {raster.row_of((shown.value - low) / (high - low)): sign
              for shown, sign in zip(panel.levels, signs.levels, strict=False)}  # fmt: skip
    lines: list[Line] = _legend(panel, content, width, signs)
    for row in range(rows):
        axis = f"{heights.get(row, ''):>{margin - 1}} {signs.tick if row in heights else signs.upright}"
        lines.append([(axis, FAINT), *_row(raster, row, levels.get(row, " "), signs.is_plain)])
    most = max(2, raster.columns // _COLUMNS_OF_TICK)
    places = {round((value - begin) / (end - begin) * (raster.columns - 1)): text
              for value, text in _labelled(ticks(begin, end, most, content.whole))}  # fmt: skip
    base = "".join(signs.base_tick if column in places else signs.base for column in range(raster.columns))
    lines.append([(" " * margin + signs.corner + base, FAINT)])
    lines.append([(" " * (margin + 1) + _tick_labels(places, raster.columns), FAINT)])
    lines.append([(f"{content.x:>{width}}", FAINT)])
    return lines


def _draw_curve(
    raster: Raster, curve: Curve, across: tuple[float, float], up: tuple[float, float], owner: int, mark: str
) -> None:
    """A line with its marks: those of several runs at different places, and a lone point wherever it is."""
    x = (curve.points.x - across[0]) / (across[1] - across[0])
    y = (curve.points.y - up[0]) / (up[1] - up[0])
    raster.line(x, y, owner)
    last = max(1, raster.columns - 1)
    if len(x) == 1:
        places = x
    elif mark == _mark(curve.run):
        places = np.arange((curve.run * 5) % _MARKS_APART, raster.columns, _MARKS_APART) / last
    elif curve.apart:
        places = x[np.diff(np.floor(x * last / _DOTS_APART), prepend=-1) > 0]
    else:
        return
    for place in places[(places >= x[0]) & (places <= x[-1])]:
        raster.mark(float(place), float(np.interp(place, x, y)), mark, owner)


def _row(raster: Raster, row: int, empty: str, plain: bool) -> Line:
    """A row of characters in spans of one owner; `empty` fills what nothing is drawn in."""
    line: Line = []
    for owner, columns in groupby(range(raster.columns), lambda column: int(raster.owners[row, column])):
        text = "".join(raster.character(row, column, plain) for column in columns)
        line.append((text.replace(" ", empty), FAINT) if owner == NOBODY else (text, owner))
    return line


def _legend(panel: Panel, content: Content, width: int, signs: _Signs) -> list[Line]:
    parts: list[Line] = [[(panel.title, STRONG)], [(f"{panel.unit[0].lower()}{panel.unit[1:]}", FAINT)]]
    shown = [curve for curve in panel.curves if len(curve.points)]
    if len(content.names) == 1 and len(shown) > 1:
        for curve in shown:
            sample = signs.dot if curve.apart else signs.base
            parts.append([(f"{signs.base}{sample}{signs.base} {curve.label}", int(curve.apart))])
    parts += [[(f"{sign}{sign} {level.label}", FAINT)] for level, sign in zip(panel.levels, signs.levels, strict=False)]
    return _wrapped(parts, width)


def _wrapped(parts: Iterable[Line], width: int) -> list[Line]:
    """The parts beside each other, as many as a line of `width` has room for."""
    lines: list[Line] = []
    room = 0
    for part in parts:
        length = sum(len(text) for text, _ in part)
        if not lines or length + 3 > room:
            lines.append([])
            room = width
        else:
            lines[-1].append(("   ", TEXT))
            room -= 3
        lines[-1] += _cut(part, width)
        room -= length
    return lines


def _cut(line: Line, width: int) -> Line:
    cut: Line = []
    for text, style in line:
        cut.append((text if len(text) <= width else f"{text[: width - 1]}…", style))
        width -= len(cut[-1][0])
        if width <= 0:
            break
    return cut


def _beside(panels: Sequence[list[Line]], width: int) -> list[Line]:
    """The lines of panels side by side, each in `width` columns, their axes at one height."""
    tallest = max(map(len, panels))
    padded: list[list[Line]] = [[[] for _ in range(tallest - len(lines))] + lines for lines in panels]
    joined = []
    for row in zip(*padded, strict=True):
        line: Line = []
        for number, part in enumerate(row):
            if number:
                line.append((" " * _GAP, TEXT))
            line += [*part, (" " * (width - sum(len(text) for text, _ in part)), TEXT)]
        joined.append(line)
    return joined


def _labelled(values: Sequence[float]) -> list[tuple[float, str]]:
    """Values with as many decimals as tell them apart."""
    apart = min(np.diff(values), default=1.0)
    decimals = max(0, -int(np.floor(np.log10(apart) + 1e-9)))
    return [(value, f"{value + 0.0:,.{decimals}f}") for value in values]


def _tick_labels(places: dict[int, str], width: int) -> str:
    """The labels beneath their ticks, as many as don't touch."""
    line = ""
    for column, text in places.items():
        start = min(max(0, column - len(text) // 2), width - len(text))
        if start >= len(line) + (1 if line else 0):
            line += " " * (start - len(line)) + text
    return line


def _plain(text: str) -> str:
    return text.translate(_IN_ASCII).encode("ascii", "replace").decode("ascii")
