"""Columns of texts, as Arrow holds them, cut into slices of whole rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gptcli.data import slices
from gptcli.data.formats.texts import Loaded, judged
from gptcli.data.slices import Part, Problem, Reading, Texts

NullReason = Callable[[int], tuple[str, str]]  # of a row without text, by its number in the file: reason and hint


def null_reason(reading: Reading) -> NullReason:
    """Why a row has no text where the column is null."""
    told = f"'{reading.text_column}' is null", "Give --on-error skip to leave such rows out."
    return lambda row: told


def large_binary(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """The texts of a column as bytes, whatever kind of text column it is, without a check whether they are UTF-8."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    column = column.cast(pa.large_binary())
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    return column


def ends_of_rows(array: pa.Array) -> npt.NDArray[np.int64]:
    """Where each text of a large_binary array ends, counted from where its first begins."""
    offsets = _offsets(array)
    ends: npt.NDArray[np.int64] = offsets[1:] - offsets[0]
    return ends


def texts_of(array: pa.Array, reading: Reading, reason: NullReason, row: int = 0) -> Texts:
    """The texts of a large_binary array whose first row has the number `row` in the file."""
    missing = np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False)) if array.null_count else np.empty(0, int)
    problems = [Problem(number, *reason(row + number)) for number in missing.tolist()]
    units = len(array)
    if problems:
        present = np.setdiff1d(np.arange(units), missing)
        array = array.drop_null()
    data, ends = _content(array)

    def number(text: int, _: int) -> int:
        return int(present[text]) if problems else text

    data, ends, undecodable = judged(data, ends, reading, number)
    told = tuple(sorted([*problems, *undecodable], key=lambda problem: problem.number))
    return Texts(data, ends, units=units, unit="row", problems=told)


def in_slices(
    arrays: Iterable[tuple[pa.Array, int]], size: int, reading: Reading, reason: NullReason
) -> Iterator[tuple[Part, int]]:
    """Loaded parts that end with the first row at which they hold SLICE_BYTES, however the rows come in arrays.

    With each large_binary array comes how far into the file of `size` bytes it reaches.
    """
    held: list[pa.Array] = []
    held_bytes = row = 0
    for array, position in arrays:
        weights = ends_of_rows(array) + 8 * np.arange(1, len(array) + 1)  # the ends take room too
        begin, passed = 0, 0
        while (stop := int(np.searchsorted(weights, passed + slices.SLICE_BYTES - held_bytes)) + 1) <= len(array):
            held.append(array.slice(begin, stop - begin))
            part = _loaded(held, reading, reason, row)
            row += part.texts.units
            yield part, position
            held, held_bytes = [], 0
            begin, passed = stop, int(weights[stop - 1])
        if begin < len(array):
            held.append(array.slice(begin))
            held_bytes += int(weights[-1]) - passed
    yield _loaded(held, reading, reason, row), size


def detached(texts: Texts) -> Loaded:
    """The texts as a part, with bytes of their own in place of a view of Arrow's."""
    data = texts.data if isinstance(texts.data, bytes) else texts.data.tobytes()
    return Loaded(Texts(data, texts.ends.copy(), texts.continues, texts.units, texts.unit, texts.problems))


def _loaded(arrays: list[pa.Array], reading: Reading, reason: NullReason, row: int) -> Loaded:
    array = pa.concat_arrays(arrays) if arrays else pa.array([], type=pa.large_binary())
    return detached(texts_of(array, reading, reason, row))


def _content(array: pa.Array) -> tuple[bytes | memoryview, npt.NDArray[np.int64]]:
    """The bytes of all texts and where each ends, without a copy."""
    ends = ends_of_rows(array)
    data = array.buffers()[2]
    if data is None or not len(array):
        return b"", ends
    begin = int(_offsets(array)[0])
    return memoryview(data)[begin : begin + int(ends[-1])], ends


def _offsets(array: pa.Array) -> npt.NDArray[np.int64]:
    offsets: npt.NDArray[np.int64] = np.frombuffer(array.buffers()[1], dtype=np.int64)
    return offsets[array.offset : array.offset + len(array) + 1]
