"""The tokens of one split, running on from file to file, read by position."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gptcli.data.order import Indices
from gptcli.data.shard_format import ShardError, ShardHeader, check_written, open_shard
from gptcli.errors import UserError

# macOS lets a process have 256 files open. Where reads can't be positioned (Windows, which also lets nobody replace
# a file that is open), a file is opened for every read.
MOST_OPEN = 128 if hasattr(os, "pread") else 0


class TokenStream:
    """The tokens of the shards of one split, in a row.

    Reads are positioned and touch only what they return: a memory map would let the resident size grow to the whole
    set. Of a shard a name, an end and a layout are kept, 30 bytes or so; of files at most `MOST_OPEN` stay open, which
    a pickled or copied stream opens anew. Threads may share a stream.

    headers: what the files in `folder` of these `names` hold. checked: that this has been seen; otherwise the files are
    expected to be as the pipeline writes them, and each is checked when it is first read.
    """

    def __init__(self, folder: Path, names: Sequence[str], headers: Sequence[ShardHeader], *, checked: bool) -> None:
        layouts = {(header.offset, header.dtype): 0 for header in headers}
        self._layouts = tuple(layouts)
        layouts.update((layout, number) for number, layout in enumerate(self._layouts))
        self._layout_of = np.array([layouts[header.offset, header.dtype] for header in headers], dtype=np.uint16)
        self._ends: Indices = np.cumsum([header.tokens for header in headers], dtype=np.int64)
        self._folder = f"{folder}{os.sep}"
        self._names: npt.NDArray[np.bytes_] = np.array([os.fsencode(name) for name in names], dtype=np.bytes_)
        self._checked = np.full(len(names), checked)
        self._open = _OpenFiles()

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._ends.size else 0

    @property
    def files(self) -> Iterator[tuple[Path, ShardHeader]]:
        """Every file with what it holds, in order."""
        return ((self._path(shard), self._header(shard)) for shard in range(self._ends.size))

    def file_of(self, position: int) -> Path:
        """The file that holds the token at `position`."""
        return self._path(self._shard_of(position))

    def read(self, start: int, count: int) -> Indices:
        """Tokens start … start + count as an int64 array of its own.

        Raises IndexError past the end of the stream, UserError naming the shard where a file can't be read, is damaged
        or is of another size than it was.
        """
        if start < 0 or count < 0 or start + count > len(self):
            raise IndexError(f"tokens {start} to {start + count} of a stream of {len(self)}")
        out = np.empty(count, dtype=np.int64)
        filled = 0
        shard = self._shard_of(start)
        while filled < count:
            end = int(self._ends[shard])
            here = min(count - filled, end - (start + filled))
            if here:
                out[filled : filled + here] = self._tokens(shard, end - (start + filled), here)
            filled += here
            shard += 1
        return out

    def _shard_of(self, position: int) -> int:
        return int(self._ends.searchsorted(position, side="right"))

    def _path(self, shard: int) -> Path:
        return Path(self._place(shard))

    def _place(self, shard: int) -> str:
        """The path as a string: to make a Path takes longer than to read a window."""
        return self._folder + os.fsdecode(self._names[shard])

    def _header(self, shard: int) -> ShardHeader:
        offset, dtype = self._layouts[self._layout_of[shard]]
        return ShardHeader(offset, int(self._ends[shard]) - (int(self._ends[shard - 1]) if shard else 0), dtype)

    def _tokens(self, shard: int, from_end: int, count: int) -> npt.NDArray[Any]:
        """`count` tokens of one shard, of which the first is `from_end` tokens before its end."""
        header = self._header(shard)
        position = header.file_size - from_end * header.dtype.itemsize
        try:
            content = self._bytes(shard, header, position, count * header.dtype.itemsize)
        except ShardError as error:
            raise UserError(
                f"The shard {self._path(shard)} {error}.", "Copy it again from where it came from, and start again."
            ) from error
        except OSError as error:
            raise UserError(
                f"The shard {self._path(shard)} can't be read: {error.strerror or error}.",
                "Put it back, or see to the disk that it is on, and start again.",
            ) from error
        return np.frombuffer(content, dtype=header.dtype)

    def _bytes(self, shard: int, header: ShardHeader, position: int, count: int) -> bytes:
        """Bytes of one shard. Raises OSError and ShardError; by what is still open only if opening anew does so too."""
        if opened := self._open.get(shard):
            with contextlib.suppress(OSError):  # a network file system may have lost it
                status = os.fstat(opened.number)
                # Without links it was removed, or another took its name.
                if status.st_size == header.file_size and status.st_nlink:
                    content = _read_at(opened.number, position, count)
                    if len(content) == count:
                        return content
        opened = self._open_checked(shard, header)
        content = _read_at(opened.number, position, count)
        if len(content) < count:
            raise ShardError("became shorter while it was read")
        self._open.keep(shard, opened)
        return content

    def _open_checked(self, shard: int, header: ShardHeader) -> _Descriptor:
        path = self._place(shard)
        try:
            opened = _Descriptor(open_shard(path))
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            self._open.clear()
            opened = _Descriptor(open_shard(path))
        if not self._checked[shard]:
            check_written(path, opened.number, header.tokens, header.dtype)
            self._checked[shard] = True
        size = os.fstat(opened.number).st_size
        if size != header.file_size:
            kind = "shorter" if size < header.file_size else "longer"
            raise ShardError(f"has become {kind} since it was checked: {size:,} bytes, not {header.file_size:,}")
        return opened


class _Descriptor:
    """An open file, closed with the last reference: it stays open for who reads while another lets go of it."""

    _close = staticmethod(os.close)  # still there when the interpreter takes modules apart

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        self._close(self.number)


class _OpenFiles:
    """The descriptors that were used last. Pickles and copies as an empty one."""

    def __init__(self) -> None:
        self._by_shard: OrderedDict[int, _Descriptor] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[_OpenFiles], tuple[()]]:
        return _OpenFiles, ()

    def get(self, shard: int) -> _Descriptor | None:
        with self._lock:
            if shard in self._by_shard:
                self._by_shard.move_to_end(shard)
            return self._by_shard.get(shard)

    def keep(self, shard: int, opened: _Descriptor) -> None:
        with self._lock:
            self._by_shard[shard] = opened
            self._by_shard.move_to_end(shard)
            while len(self._by_shard) > MOST_OPEN:
                self._by_shard.popitem(last=False)

    def clear(self) -> None:
        with self._lock:
            self._by_shard.clear()


def _read_at(descriptor: int, position: int, count: int) -> bytes:
    """Bytes from `position` on, fewer only at the end of the file. Raises OSError."""
    parts = []
    while count:
        if hasattr(os, "pread"):
            part = os.pread(descriptor, count, position)
        else:
            os.lseek(descriptor, position, os.SEEK_SET)
            part = os.read(descriptor, count)
        if not part:
            break
        parts.append(part)
        position += len(part)
        count -= len(part)
    return b"".join(parts)
