"""The console that people are told things on."""

from __future__ import annotations

import os
import sys

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
