"""Files that appear whole or not at all, and that a loss of power does not take back once they are there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from pydantic import JsonValue


def temporary_name(path: Path) -> Path:
    """The hidden name under which `path` is written."""
    return path.with_name(f".{path.name.removeprefix('.')}.tmp")


def publish(file: BinaryIO, path: Path) -> None:
    """Close `file`, which was opened as `temporary_name(path)`, and give it its name once its bytes are on the disk."""
    file.flush()
    os.fsync(file.fileno())
    file.close()
    temporary_name(path).replace(path)
    if os.name == "posix":  # Windows can't open a folder, and writes the name by itself
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a small file in one go."""
    try:
        with temporary_name(path).open("wb") as file:
            file.write(content)
            publish(file, path)
    except BaseException:
        temporary_name(path).unlink(missing_ok=True)
        raise


def write_json(path: Path, data: Mapping[str, JsonValue]) -> None:
    """Write a JSON object, indented for people."""
    write_bytes(path, (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode("utf-8", errors="surrogateescape"))
