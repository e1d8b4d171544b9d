"""CSV as RFC 4180 has it: a header, then a document a row, of one column."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Callable, Iterator
from contextlib import closing

import pyarrow as pa
from pyarrow import csv as arrow_csv

from gptcli.data import slices
from gptcli.data.formats.columns import in_slices
from gptcli.data.formats.compression import Stream
from gptcli.data.formats.faults import columns_hint, told
from gptcli.data.formats.source import Source
from gptcli.data.formats.texts import UTF16_HINT, is_utf16
from gptcli.data.slices import Part, Reading
from gptcli.errors import Fault, UserError

_LARGEST_BLOCK = 2**31 - 1  # bytes; what pyarrow.csv can take at once
_HEADER_BYTES = 2**18
_NO_ROW = "Empty CSV file"  # what pyarrow says of a first block with less than the header and a row
_BLOCK_TOO_SMALL = ("straddling", _NO_ROW)

Uneven = dict[int, str]  # rows with a number of fields that is not the header's, by their number from 0: how many


def plan(source: Source, reading: Reading) -> Iterator[tuple[Part, int]]:
    """Loaded parts: where a row ends can only be told from the file's beginning on, because of quotes."""
    found = fault(source, reading)
    if found:
        raise UserError(faults=[found])
    uneven: Uneven = {}

    def reason(row: int) -> tuple[str, str]:
        return uneven[row], "Texts with commas, quotes or line breaks stand in quotes."

    with told(source.path, "CSV"):
        yield from in_slices(_rows(source, reading.text_column, uneven), source.size, reading, reason)


def fault(source: Source, reading: Reading) -> Fault | None:
    """What the header tells."""
    with closing(source.open()) as stream:
        head = stream.read(_HEADER_BYTES)
    if is_utf16(head):
        return Fault(f"{source.path} can't be read as CSV.", UTF16_HINT)
    lines = io.StringIO(head.removeprefix(codecs.BOM_UTF8).decode("utf-8", errors="replace"), newline="")
    columns = next((row for row in csv.reader(lines) if row), [])
    if not columns:
        return Fault(f"{source.path} is empty.", "Its first line is to name the columns.")
    if reading.text_column not in columns:
        return Fault(
            f"{source.path} has no column '{reading.text_column}'.", columns_hint(reading.text_column, columns)
        )
    return None


def _rows(source: Source, column: str, uneven: Uneven) -> Iterator[tuple[pa.Array, int]]:
    """The column in arrays, null where a row is uneven; begun again with larger blocks where a row is too long."""
    block = min(4 * slices.SLICE_BYTES, _LARGEST_BLOCK)
    done = position = 0
    while True:
        row = 0
        try:
            for array, reached in _attempt(source, column, uneven, block):
                fresh = array.slice(max(0, done - row))
                row += len(array)
                position = max(position, reached)
                if len(fresh):
                    done = row
                    yield fresh, position
        except pa.ArrowInvalid as error:
            if not any(words in str(error) for words in _BLOCK_TOO_SMALL) or block == _LARGEST_BLOCK:
                raise
            block = min(4 * block, _LARGEST_BLOCK)
        else:
            return


def _attempt(source: Source, column: str, uneven: Uneven, block: int) -> Iterator[tuple[pa.Array, int]]:
    def note(row: arrow_csv.InvalidRow) -> str:
        plural = "" if row.actual_columns == 1 else "s"
        # pyarrow counts from 1 and the header too.
        uneven[row.number - 2] = f"{row.actual_columns:,} field{plural} where the header has {row.expected_columns:,}"
        return "skip"

    with closing(source.open()) as stream:
        blocks = _Blocks(stream)
        row = 0
        for number, batch in enumerate(_reader(blocks, column, block, note)):
            array = _with_nulls(batch.column(0), row, uneven)
            row += len(array)
            yield array, blocks.positions[min(number, len(blocks.positions) - 1)]
        rest = len([number for number in uneven if number >= row])
        yield pa.nulls(rest, pa.large_binary()), stream.position()


def _reader(
    blocks: _Blocks, column: str, block: int, note: Callable[[arrow_csv.InvalidRow], str]
) -> Iterator[pa.RecordBatch]:
    try:
        yield from arrow_csv.open_csv(
            pa.PythonFile(blocks, mode="r"),
            # One thread, so that rows are counted.
            read_options=arrow_csv.ReadOptions(use_threads=False, block_size=block),
            parse_options=arrow_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=note),
            convert_options=arrow_csv.ConvertOptions(
                include_columns=[column], column_types={column: pa.large_binary()}, strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        if _NO_ROW not in str(error) or blocks.length >= block:
            raise  # otherwise the file has a header, as `fault` has seen it, and no more


def _with_nulls(array: pa.Array, row: int, uneven: Uneven) -> pa.Array:
    """The array, which begins with the row of that number, with a null wherever an uneven row was left out.

    Uneven rows behind its last come with the next array, so that it doesn't matter how far the reader is ahead.
    """
    takes: list[int | None] = []
    taken = 0
    for number in sorted(number for number in uneven if number >= row):
        before = number - row - len(takes)  # rows up to this one
        if taken + before >= len(array):
            break
        takes += range(taken, taken + before)
        taken += before
        takes.append(None)
    if not takes:
        return array
    takes += range(taken, len(array))
    return array.take(pa.array(takes, type=pa.int64()))


class _Blocks:
    """A stream for pyarrow that notes how far into the file on disk it was after each block.

    No block ends between CR and LF: Arrow would drop the LF even inside quotes (apache/arrow issue 51368).
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.positions: list[int] = []
        self.length = 0
        self._held = b""

    @property
    def closed(self) -> bool:
        return self._stream.closed

    def read(self, size: int) -> bytes:
        data = self._held + self._stream.read(size - len(self._held))
        self._held = b""
        if data.endswith(b"\r") and len(data) == size:
            data, self._held = data[:-1], b"\r"
        self.positions.append(self._stream.position())
        self.length += len(data)
        return data
