"""A text that a person and a model write in turns."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Turn:
    """What one of the two added."""

    by_model: bool
    text: str


@dataclass
class Manuscript:
    """The turns in their order; together they are the text."""

    turns: list[Turn] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(turn.text for turn in self.turns)

    def write(self, text: str) -> str:
        """Add what a person wrote; returns it as it was added. Between two words a space is put in."""
        before = self.text[-1:]
        if before.isascii() and text[:1].isalnum() and text[:1].isascii() and before and not before.isspace():
            text = " " + text
        self.turns.append(Turn(False, text))
        return text

    def generated(self, text: str) -> None:
        """Add what the model wrote; nothing is no turn."""
        if text:
            self.turns.append(Turn(True, text))

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
