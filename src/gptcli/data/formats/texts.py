"""Texts put together: one after another with their ends, those that are not UTF-8 replaced or left out."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gptcli.data.slices import Problem, Reading, Texts

UTF16_HINT = "It looks like UTF-16: convert it to UTF-8."


@dataclass(frozen=True)
class Loaded:
    """A part whose texts were read when it was planned, as for files that can only be read in order."""

    texts: Texts

    def read(self, reading: Reading) -> Texts:
        """Its texts."""
        return self.texts


def ends_of(texts: Sequence[bytes]) -> npt.NDArray[np.int64]:
    """Where each text ends when they stand one after another, in bytes."""
    return np.cumsum(np.fromiter(map(len, texts), dtype=np.int64, count=len(texts)), dtype=np.int64)


def is_utf8(data: bytes | memoryview, ends: npt.NDArray[np.int64]) -> bool:
    """Whether each text is valid by itself; Arrow tells without an object for every text."""
    offsets = pa.py_buffer(np.concatenate((np.zeros(1, dtype=np.int64), ends)))
    try:
        pa.Array.from_buffers(pa.large_string(), len(ends), [None, offsets, pa.py_buffer(data)]).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def judged(
    data: bytes | memoryview, ends: npt.NDArray[np.int64], reading: Reading, number: Callable[[int, int], int]
) -> tuple[bytes | memoryview, npt.NDArray[np.int64], list[Problem]]:
    """The texts in valid UTF-8, their ends, and a problem for each that was not.

    number(text, place): by what number a problem at that byte of that text is told.
    """
    if is_utf8(data, ends):
        return data, ends, []
    kept: list[bytes] = []
    problems = []
    begin = 0
    for index, end in enumerate(ends.tolist()):
        text = bytes(data[begin:end])
        begin = end
        try:
            text.decode("utf-8")
        except UnicodeDecodeError as error:
            problems.append(not_utf8(number(index, error.start), text, reading))
            if reading.on_error is not None:
                continue
            text = text.decode("utf-8", errors="replace").encode("utf-8")
        kept.append(text)
    return b"".join(kept), ends_of(kept), problems


def not_utf8(number: int, begin: bytes, reading: Reading) -> Problem:
    """The problem of a text that begins with `begin` and is not UTF-8."""
    hint = UTF16_HINT if is_utf16(begin) else "Convert it to UTF-8."
    return Problem(number, "bytes that are not UTF-8", hint, replaced=reading.on_error is None)


def is_utf16(begin: bytes) -> bool:
    """Whether it begins with the byte-order mark of UTF-16."""
    return begin.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
