"""What a user is told of a file with rows and columns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import pyarrow as pa

from gptcli.data.formats.compression import cannot_be_read, reason_of
from gptcli.errors import Fault, UserError, nearest


def columns_hint(text_column: str, columns: list[str]) -> str:
    """What to do where the text column is not among `columns`, the likeliest of them first."""
    return _columns_hint(text_column, tuple(columns))


@lru_cache(maxsize=64)  # a file of a million lines without the key has one answer
def _columns_hint(text_column: str, columns: tuple[str, ...]) -> str:
    close = nearest(text_column, columns)
    listed = ", ".join(sorted(columns, key=lambda name: name != close))
    return f"Give --text-column; the columns are: {listed}."


def column_fault(path: Path, schema: pa.Schema, text_column: str) -> Fault | None:
    """What keeps the column from being read, as far as the schema tells."""
    if text_column not in schema.names:
        return Fault(f"{path} has no column '{text_column}'.", columns_hint(text_column, schema.names))
    kind = schema.field(schema.names.index(text_column)).type
    if not is_text(kind):
        return Fault(f"The column '{text_column}' of {path} holds {kind}, not text.", "Give --text-column.")
    return None


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds texts: strings, bytes, or references to them."""
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    checks = ("is_string", "is_large_string", "is_string_view", "is_binary", "is_large_binary", "is_binary_view")
    return any(getattr(pa.types, check)(value) for check in checks)


@contextmanager
def told(path: Path, kind: str) -> Iterator[None]:
    """Turns what pyarrow says of a file into what a user is told; `kind` is the format's name."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise cannot_be_read(path, error) from error
        raise UserError(
            f"{path} can't be read as {kind}: {reason_of(error)}.", "Copy it again, or leave it out."
        ) from error
