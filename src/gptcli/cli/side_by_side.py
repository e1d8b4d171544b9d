"""`gpt generate` with several models: a text of each from the same prompt and seed, side by side."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gptcli.cli import report
from gptcli.cli.generate import text_of

if TYPE_CHECKING:
    from gptcli.inference.language_model import GenerateOptions, LanguageModel, TextStream

_LEAST_WIDTH = 24  # columns of a text; with less for each they stand one below the other
_FRAME = 6  # lines of the table that are no text, and the one below it


def write_side_by_side(
    models: Sequence[LanguageModel], prompt: str, num_samples: int, options: GenerateOptions
) -> None:
    """On a terminal in columns that grow together, else one below the other, each under the name of its model on
    standard error. `options` have a seed, so that all have the same random numbers."""
    names = _names(models)
    for sample in range(num_samples):
        streams = [model.stream(prompt, number=sample, **options) for model in models]
        if sys.stdout.isatty() and _fits(len(models)):
            _draw(names, prompt, streams, models)
            continue
        for name, model, stream in zip(names, models, streams, strict=True):
            which = name if num_samples == 1 else f"{name}, sample {sample + 1} of {num_samples}"
            sys.stdout.flush()
            report.say(f"--- {which} ---", "dim")
            sys.stdout.write(f"{prompt}{text_of(model, stream.completion)}\n")


def _names(models: Sequence[LanguageModel]) -> list[str]:
    """What tells the models apart: their folders without what all of them begin with."""
    parts = [model.folder.parts for model in models]
    shared = 0
    while all(len(of_model) > shared + 1 for of_model in parts) and len({of[shared] for of in parts}) == 1:
        shared += 1
    return [str(Path(*of_model[shared:])) for of_model in parts]


def _fits(columns: int) -> bool:
    from rich.console import Console

    return Console(file=sys.stdout).width >= columns * (_LEAST_WIDTH + 3)


def _draw(names: Sequence[str], prompt: str, streams: Sequence[TextStream], models: Sequence[LanguageModel]) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    out = Console(file=sys.stdout, markup=False, emoji=False, highlight=False)

    def table(room: int | None = None) -> Table:
        """What there is, or its last lines that the terminal has `room` for."""
        drawn = Table(expand=True)
        cells = []
        for name, model, stream in zip(names, models, streams, strict=True):
            drawn.add_column(Text(name), ratio=1)
            cell = Text.assemble((prompt, "dim"), text_of(model, stream.generation))
            if room is not None:
                cell = Text("\n").join(cell.wrap(out, out.width // len(names) - 4)[-room:])
            cells.append(cell)
        drawn.add_row(*cells)
        return drawn

    with Live(console=out, auto_refresh=False, vertical_overflow="crop") as live:
        while sum(stream.step() for stream in streams):
            live.update(table(max(1, out.height - _FRAME)), refresh=True)
        live.vertical_overflow = "visible"
        live.update(table(), refresh=True)
