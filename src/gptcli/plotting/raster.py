"""Lines on a grid of characters: of braille dots, 2 × 4 in a character, or in plain ASCII."""

from __future__ import annotations

import numpy as np

from gptcli.plotting.curves import Floats

_DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])  # Unicode's bits, from the top down
_BRAILLE = 0x2800
_HIGH, _WIDE = 4, 2
NOBODY = -1


class Raster:
    """A grid of `rows` × `columns` characters. What is drawn has an owner, a number from 0 on; where several owners
    meet in a character, it is the last one's."""

    def __init__(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self.owners = np.full((rows, columns), NOBODY)
        self._dots = np.zeros((rows * _HIGH, columns * _WIDE), bool)
        self._marks: dict[tuple[int, int], str] = {}

    def line(self, x: Floats, y: Floats, owner: int) -> None:
        """Join the points, whose coordinates go from 0 at the left and bottom to 1; what lies outside is cut off."""
        across, up = self._dots.shape[1] - 1, self._dots.shape[0] - 1
        x, y = x * across, np.clip(y, -2, 3) * up
        lengths = np.maximum(1, np.ceil(np.maximum(np.abs(np.diff(x)), np.abs(np.diff(y))))).astype(int)
        parts = [np.linspace((x[i], y[i]), (x[i + 1], y[i + 1]), n + 1) for i, n in enumerate(lengths)]
        for column, height in np.rint(np.concatenate([np.stack((x, y), 1), *parts])).astype(int):
            if 0 <= column <= across and 0 <= height <= up:
                self._dots[up - height, column] = True
                self.owners[(up - height) // _HIGH, column // _WIDE] = owner

    def mark(self, x: float, y: float, character: str, owner: int) -> None:
        """Put a character at a point, unless it lies outside or another mark is there."""
        row, column = self.row_of(y), round(x * (self.columns - 1))
        if 0 <= row < self.rows and 0 <= column < self.columns and (row, column) not in self._marks:
            self._marks[row, column] = character
            self.owners[row, column] = owner

    def row_of(self, y: float) -> int:
        """The row of characters at a height between 0 and 1; the uppermost is 0."""
        last = self.rows * _HIGH - 1
        return (last - round(y * last)) // _HIGH

    def character(self, row: int, column: int, plain: bool) -> str:
        """What is drawn in a place, a space where nothing is; `plain` is for ASCII."""
        if mark := self._marks.get((row, column)):
            return mark
        dots = self._dots[row * _HIGH : (row + 1) * _HIGH, column * _WIDE : (column + 1) * _WIDE]
        if not dots.any():
            return " "
        if not plain:
            return chr(_BRAILLE + int(_DOTS[dots].sum()))
        heights = np.flatnonzero(dots.any(axis=1))
        if len(heights) >= _HIGH - 1:
            return "|"
        return "'" if heights.mean() < 1 else "-" if heights.mean() <= 2 else "."
