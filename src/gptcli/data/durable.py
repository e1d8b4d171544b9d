"""Files that appear whole or not at all, and that a loss of power does not take back once they are there."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from pydantic import JsonValue

_TRIES = 20 if os.name == "nt" else 1
_SECONDS_BETWEEN_TRIES = 0.1


def temporary_name(path: Path) -> Path:
    """The hidden name under which `path` is written."""
    return path.with_name(f".{path.name.removeprefix('.')}.tmp")


def publish(file: BinaryIO, path: Path) -> None:
    """Close `file`, which was opened as `temporary_name(path)`, and give it its name once its bytes are on the disk."""
    file.flush()
    os.fsync(file.fileno())
    file.close()
    _replace(temporary_name(path), path)
    sync_folder(path.parent)


def _replace(source: Path, target: Path) -> None:
    """Give a file the name of another. Windows refuses that while somebody has this one open, as who watches a run has
    for a moment: then it is tried again for a while."""
    for _ in range(_TRIES - 1):
        try:
            source.replace(target)
        except PermissionError:
            time.sleep(_SECONDS_BETWEEN_TRIES)
        else:
            return
    source.replace(target)


def sync_folder(folder: Path) -> None:
    """Wait until the names in `folder` are on the disk."""
    if os.name == "posix":  # Windows can't open a folder, and writes the name by itself
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a small file in one go.

    A symbolic link stays, and the file that it points to is written. What can't be replaced, since it is no regular
    file (a pipe, a device) or this process' own standard output, is written into.
    """
    if (stream := _stream(path)) is not None:
        with stream:
            stream.write(content)
        return
    path = _target(path)
    try:
        with temporary_name(path).open("wb") as file:
            file.write(content)
            publish(file, path)
    except BaseException:
        temporary_name(path).unlink(missing_ok=True)
        raise


def check_writable(path: Path) -> None:
    """Raise the OSError that `write_bytes` would meet at once: no folder, no permission, a name that can't be."""
    if _is_stream(path):
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return
    trial = temporary_name(_target(path))
    trial.open("wb").close()
    trial.unlink()


def _target(path: Path) -> Path:
    """What a symbolic link points to; unlike `Path.resolve` this takes links that point to each other."""
    return Path(os.path.realpath(path))


def _is_stream(path: Path) -> bool:
    return _own_descriptor(path) is not None or (path.exists() and not stat.S_ISREG(path.stat().st_mode))


def _stream(path: Path) -> BinaryIO | None:
    """`path` opened to be written into, None for what is written whole under a name of its own."""
    descriptor = _own_descriptor(path)
    if descriptor is not None:
        return os.fdopen(os.dup(descriptor), "wb")  # opened by its name it would be cut to nothing
    return path.open("wb") if _is_stream(path) else None


def _own_descriptor(path: Path) -> int | None:
    """Which of standard output and standard error `path` is (/dev/stdout, or the file that it was redirected to)."""
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):  # there is no such file yet, or the descriptor is closed
            if os.path.samestat(path.stat(), os.fstat(descriptor)):
                return descriptor
    return None


def write_json(path: Path, data: Mapping[str, JsonValue]) -> None:
    """Write a JSON object, indented for people."""
    write_bytes(path, (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode("utf-8", errors="surrogateescape"))
