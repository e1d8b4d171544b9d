"""Standard input, kept in a file, so that a call that was interrupted can go on without it."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gptcli.data.durable import publish, temporary_name
from gptcli.data.output import SOURCES_FOLDER
from gptcli.errors import UserError

_CHUNK = 2**20
_NAME = "stdin.txt"


@dataclass(frozen=True)
class StandardInput:
    """What came in: the file that holds it, its size, and the checksum of its content."""

    path: Path
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Enough:
    """When no more needs to be read: after so many documents, or bytes (`size`). None is never."""

    separator: bytes = b"\n"
    documents: int | None = None
    size: int | None = None

    def of(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The chunks up to there; a little more does no harm."""
        size = found = 0
        # Separators that overlap are counted each; so many cover the documents in any case.
        most = None if self.documents is None else (self.documents + 1) * len(self.separator)
        tail = b""
        for chunk in chunks:
            yield chunk
            size += len(chunk)
            if most is not None:
                found += (tail + chunk).count(self.separator)
                tail = chunk[1 - len(self.separator) :] if len(self.separator) > 1 else b""
                if found >= most:
                    return
            if self.size is not None and size >= self.size + _CHUNK:
                return


def keep(stream: BinaryIO, folder: Path, enough: Enough, *, look_only: bool) -> StandardInput:
    """Read `stream`, as far as it is needed, and keep it in `folder`. Where it is a terminal or empty, what an
    interrupted call has kept there is the input.

    look_only: `folder` holds tokens of the input already, and it is only to be compared; nothing is written. Raises
    UserError where the disk is full.
    """
    path = folder / SOURCES_FOLDER / _NAME
    if path.exists() and stream.isatty():
        return _kept(path)
    if look_only:
        given = _looked_at(path, enough.of(_chunks(stream)))
        return given if given.bytes or not path.exists() else _kept(path)
    path.parent.mkdir(exist_ok=True)
    try:
        with temporary_name(path).open("wb") as file:
            given = _looked_at(path, _written(enough.of(_chunks(stream)), file))
            if given.bytes or not path.exists():
                publish(file, path)
                return given
    except OSError as error:
        raise UserError(
            f"Standard input can't be kept in {folder}: {error.strerror or error}.",
            "Free some space, or give another --local-dir.",
        ) from error
    finally:
        temporary_name(path).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty: it serves the next call
            path.parent.rmdir()
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


def _written(chunks: Iterator[bytes], file: BinaryIO) -> Iterator[bytes]:
    for chunk in chunks:
        file.write(chunk)
        yield chunk
