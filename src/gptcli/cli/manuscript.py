"""A text that a person and a model write in turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Turn:
    """What one of the two added, and its ids: the model's stay as they were, however their text would be encoded."""

    by_model: bool
    text: str
    ids: tuple[int, ...]


@dataclass
class Manuscript:
    """The turns in their order; together they are the text."""

    turns: list[Turn] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(turn.text for turn in self.turns)

    @property
    def ids(self) -> list[int]:
        return [token for turn in self.turns for token in turn.ids]

    def joined(self, text: str) -> str:
        """What a person wrote as it goes on from the text: between two words a space is put in."""
        before = self.text[-1:]
        between_words = before.isascii() and not before.isspace() and text[:1].isascii() and text[:1].isalnum()
        return " " + text if before and between_words else text

    def add(self, by_model: bool, text: str, ids: Sequence[int]) -> None:
        """One more turn; nothing is none."""
        if ids:
            self.turns.append(Turn(by_model, text, tuple(ids)))

    def take_back(self) -> bool:
        """Remove what the model wrote last, if that is the end of the text."""
        if not self.turns or not self.turns[-1].by_model:
            return False
        self.turns.pop()
        return True

    def undo(self) -> bool:
        """Remove what the model wrote last, with what was written before it by a person; or else the last turn."""
        if not self.turns:
            return False
        if self.take_back() and (not self.turns or self.turns[-1].by_model):
            return True
        if self.turns:
            self.turns.pop()
        return True
