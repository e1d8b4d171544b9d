"""What all sides of an evaluation are given. Only the standard library, as in `turns.py`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class EvalTask:
    """A model's folder, a file with examples as HellaSwag's has them, and how many of them are a turn; `batch` is for
    the side that takes one, `precision` for those that don't choose it."""

    model: str
    examples: str
    per_turn: int
    batch: int = 0
    precision: str = ""

    def turns(self) -> Iterator[list[dict[str, Any]]]:
        """The examples of each turn, from the beginning again at the end; each turn has short ones and long ones."""
        rows = [json.loads(line) for line in Path(self.examples).read_text(encoding="utf-8").splitlines()]
        number = len(rows) // self.per_turn
        while True:
            for turn in range(number):
                yield rows[turn::number][: self.per_turn]
