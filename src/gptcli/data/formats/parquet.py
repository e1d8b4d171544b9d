"""Parquet: a document a row, of one column; the others are not read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from gptcli.data import slices
from gptcli.data.formats.columns import detached, in_slices, large_binary, null_reason, texts_of
from gptcli.data.formats.faults import column_fault, told
from gptcli.data.formats.source import Source
from gptcli.data.slices import Part, Reading, Texts
from gptcli.errors import Fault, UserError

_BUFFER = 2**20  # bytes of a column read at a time
_MAGIC = b"PAR1"


@dataclass(frozen=True)
class RowGroups:
    """Row groups first … stop - 1 of a file."""

    path: Path
    first: int
    stop: int

    def read(self, reading: Reading) -> Texts:
        """The texts of their rows."""
        with _opened(self.path, metadata=_footer(self.path)) as file:
            groups = list(range(self.first, self.stop))
            table = file.read_row_groups(groups, columns=[reading.text_column], use_threads=False)
            if not table.num_columns:
                raise UserError(f"{self.path} has no column '{reading.text_column}' any more.", "Start again.")
            return texts_of(large_binary(table.column(0)), reading, null_reason(reading))


def plan(source: Source, reading: Reading) -> Iterator[tuple[Part, int]]:
    """Row groups by reference, small ones together; those of files that had to be unpacked, and large ones, loaded."""
    with source.seekable() as path, _opened(path, source.path) as file:
        fault = column_fault(source.path, file.schema_arrow, reading.text_column)
        if fault:
            raise UserError(faults=[fault])
        sizes = column_sizes(file, reading.text_column)
        total = max(1, sum(sizes))
        reached = 0
        for first, stop in _together(sizes):
            part = RowGroups(path, first, stop)
            done, reached = reached, reached + sum(sizes[first:stop])
            if reached - done > 4 * slices.SLICE_BYTES:
                yield from _in_pieces(file, first, sizes, total, source, reading)
            else:
                yield detached(part.read(reading)) if source.compressed else part, source.size * reached // total


def fault(source: Source, reading: Reading) -> Fault | None:
    """What the footer tells; of a compressed file only whether it begins as Parquet does."""
    if source.compressed:
        with closing(source.open()) as stream:
            if stream.read(len(_MAGIC)) != _MAGIC:
                return Fault(f"{source.path} can't be read as Parquet: other magic bytes.", "Copy it again.")
        return None
    with _opened(source.path) as file:
        return column_fault(source.path, file.schema_arrow, reading.text_column)


def column_sizes(file: Any, text_column: str) -> list[int]:
    """The bytes of the column in each row group, uncompressed, by the file's footer."""
    metadata = file.metadata
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    if not groups:
        return []
    paths = [groups[0].column(number).path_in_schema for number in range(groups[0].num_columns)]
    number = paths.index(text_column)
    return [group.column(number).total_uncompressed_size for group in groups]


def _together(sizes: list[int]) -> Iterator[tuple[int, int]]:
    """Runs of row groups that hold no more than SLICE_BYTES or are single; one without any for a file without any."""
    first = held = 0
    for number, size in enumerate(sizes):
        if number > first and held + size > slices.SLICE_BYTES:
            yield first, number
            first, held = number, 0
        held += size
    yield first, len(sizes)


def _in_pieces(
    file: Any, group: int, sizes: list[int], total: int, source: Source, reading: Reading
) -> Iterator[tuple[Part, int]]:
    """A large row group, a few rows at a time."""
    rows = max(1, file.metadata.row_group(group).num_rows)
    before, size = sum(sizes[:group]), sizes[group]
    step = max(1, rows * slices.SLICE_BYTES // (4 * size))

    def arrays() -> Iterator[tuple[pa.Array, int]]:
        done = 0
        batches = file.iter_batches(step, row_groups=[group], columns=[reading.text_column], use_threads=False)
        for batch in batches:
            done += len(batch)
            yield large_binary(batch.column(0)), source.size * (before + size * done // rows) // total

    yield from in_slices(arrays(), source.size * (before + size) // total, reading, null_reason(reading))


@contextmanager
def _opened(path: Path, named: Path | None = None, metadata: Any = None) -> Iterator[Any]:
    """The file; what goes wrong with it is told of `named`, if that is not the same."""
    # Without a buffer size a whole column of a row group is read at once, pre-buffered even several.
    opened = partial(parquet.ParquetFile, metadata=metadata, buffer_size=_BUFFER, pre_buffer=False)
    with told(named or path, "Parquet"), opened(path) as file:
        yield file


def _footer(path: Path) -> Any:
    """What is read once for all parts of a file: of 700 row groups of nine columns it takes 8 ms, half of what encoding
    a slice takes."""
    with told(path, "Parquet"):
        return _footer_at(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _footer_at(path: Path, modified: int) -> Any:
    return parquet.read_metadata(path)
