"""The console that people are told things on."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

from rich.console import Console, ConsoleOptions

_MARGIN = 2  # columns that a bar leaves free: the terminal's own ^C, put behind it, must not break the line


class Terminal(Console):
    """Standard error. Text is shown as it is, lines are broken by whoever shows them."""

    def __init__(self) -> None:
        super().__init__(stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True)

    @property
    def options(self) -> ConsoleOptions:
        """What is drawn to fit (a bar) keeps a margin."""
        options = super().options
        return options.update(width=max(1, options.max_width - _MARGIN)) if self.is_terminal else options

    def on_broken_pipe(self) -> None:
        """Nobody reads any more what people are told: the work goes on without (Rich would end the process)."""
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stderr.fileno())
        os.close(nowhere)


@contextlib.contextmanager
def surviving(out: Console) -> Iterator[None]:
    """The work goes on where the terminal has gone away, as with a lost connection, and writing to it fails."""
    try:
        yield
    except OSError:
        out.on_broken_pipe()


def printable(text: str) -> str:
    """Text of one line without what would move the cursor or colour the terminal, in whose place stands U+FFFD."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
