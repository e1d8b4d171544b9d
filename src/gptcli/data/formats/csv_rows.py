"""CSV as RFC 4180 has it: a header, then a document a row, of one column."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow_csv

from gptcli.data import slices
from gptcli.data.formats.columns import large_binary, texts_of
from gptcli.data.formats.faults import columns_hint, told
from gptcli.data.formats.source import Held, Source, Span, View, begin_of_content
from gptcli.data.formats.texts import UTF16_HINT, is_utf16
from gptcli.data.slices import Part, Reading, Texts
from gptcli.errors import Fault, UserError

_FIELD = rb'(?:"[^"]*+(?:""[^"]*+)*+"[^,\r\n]*+|(?!")[^,\r\n]*+)'
_RECORDS = re.compile(rb"(?:" + _FIELD + rb"(?:," + _FIELD + rb")*+(?:\r\n?|\n))*+")
_HEADER = re.compile(rb"[\r\n]*+" + _FIELD + rb"(?:," + _FIELD + rb")*+[\r\n]")
_HEADER_BYTES = 2**17  # as long as the longest field that the csv module takes


@dataclass(frozen=True)
class Rows:
    """Whole rows of a file that has so many columns, the text in the one numbered `column`."""

    path: Path
    source: Span | Held
    columns: int
    column: int

    def read(self, reading: Reading) -> Texts:
        """The texts of the rows; one with another number of fields is a problem, a blank line is no row."""
        uneven: dict[int, int] = {}

        def note(row: arrow_csv.InvalidRow) -> str:
            uneven[row.number - 1] = row.actual_columns
            return "skip"

        def reason(row: int) -> tuple[str, str]:
            fields = f"{uneven[row]:,} field{'' if uneven[row] == 1 else 's'}"
            hint = "Texts with commas, quotes or line breaks stand in quotes."
            return f"{fields} where the header has {self.columns:,}", hint

        with told(self.path, "CSV"):
            texts = _parsed(self.source.load(), self, note)
        if uneven:
            missing = np.zeros(len(texts) + len(uneven), dtype=bool)
            missing[list(uneven)] = True
            texts = texts.take(pa.array(np.cumsum(~missing) - 1, mask=missing))
        return texts_of(texts, reading, reason)


def plan(source: Source, reading: Reading) -> Iterator[tuple[Part, int]]:
    """Parts of whole rows. All of the file is looked through: quotes tell which line breaks end a row."""
    with source.view() as view:
        header = _header(view, source, reading)
        start = header.end
        while True:
            size = slices.SLICE_BYTES
            while (stop := _end_of_rows(data := view.read(start, start + size))) == 0 and len(data) == size:
                size *= 2
            last = len(data) < size
            part = Rows(source.path, view.take(start, None if last else start + stop), header.columns, header.column)
            if last:
                yield part, source.size
                return
            start += stop
            yield part, view.forget(start)


def fault(source: Source, reading: Reading) -> Fault | None:
    """What the header tells."""
    with source.view() as view:
        try:
            _header(view, source, reading)
        except UserError as error:
            return error.faults[0]
    return None


@dataclass(frozen=True)
class _Header:
    columns: int
    column: int
    end: int  # where the rows begin, or the line break before them


def _header(view: View, source: Source, reading: Reading) -> _Header:
    """Where the text is. Raises UserError where there is none."""
    begin = begin_of_content(view)
    data = view.read(begin, begin + _HEADER_BYTES)
    if is_utf16(data):
        raise UserError(f"{source.path} can't be read as CSV.", UTF16_HINT)
    found = _HEADER.match(data if len(data) == _HEADER_BYTES else data + b"\n")
    line = data[: found.end()].decode("utf-8", errors="replace").strip("\r\n") if found else ""
    names = next(csv.reader(io.StringIO(line, newline="")), [])
    if not found or not names:
        raise UserError(f"{source.path} has no line that names its columns.", "Let it begin with such a line.")
    if reading.text_column not in names:
        hint = columns_hint(reading.text_column, names)
        raise UserError(f"{source.path} has no column '{reading.text_column}'.", hint)
    return _Header(len(names), names.index(reading.text_column), begin + min(found.end(), len(data)))


def _end_of_rows(data: bytes) -> int:
    """Where the last row ends that ends in `data`, which begins with one; 0 where none does."""
    if b'"' not in data:
        return max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
    rows = _RECORDS.match(data)
    return rows.end() if rows else 0


def _parsed(data: bytes, rows: Rows, note: Callable[[arrow_csv.InvalidRow], str]) -> pa.Array:
    """The column of the rows in `data`, as large_binary; `note` is told of rows that are left out."""
    if not data.strip(b"\r\n"):
        return pa.array([], type=pa.large_binary())
    column = str(rows.column)
    # Arrow would drop a byte-order mark at the beginning of any part; behind a blank line it is text.
    data = b"\n" + data
    table = arrow_csv.read_csv(
        pa.BufferReader(data),
        # One block: at the border of two, Arrow drops a line feed inside quotes (apache/arrow issue 51368). And one
        # thread, so that rows are counted.
        read_options=arrow_csv.ReadOptions(
            use_threads=False, block_size=len(data) + 1, column_names=[str(number) for number in range(rows.columns)]
        ),
        parse_options=arrow_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=note),
        convert_options=arrow_csv.ConvertOptions(
            include_columns=[column], column_types={column: pa.large_binary()}, strings_can_be_null=False
        ),
    )
    return large_binary(table.column(0))
