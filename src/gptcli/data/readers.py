"""Files to documents. A new format is one function here and its line in READERS."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptcli.errors import Fault, UserError, nearest

_CHUNK = 2**20  # bytes
_ROWS = 256  # of a Parquet file at a time


@dataclass(frozen=True)
class Reading:
    """How files are read: where their text is, and at what .txt and .md files are cut into documents."""

    text_column: str
    separator: str | None


def read_text(path: Path, reading: Reading) -> Iterator[str]:
    """The documents of a text file: one, or with a separator the pieces between, less an empty one at the end.

    Bytes that are not UTF-8 become U+FFFD, a byte-order mark is dropped, line ends stay as they are.
    """
    if reading.separator is None:
        yield path.read_bytes().decode("utf-8-sig", errors="replace")
    else:
        yield from _cut(path, reading.separator)


def read_jsonl(path: Path, reading: Reading) -> Iterator[str]:
    """The text of every JSON object, one a line; blank lines are passed over."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if line.strip():
                yield _text_of(line, reading.text_column, f"{path}, line {number:,}")


def read_parquet(path: Path, reading: Reading) -> Iterator[str]:
    """The text of every row; only its column is read."""
    import pyarrow as pa

    row = 0
    try:
        with _parquet(path) as file:
            for batch in file.iter_batches(batch_size=_ROWS, columns=[reading.text_column]):
                for text in _strings(batch.column(0)):
                    row += 1
                    if text is None:
                        raise UserError(
                            f"{path}, row {row:,}: '{reading.text_column}' is null.", "Leave such rows out."
                        )
                    yield text
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


READERS: dict[str, Callable[[Path, Reading], Iterator[str]]] = {
    ".txt": read_text,
    ".md": read_text,
    ".jsonl": read_jsonl,
    ".parquet": read_parquet,
}


def parquet_fault(path: Path, text_column: str) -> Fault | None:
    """What keeps the column from being read, as far as the file's footer tells."""
    import pyarrow as pa

    try:
        with _parquet(path) as file:
            schema = file.schema_arrow
    except (pa.ArrowException, OSError) as error:
        return _unreadable(path, error).faults[0]
    if text_column not in schema.names:
        return missing_column(str(path), text_column, schema.names)
    kind = schema.field(text_column).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        return Fault(f"The column '{text_column}' of {path} holds {kind}, not text.", "Give --text-column.")
    return None


def parquet_text_bytes(path: Path, text_column: str) -> int:
    """About how many bytes of text the column has, by the file's footer."""
    with _parquet(path) as file:
        metadata = file.metadata
        groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
        columns = (group.column(number) for group in groups for number in range(group.num_columns))
        return sum(chunk.total_uncompressed_size for chunk in columns if chunk.path_in_schema == text_column)


def missing_column(where: str, text_column: str, columns: list[str]) -> Fault:
    """The fault of a text column that is not among `columns`, the likeliest of them first."""
    close = nearest(text_column, columns)
    listed = ", ".join(sorted(columns, key=lambda name: name != close))
    return Fault(f"{where} has no column '{text_column}'.", f"Give --text-column; the columns are: {listed}.")


def _cut(path: Path, separator: str) -> Iterator[str]:
    """The pieces between separators, holding no more than the longest piece and a chunk."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")(errors="replace")
    held, searched = "", 0  # no separator begins in held[:searched]
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            held += decoder.decode(chunk)
            begin = 0
            while (end := held.find(separator, max(begin, searched))) >= 0:
                yield held[begin:end]
                begin = end + len(separator)
            held = held[begin:]
            searched = max(0, len(held) - len(separator) + 1)
    held += decoder.decode(b"", final=True)
    if held:
        yield held


def _text_of(line: bytes, column: str, where: str) -> str:
    try:
        row: Any = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "not UTF-8, or nested too deep"
        raise UserError(f"{where}: no valid JSON ({reason}).", "Every line is a JSON object of its own.") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: not a JSON object.", f'Every line is an object such as {{"{column}": "..."}}.')
    if column not in row:
        raise UserError(faults=[missing_column(where, column, list(row))])
    text = row[column]
    if not isinstance(text, str):
        raise UserError(
            f"{where}: '{column}' is {_kind(text)}, not text.", "Leave such lines out, or give --text-column."
        )
    return text


def _kind(value: object) -> str:
    names = {
        type(None): "null",
        bool: "a truth value",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "an object",
    }
    return names[type(value)]


def _parquet(path: Path) -> Any:
    from pyarrow import parquet

    return parquet.ParquetFile(path)


def _strings(column: Any) -> list[str | None]:
    import pyarrow as pa

    try:
        texts: list[str | None] = column.to_pylist()
    except UnicodeDecodeError:  # a writer that didn't check
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        raw = column.cast(kind).cast(pa.large_binary()).to_pylist()
        texts = [None if text is None else text.decode("utf-8", errors="replace") for text in raw]
    return texts


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
    return UserError(f"{path} can't be read as Parquet: {reason}.", "Copy it again, or leave it out.")
