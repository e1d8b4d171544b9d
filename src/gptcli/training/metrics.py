"""`metrics.jsonl` and `samples.jsonl`: one JSON object a line, appended as the run goes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gptcli.data.durable import write_bytes

METRICS, SAMPLES = "metrics.jsonl", "samples.jsonl"


def append(file: Path, row: dict[str, Any]) -> None:
    """Add one line, whole or not at all as far as a single write can promise it."""
    with file.open("a", encoding="utf-8") as opened:
        opened.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def read(file: Path) -> list[dict[str, Any]]:
    """The rows of a file, none where it is missing; a line that a crash cut off is passed over."""
    return _rows(file.read_text(encoding="utf-8")) if file.exists() else []


def keep_rows(file: Path, wanted: Callable[[dict[str, Any]], bool]) -> None:
    """Drop the rows that are not `wanted`: what was logged past the checkpoint that a run resumes from."""
    if not file.exists():
        return
    before = file.read_text(encoding="utf-8")
    after = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in _rows(before) if wanted(row))
    if after != before:
        write_bytes(file, after.encode())


def _rows(text: str) -> list[dict[str, Any]]:
    rows = []
    for line in text.split("\n"):  # and at nothing else that Unicode has for line ends: a sample may hold those
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows
