"""What the sides of generation are given. Only the standard library, as in `turns.py`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GenTask:
    """The model in a folder in Hugging Face format, its weights held as `weights` says; `new` tokens after prompts of
    `prompt` tokens, which `rows` texts have."""

    model: str
    weights: str
    rows: int
    prompt: int
    new: int

    @property
    def prompts(self) -> list[list[int]]:
        """Ids of the prompts, all different."""
        return [[(7919 * (i + 1) + 31 * j * j) % 50_000 for j in range(self.prompt)] for i in range(self.rows)]
