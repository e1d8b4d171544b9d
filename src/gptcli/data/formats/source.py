"""A file as the formats see it: a stream, a view of any part of it, or a file that can be sought in."""

from __future__ import annotations

import codecs
import io
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Protocol, Self

from gptcli.data.formats.compression import SUFFIXES, Stream, cannot_be_read
from gptcli.errors import UserError

BOM = codecs.BOM_UTF8

_CHUNK = 2**20  # bytes


@dataclass(frozen=True)
class Span:
    """Bytes of a file, by their place."""

    path: Path
    start: int
    stop: int

    def load(self) -> bytes:
        """The bytes. Raises UserError where there are fewer."""
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(self.start)
                data = _read_all(file, self.stop - self.start)
        except OSError as error:
            raise cannot_be_read(self.path, error) from error
        if len(data) < self.stop - self.start:
            raise UserError(f"{self.path} has become shorter while it was read.", "Start again when it is complete.")
        return data


@dataclass(frozen=True)
class Held:
    """Bytes that could only be had by reading all that precedes them."""

    data: bytes = field(repr=False)

    def load(self) -> bytes:
        """The bytes."""
        return self.data


class View(Protocol):
    """The content of a file, seen a part at a time, in the main from its beginning to its end."""

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from start to stop, fewer where the file ends."""

    def take(self, start: int, stop: int | None) -> Span | Held:
        """The same to be passed on; None is the file's end."""

    def forget(self, before: int) -> int:
        """What comes before will not be asked for again. How far into the file on disk that is, in bytes."""


def begin_of_content(view: View) -> int:
    """Where the text begins: behind a byte-order mark, if there is one."""
    return len(BOM) if view.read(0, len(BOM)) == BOM else 0


@dataclass(frozen=True)
class Source:
    """A file of `size` bytes on disk, whose suffix says whether it is compressed; `spool`: a folder to unpack it in."""

    path: Path
    size: int
    spool: Path

    @property
    def compressed(self) -> bool:
        return self.path.suffix.lower() in SUFFIXES

    def open(self) -> Stream:
        """Its content in order."""
        return Stream(self.path)

    def view(self) -> FileView | StreamView:
        """Its content a part at a time; nothing is opened before the first part is read. To be used with `with`."""
        return StreamView(self) if self.compressed else FileView(self)

    @contextmanager
    def seekable(self) -> Iterator[Path]:
        """A file with its content that can be sought in: itself, or one unpacked for as long as the block lasts."""
        if not self.compressed:
            yield self.path
            return
        with _unpacked(self) as path:
            yield path


class FileView:
    """A view that seeks."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def read(self, start: int, stop: int) -> bytes:
        stop = min(stop, self._source.size)
        return Span(self._source.path, start, stop).load() if stop > start else b""

    def take(self, start: int, stop: int | None) -> Span:
        return Span(self._source.path, start, self._source.size if stop is None else stop)

    def forget(self, before: int) -> int:
        return before


class StreamView:
    """A view that holds what it has read of a stream until it is forgotten."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._stream: Stream | None = None
        self._held = bytearray()
        self._begin = 0  # where the held bytes begin

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._stream is not None:
            self._stream.close()

    def read(self, start: int, stop: int) -> bytes:
        assert start >= self._begin, "bytes that were forgotten"
        while self._begin + len(self._held) < stop and self._more(stop - self._begin - len(self._held)):
            pass
        return bytes(memoryview(self._held)[start - self._begin : stop - self._begin])

    def take(self, start: int, stop: int | None) -> Held:
        return Held(self.read(start, sys.maxsize if stop is None else stop))

    def forget(self, before: int) -> int:
        while self._begin + len(self._held) < before:
            self._begin += len(self._held)
            self._held.clear()
            if not self._more(before - self._begin):
                break
        dropped = min(max(0, before - self._begin), len(self._held))
        del self._held[:dropped]
        self._begin += dropped
        return 0 if self._stream is None else self._stream.position()

    def _more(self, wanted: int) -> bool:
        if self._stream is None:
            self._stream = self._source.open()
        chunk = self._stream.read(min(wanted, _CHUNK))
        self._held += chunk
        return bool(chunk)


@contextmanager
def _unpacked(source: Source) -> Iterator[Path]:
    with ExitStack() as stack:
        try:
            source.spool.mkdir(parents=True, exist_ok=True)
            path = Path(stack.enter_context(TemporaryDirectory(dir=source.spool))) / source.path.stem
            with path.open("wb") as file, closing(source.open()) as stream:
                while chunk := stream.read(_CHUNK):
                    file.write(chunk)
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(
                f"{source.path} can't be unpacked into {source.spool}: {reason}.",
                "Make room there, or unpack it yourself.",
            ) from error
        yield path


def _read_all(file: io.FileIO, size: int) -> bytes:
    """The next `size` bytes: one call may give fewer, as on Linux at most 2 GiB."""
    data = file.read(size)
    while len(data) < size and (more := file.read(size - len(data))):
        data += more
    return data
