"""The bytes of an address to a file that is whole or not there, continued where an earlier call stopped."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from gptcli.data.retries import RETRIES, CutShortError, Retries, Told, retried
from gptcli.errors import UserError

CHUNK = 2**20  # bytes
_SPARE = 64 * 2**20  # bytes that are left free, since a full disk stops more than this program

# Takes the byte to begin at; gives the byte at which the chunks do begin (0 where the server knows no ranges).
OpenAt = Callable[[int], AbstractContextManager[tuple[int, Iterator[bytes]]]]


@dataclass(frozen=True)
class Place:
    """Where a file is put together: its name once it is whole, that of its beginning, and the lock of its writer."""

    whole: Path
    part: Path
    lock: Path


def transfer(
    open_at: OpenAt,
    place: Place,
    address: str,
    host: str,
    size: int | None,
    resumable: bool,
    told: Told | None = None,
    retries: Retries = RETRIES,
) -> Path:
    """The whole file, fetched unless it is there.

    size: the promised length in bytes, if known. resumable: whether the bytes are known to be those of an earlier call;
    otherwise they are fetched anew. Raises UserError for a full disk, a length other than `size` and what `retried`
    gives up on; failures of `open_at` that do not pass as they come.
    """
    try:
        for path in (place.whole, place.part, place.lock):
            path.parent.mkdir(parents=True, exist_ok=True)
        with _held(place.lock, address, told, retries):
            if resumable and is_whole(place.whole, size):
                return place.whole
            if not resumable:
                place.part.unlink(missing_ok=True)
            reached = [_length(place.part)]  # a try that begins anew makes no progress until it is past the last one

            def take() -> None:
                try:
                    _take(open_at, place.part, address, size, resumable, retries)
                finally:
                    reached.append(max(reached[-1], _length(place.part)))

            retried(take, address, host, told, retries, progress=lambda: reached[-1])
            place.part.replace(place.whole)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"{address}: the disk of {place.part.parent} is full.", "Make room, then start again."
            ) from error
        if error.filename is not None and error.strerror and not isinstance(error, FileNotFoundError):
            raise UserError(
                f"{error.filename} can't be written to: {error.strerror}.", "Is the folder yours?"
            ) from error
        raise
    return place.whole


def is_whole(path: Path, size: int | None) -> bool:
    """Whether the file is there, in its promised length."""
    return path.is_file() and (size is None or path.stat().st_size == size)


@contextmanager
def _held(path: Path, address: str, told: Told | None, retries: Retries) -> Iterator[None]:
    """One writer at a time, in all processes; the lock ends with its process."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if told is not None:
            told(f"another process is fetching {address}; waiting for it")
        while not lock.is_locked:
            retries.check()
            with suppress(Timeout):
                lock.acquire(timeout=0.5)
    try:
        yield
    finally:
        lock.release()


def _take(open_at: OpenAt, part: Path, address: str, size: int | None, resumable: bool, retries: Retries) -> None:
    """Bring the part to its full length, or raise."""
    begin = _length(part) if resumable else 0
    if size is not None and begin > size:
        begin = 0
    if size is not None and begin == size and part.exists():
        return
    if size is not None:
        _check_room(part.parent, size - begin, address)
    with open_at(begin) as (start, chunks), part.open("r+b" if part.exists() else "wb") as file:
        file.truncate(start)
        length = file.seek(start)
        for chunk in chunks:
            retries.check()
            length += file.write(chunk)
            if size is not None and length > size:
                break
        file.flush()
        os.fsync(file.fileno())
    if size is not None and length < size:
        raise CutShortError(f"{length} of {size} bytes")
    if size is not None and length > size:
        part.unlink()
        raise UserError(f"{address} has more than the {size:,} bytes that were promised.", "Start again.")


def _check_room(folder: Path, needed: int, address: str) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed + _SPARE:
        raise UserError(
            f"{address} needs {_gigabytes(needed)} and {folder} has {_gigabytes(free)} free.",
            "Make room, then start again: what was fetched is kept.",
        )


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
