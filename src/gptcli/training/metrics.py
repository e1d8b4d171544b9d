"""`metrics.jsonl` and `samples.jsonl`: one JSON object a line, appended as the run goes."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gptcli.data.durable import write_bytes

METRICS, SAMPLES = "metrics.jsonl", "samples.jsonl"
_TAIL = 16_384  # bytes: some lines of any kind


class Log:
    """A file that grows by whole lines. Those that can't be written, as on a full disk, are kept until they can be."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._waiting: list[bytes] = []

    def append(self, row: dict[str, Any]) -> str:
        """Add one line; returns why it has to wait, where it is the first that does, else an empty string."""
        first = not self._waiting
        self._waiting.append((json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n").encode())
        try:
            append_bytes(self.file, b"".join(self._waiting))
        except OSError as error:
            return (error.strerror or str(error)) if first else ""
        self._waiting.clear()
        return ""


class Tail:
    """The rows of a file that somebody else makes longer. It is never kept open: its writer may replace it."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._read = 0  # bytes
        self._identity: tuple[int, int] | None = None  # of the file that they were read from

    def is_replaced(self) -> bool:
        """Whether what was read is no more: a run that is continued drops the lines past its checkpoint."""
        try:
            return self._is_another(self.file.stat())
        except OSError:
            return self._read > 0

    def rows(self) -> list[dict[str, Any]]:
        """Those whose lines have become whole since the last call; none of a file that took the place of the first, and
        none while there is no file, or its disk, one of another machine perhaps, is away for a moment."""
        try:
            with self.file.open("rb") as opened:
                status = os.fstat(opened.fileno())
                if self._is_another(status):
                    return []
                self._identity = (status.st_dev, status.st_ino)
                opened.seek(self._read)
                content = opened.read()
        except OSError:
            return []
        whole = content[: content.rfind(b"\n") + 1]
        self._read += len(whole)
        return _rows(whole.decode("utf-8", errors="replace"))

    def _is_another(self, status: os.stat_result) -> bool:
        return self._identity not in (None, (status.st_dev, status.st_ino)) or status.st_size < self._read


def append_bytes(file: Path, content: bytes) -> None:
    """Add all of `content` to a file, or nothing. Raises OSError."""
    with file.open("ab", buffering=0) as opened:
        before = os.fstat(opened.fileno()).st_size
        try:
            if opened.write(content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            with contextlib.suppress(OSError):
                opened.truncate(before)
            raise


def read(file: Path) -> list[dict[str, Any]]:
    """The rows of a file, none where it is missing; a line that a crash cut off or spoiled is passed over."""
    return _rows(_text(file)) if file.exists() else []


def keep_rows(file: Path, wanted: Callable[[dict[str, Any]], bool]) -> None:
    """Drop the rows that are not `wanted`: what was logged past the checkpoint that a run resumes from."""
    if not file.exists():
        return
    before = _text(file)
    after = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in _rows(before) if wanted(row))
    if after != before:
        write_bytes(file, after.encode())


def _rows(text: str) -> list[dict[str, Any]]:
    rows = []
    for line in text.split("\n"):  # and at nothing else that Unicode has for line ends: a sample may hold those
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                rows.append(row)
    return rows


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace")


def last_step(run: Path) -> int:
    """The last step that the log of a run tells of, 0 where it tells of none. Reads the end of the file only."""
    file = run / METRICS
    if not file.exists():
        return 0
    with file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - _TAIL))
        rows = _rows(opened.read().decode("utf-8", errors="replace"))
    return max((row["step"] for row in rows), default=0)
