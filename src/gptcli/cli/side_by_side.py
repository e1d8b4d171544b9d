"""`gpt generate` with several models: a text of each from the same prompt and seed, side by side."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from gptcli.cli import report

if TYPE_CHECKING:
    from rich.table import Table

    from gptcli.inference.language_model import GenerateOptions, LanguageModel, TextStream

_LEAST_WIDTH = 24  # columns of a text; with less for each they stand one below the other


def write_side_by_side(
    models: Sequence[LanguageModel], prompt: str, num_samples: int, options: GenerateOptions
) -> None:
    """On a terminal in columns that grow together, else one below the other, each under the name of its model on
    standard error. All have the same random numbers, drawn once where no seed is given."""
    if options.get("seed") is None:
        options = {**options, "seed": secrets.randbits(32)}
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
            completion = stream.completion
            text = completion.text if model.tokenizer else " ".join(map(str, completion.ids))
            sys.stdout.write(f"{prompt}{text}\n")


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

    def table() -> Table:
        drawn = Table(expand=True)
        for name in names:
            drawn.add_column(Text(name), ratio=1)
        cells = []
        for model, stream in zip(models, streams, strict=True):
            new = stream.generation
            text = new.text if model.tokenizer else " ".join(map(str, new.ids))
            cells.append(Text.assemble((prompt, "dim"), text))
        drawn.add_row(*cells)
        return drawn

    out = Console(file=sys.stdout, markup=False, emoji=False, highlight=False)
    with ExitStack() as stack:
        live = stack.enter_context(Live(console=out, auto_refresh=False, vertical_overflow="crop"))
        while sum(stream.step() for stream in streams):
            live.update(table(), refresh=True)
        live.vertical_overflow = "visible"
        live.update(table(), refresh=True)
