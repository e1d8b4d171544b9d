"""What the sources are cut into: slices, each of which can be read by itself, anywhere and in any order.

How a file is cut depends on its content and the way of reading alone, never on who reads it or how many do.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

# Long enough that starting and checking costs nothing beside encoding, short enough to hold many in memory.
SLICE_BYTES = 4 * 2**20

Cuts = Literal["words", "characters", "none"]
OnError = Literal["stop", "skip"]


@dataclass(frozen=True)
class Reading:
    """How files are read.

    text_column: the column or key that holds the text. separator: at what plain text is cut into documents, None for a
    file that is one document. cuts: where a document may be cut without changing its ids: between an ASCII letter or
    digit and ASCII white space, between any two characters, or nowhere. on_error: what becomes of a document that
    can't be read; None stops at structural faults and replaces bytes that are not UTF-8.
    """

    text_column: str = "text"
    separator: str | None = None
    cuts: Cuts = "none"
    on_error: OnError | None = None


@dataclass(frozen=True)
class Problem:
    """A document that could not be read, or not as it stands.

    number: its line, row or item, counted from 0 at the beginning of the slice. replaced: it is there, with U+FFFD for
    bytes that are not UTF-8; otherwise it was left out.
    """

    number: int
    reason: str
    hint: str = ""
    replaced: bool = False


@dataclass(frozen=True)
class Texts:
    """The texts of a slice, as Arrow holds them: valid UTF-8, one after another, and where each ends.

    continues: the first text goes on with the document in which the slice before ended. units: lines, rows or items
    that the slice holds, faulty ones included, so that those of the next slice can be numbered.
    """

    data: bytes | memoryview
    ends: npt.NDArray[np.int64]
    continues: bool = False
    units: int = 0
    unit: Literal["line", "row", "item"] = "line"
    problems: tuple[Problem, ...] = ()


class Part(Protocol):
    """What is needed to read a slice: the place in a file, or the bytes themselves. It pickles."""

    def read(self, reading: Reading) -> Texts:
        """Its texts. Raises UserError where the file can't be read at all, as for one that is cut off."""


@dataclass(frozen=True)
class Slice:
    """A part of one file. `bytes`: its share of the file's size, so that the shares of a file add up to it."""

    path: Path
    part: Part
    bytes: int
    begins_file: bool


class Cursor(NamedTuple):
    """A place in the sources: slice `slice` of file `file`, both counted from 0."""

    file: int
    slice: int


BEGINNING = Cursor(0, 0)


@dataclass(frozen=True)
class Bundle:
    """Slices in a row that are worked on together; several where files are small.

    names: what messages call their files. at: the place of the first.
    """

    slices: tuple[Slice, ...]
    names: tuple[str, ...]
    reading: Reading
    at: Cursor

    @property
    def bytes(self) -> int:
        """Its share of the sources' size."""
        return sum(part.bytes for part in self.slices)
