"""Compressed files as streams of what is in them. A file that is cut off or damaged is an error, never a short file."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

import pyarrow as pa

from gptcli.errors import UserError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

SUFFIXES = (".gz", ".zst", ".xz", ".bz2")

_BUFFER = 2**18  # bytes of the file on disk, read at a time


class Stream:
    """A file read in order, decompressed where its name says so.

    Raises UserError for a file that can't be opened, is cut off or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.closed = False
        with _told(path):
            self._file = path.open("rb", buffering=_BUFFER)
            try:
                self._content = _content(self._file, path.suffix.lower())
            except BaseException:
                self._file.close()
                raise

    def read(self, size: int) -> bytes:
        """The next `size` bytes, fewer only at the end."""
        with _told(self.path):
            data = self._content.read(size)
            while len(data) < size and (more := self._content.read(size - len(data))):
                data += more
        return data

    def position(self) -> int:
        """How far the file on disk has been read, in bytes."""
        return self._file.tell()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._content.close()
            self._file.close()


class _Reader(Protocol):
    def read(self, size: int, /) -> bytes: ...
    def close(self) -> object: ...


class _Decompressor(Protocol):
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...


def _content(file: BinaryIO, suffix: str) -> _Reader:
    if suffix not in SUFFIXES:
        return file
    if not file.read(1):
        raise EOFError("it is empty")  # gzip and zstandard would take it for an empty text
    file.seek(0)
    if suffix == ".gz":
        return gzip.GzipFile(fileobj=file, mode="rb")
    if suffix == ".zst":
        stream: _Reader = pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd")
        return stream
    return io.BufferedReader(_Streams(file, lzma.LZMADecompressor if suffix == ".xz" else bz2.BZ2Decompressor), _BUFFER)


class _Streams(io.RawIOBase):
    """What bz2 or xz streams hold, one stream after another, as parallel compressors write them.

    BZ2File and LZMAFile take damage where a later stream begins for the end of the file, and are silently short.
    """

    def __init__(self, file: BinaryIO, new: Callable[[], _Decompressor]) -> None:
        self._file = file
        self._new = new
        self._decompressor = new()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        data = self._next(len(view))
        view[: len(data)] = data
        return len(data)

    def _next(self, size: int) -> bytes:
        while True:
            given = b""
            if self._decompressor.eof:
                given = self._decompressor.unused_data.lstrip(b"\0")  # xz may pad a stream with zero bytes
                while not given:
                    chunk = self._file.read(_BUFFER)
                    if not chunk:
                        return b""
                    given = chunk.lstrip(b"\0")
                self._decompressor = self._new()
            elif self._decompressor.needs_input:
                given = self._file.read(_BUFFER)
                if not given:
                    raise EOFError("it ends in the middle")
            if data := self._decompressor.decompress(given, size):
                return data


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turns what goes wrong with the file into what a user is told."""
    try:
        yield
    except (EOFError, OSError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise cannot_be_read(path, error) from error
        raise UserError(f"{path} is cut off or damaged: {reason_of(error)}.", "Copy or download it again.") from error


def cannot_be_read(path: Path, error: OSError) -> UserError:
    """What a user is told where the system refuses a file."""
    return UserError(f"{path} can't be read: {error.strerror or error}.", "Is it still there, and are you allowed to?")


def reason_of(error: BaseException) -> str:
    """The first line of what a library says."""
    return str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
