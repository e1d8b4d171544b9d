"""The completions of `gpt generate --file` until all are there: OUTPUT.part, which the same call goes on behind.

Its first line tells which call it belongs to; each completion is a line, written as soon as it is there.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from gptcli.errors import UsageError


@contextmanager
def held(part: Path) -> Iterator[None]:
    """Nobody else writes `part` meanwhile. Raises UsageError where somebody does."""
    lock = FileLock(f"{part}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise UsageError(f"Another gpt generate is writing {part}.", "Wait, or name another --output.") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows removes it by itself, once it is released
            Path(lock.lock_file).unlink()
        lock.release()


def resume(part: Path, header: Mapping[str, Any], total: int) -> set[int]:
    """The prompts whose completions `part` holds already, which is begun where it is not there. A line that was not
    written to its end is taken away. Raises UsageError where it belongs to another call."""
    if not part.exists():
        part.write_bytes(json.dumps(header).encode() + b"\n")
        return set()
    with part.open("r+b") as file:
        told = _whole_lines(file)
        first = next(told, None)
        if first != header:
            differs = ", ".join(
                name for name in header if not isinstance(first, dict) or first.get(name) != header[name]
            )
            raise UsageError(
                f"{part} was begun by another call: it differs in {differs}.",
                f"Give that call again, or remove {part}.",
            )
        done = {row["index"] for row in told if isinstance(row, dict) and row.get("index") in range(total)}
        file.truncate()
    return done


def _whole_lines(file: BinaryIO) -> Iterator[object]:
    """The values of the lines up to the first that is not whole, before which the file then stands."""
    while True:
        at = file.tell()
        line = file.readline()
        try:
            value = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            value = None
        if value is None:
            file.seek(at)
            return
        yield value


def publish(part: Path, output: Path) -> None:
    """All completions in the order of their prompts, under the file's own name."""
    from gptcli.data.durable import write_bytes

    _, *rows = part.read_text(encoding="utf-8").splitlines()
    in_order = dict(sorted((int(json.loads(row)["index"]), row) for row in rows))
    write_bytes(output, "".join(f"{row}\n" for row in in_order.values()).encode())
    part.unlink()
