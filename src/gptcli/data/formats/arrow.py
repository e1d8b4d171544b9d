"""Arrow: a document a row, in the format of a stream or of a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pyarrow as pa
from pyarrow import ipc

from gptcli.data.formats.columns import in_slices, large_binary, null_reason
from gptcli.data.formats.compression import Stream
from gptcli.data.formats.faults import column_fault, told
from gptcli.data.formats.source import Source
from gptcli.data.slices import Part, Reading
from gptcli.errors import Fault, UserError

# https://arrow.apache.org/docs/format/Columnar.html#ipc-file-format: these bytes, two of padding, then a stream.
_MAGIC = b"ARROW1"
_PADDED = 8
_CHUNK = 2**20  # bytes


def plan(source: Source, reading: Reading) -> Iterator[tuple[Part, int]]:
    """Loaded parts: where record batches lie, and how large they are, is only known by reading them."""
    with told(source.path, "Arrow"):
        schema, is_file = _schema(source)
        found = column_fault(source.path, schema, reading.text_column)
        if found:
            raise UserError(faults=[found])
        field = schema.names.index(reading.text_column)
        arrays = _of_file(source, field) if is_file else _of_stream(source, field)
        yield from in_slices(arrays, source.size, reading, null_reason(reading))


def fault(source: Source, reading: Reading) -> Fault | None:
    """What the schema tells, which stands first."""
    with told(source.path, "Arrow"):
        return column_fault(source.path, _schema(source)[0], reading.text_column)


def _schema(source: Source) -> tuple[pa.Schema, bool]:
    """The schema, and whether the file is in the format that can be sought in."""
    with closing(source.open()) as stream:
        is_file = stream.read(len(_MAGIC)) == _MAGIC
    with closing(source.open()) as stream:
        if is_file:
            stream.read(_PADDED)
        return _reader(stream).schema, is_file


def _of_stream(source: Source, field: int) -> Iterator[tuple[pa.Array, int]]:
    with closing(source.open()) as stream:
        for batch in _reader(stream, ipc.IpcReadOptions(included_fields=[field], use_threads=False)):
            yield large_binary(batch.column(0)), stream.position()
        # The end that a stream states may come before that of the file, which must be whole too.
        more = False
        while rest := stream.read(_CHUNK):
            more = more or bool(rest.strip(b"\0"))
        if more:
            raise pa.ArrowInvalid("something follows where its stream ends")


def _of_file(source: Source, field: int) -> Iterator[tuple[pa.Array, int]]:
    options = ipc.IpcReadOptions(included_fields=[field], use_threads=False)
    with source.seekable() as path, pa.OSFile(str(path)) as file:
        reader = ipc.open_file(file, options=options)
        for number in range(reader.num_record_batches):
            array = large_binary(reader.get_batch(number).column(0))
            yield array, source.size * (number + 1) // reader.num_record_batches


def _reader(stream: Stream, options: ipc.IpcReadOptions | None = None) -> ipc.RecordBatchStreamReader:
    return ipc.open_stream(pa.PythonFile(stream, mode="r"), options=options)
