"""A model for other programs: a folder in Hugging Face's format, or one file for llama.cpp and those built on it.

A new format is a module here with a function `write`, a `Writer`, and its entry in `settings/export_formats.py`.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol

from gptcli.errors import UsageError
from gptcli.inference.load import ModelFacts, read_facts
from gptcli.model.locate import locate_model
from gptcli.settings import ExportSettings
from gptcli.settings.export_formats import EXPORT_FORMATS


class Writer(Protocol):
    """Writes the model with `facts` to `out`, which is not there yet, and returns how many parameters it then has. What
    the user should be told is added to `notes`. Raises UserError for a model that the format can't hold."""

    def __call__(self, facts: ModelFacts, out: Path, notes: list[str], settings: ExportSettings) -> int: ...


@dataclass(frozen=True)
class Exported:
    """What was written: `bytes` of all its files, `parameters` in them, and what the user should be told."""

    path: Path
    format: str
    parameters: int
    bytes: int
    notes: list[str]


def export(settings: ExportSettings) -> Exported:
    """Write the model for other programs; it appears whole or not at all.

    Raises UsageError for a place that is taken and for options that don't fit together, and UserError for a model that
    can't be read.
    """
    if settings.out is None:
        raise UsageError("Say which model to export, and where to.", "For example: gpt export log model.gguf")
    out = Path(settings.out)
    out = out if out.name not in ("", "..") else out.resolve()
    named = (name for name, each in EXPORT_FORMATS.items() if each.suffix and each.suffix == out.suffix)
    kind = settings.format or next(named, "hf")
    is_folder = not EXPORT_FORMATS[kind].suffix
    if settings.quantize != "none" and kind != "gguf":
        raise UsageError("--quantize: only GGUF files hold quantised weights.", "Add --format gguf.")
    if out.exists() and not (out.is_dir() and is_folder and not any(out.iterdir())):
        raise UsageError(f"{out} exists already.", "Name another place, or remove it.")
    notes: list[str] = []
    facts = read_facts(locate_model(settings.model, notes))
    notes += facts.notes
    hidden = out.with_name(f".{out.name}.unfinished")
    _remove(hidden)  # of a call that was killed
    try:
        write: Writer = import_module(EXPORT_FORMATS[kind].module).write
        parameters = write(facts, hidden, notes, settings)
        if out.is_dir():
            out.rmdir()
        hidden.rename(out)
    except BaseException:
        _remove(hidden)
        raise
    files = [path for path in (out.rglob("*") if out.is_dir() else (out,)) if path.is_file()]
    return Exported(out, kind, parameters, sum(file.stat().st_size for file in files), notes)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
