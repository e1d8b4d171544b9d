"""What a tracker has been told so far, kept in the run's folder from call to call."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class MovedAsideError(Exception):
    """The run is another's by now: it was moved, or began again."""


@dataclass
class HandedOver:
    """`id` is that of the run there; `steps` are the newest that were handed over of each kind of row.

    Rows are noted before they are handed over: what dies in between lacks some of them, and never has one twice.
    """

    file: Path
    id: str
    steps: dict[str, int]

    @classmethod
    def open(cls, file: Path, after: int | None) -> HandedOver:
        """What the file tells; a new run where it tells nothing, or where the run does not go on after a step."""
        found = None if after is None else _read(file)
        opened = cls(file, *found) if found else cls(file, secrets.token_hex(6), {})
        opened._write()
        return opened

    def take_back(self, after: int) -> None:
        """Steps past this one count as not handed over."""
        self.steps = {kind: min(step, after) for kind, step in self.steps.items()}
        self._write()

    def missing(self, rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """The rows that can still be handed over, by step: no step goes below one that was."""
        newest = max(self.steps.values(), default=-1)
        left = [row for row in rows if row["step"] >= newest and row["step"] > self.steps.get(row["kind"], -1)]
        return sorted(left, key=lambda row: int(row["step"]))

    def note(self, rows: Iterable[dict[str, Any]]) -> None:
        """These are about to be handed over. Raises MovedAsideError, OSError."""
        found = _read(self.file)
        if found is None or found[0] != self.id:
            raise MovedAsideError(f"{self.file} is another run's")
        self.steps |= {row["kind"]: row["step"] for row in rows}
        self._write()

    def _write(self) -> None:
        written = self.file.with_suffix(".tmp")
        written.write_text(json.dumps({"id": self.id, "steps": self.steps}) + "\n", encoding="utf-8")
        written.replace(self.file)


def _read(file: Path) -> tuple[str, dict[str, int]] | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return str(content["id"]), {str(kind): int(step) for kind, step in content["steps"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
