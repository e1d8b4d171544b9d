"""Standard input, kept in a file, so that a call that was interrupted can go on without it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gptcli.data.durable import publish, temporary_name
from gptcli.data.output import SOURCES_FOLDER

_CHUNK = 2**20
_NAME = "stdin.txt"


@dataclass(frozen=True)
class StandardInput:
    """What came in: the file that holds it, its size, and the checksum of its content."""

    path: Path
    bytes: int
    sha256: str


def keep(stream: BinaryIO, folder: Path, *, look_only: bool) -> StandardInput:
    """Read `stream` to its end and keep it in `folder`. Where it is a terminal or empty, what an interrupted call has
    kept there is the input.

    look_only: `folder` holds tokens of the input already, and it is only to be compared; nothing is written.
    """
    path = folder / SOURCES_FOLDER / _NAME
    if path.exists() and stream.isatty():
        return _kept(path)
    if look_only:
        given = _looked_at(path, _chunks(stream))
        return given if given.bytes or not path.exists() else _kept(path)
    path.parent.mkdir(exist_ok=True)
    try:
        with temporary_name(path).open("wb") as file:
            given = _looked_at(path, _written(stream, file))
            if given.bytes or not path.exists():
                publish(file, path)
                return given
    finally:
        temporary_name(path).unlink(missing_ok=True)
    return _kept(path)


def forget(folder: Path) -> None:
    """Remove what was kept."""
    (folder / SOURCES_FOLDER / _NAME).unlink(missing_ok=True)


def _kept(path: Path) -> StandardInput:
    with path.open("rb") as file:
        return _looked_at(path, _chunks(file))


def _looked_at(path: Path, chunks: Iterator[bytes]) -> StandardInput:
    digest, size = hashlib.sha256(), 0
    for chunk in chunks:
        digest.update(chunk)
        size += len(chunk)
    return StandardInput(path, size, digest.hexdigest())


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    while chunk := stream.read(_CHUNK):
        yield chunk


def _written(stream: BinaryIO, file: BinaryIO) -> Iterator[bytes]:
    for chunk in _chunks(stream):
        file.write(chunk)
        yield chunk
