"""What is tokenized: files, folders and globs in the order given, or a dataset."""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from gptcli.data.hub import stream_dataset
from gptcli.data.readers import READERS, Reading, parquet_fault, parquet_text_bytes
from gptcli.errors import Fault, UserError, nearest, raise_if
from gptcli.settings import TokenizeSettings

_MAGIC = re.compile(r"[*?\[]")
_KINDS = ", ".join(READERS)


@dataclass(frozen=True)
class FileSources:
    """Local files, in the order in which they are read."""

    files: tuple[Path, ...]
    reading: Reading

    def documents(self) -> Generator[str]:
        """Every document of every file."""
        for path in self.files:
            try:
                yield from READERS[path.suffix.lower()](path, self.reading)
            except OSError as error:
                raise UserError(f"{path} can't be read: {error.strerror or error}.", "Is it still there?") from error

    def record(self) -> dict[str, JsonValue]:
        """What the manifest says of them: path as given and size."""
        return {"files": [{"path": path.as_posix(), "bytes": path.stat().st_size} for path in self.files]}

    def total_bytes(self) -> int | None:
        """About how many bytes of text they hold."""
        return sum(
            parquet_text_bytes(path, self.reading.text_column)
            if path.suffix.lower() == ".parquet"
            else path.stat().st_size
            for path in self.files
        )


@dataclass(frozen=True)
class DatasetSource:
    """A dataset of the Hugging Face Hub, or a folder in its layout."""

    path: str
    name: str | None
    split: str
    text_column: str

    def documents(self) -> Generator[str]:
        """Every document of the split."""
        return stream_dataset(self.path, self.name, self.split, self.text_column)

    def record(self) -> dict[str, JsonValue]:
        """What the manifest says of it."""
        return {"dataset": self.path, "name": self.name, "split": self.split}

    def total_bytes(self) -> int | None:
        """Not known before it has been read."""
        return None


Source = FileSources | DatasetSource


def open_source(settings: TokenizeSettings) -> Source:
    """The source that the settings name. Raises UsageError with all that is wrong with its files at once."""
    if not settings.sources:
        return DatasetSource(settings.dataset_path, settings.remote_name or None, settings.split, settings.text_column)
    separator = None if settings.separator is None else unescape(settings.separator)
    reading = Reading(settings.text_column, separator)
    faults: list[Fault] = []
    found = [path for argument in settings.sources for path in _expand(argument, faults)]
    each_once: dict[Path, Path] = {}
    for path in found:
        each_once.setdefault(path.resolve(), path)
    files = tuple(each_once.values())
    for path in files:
        fault = parquet_fault(path, reading.text_column) if path.suffix.lower() == ".parquet" else _fault(path)
        if fault:
            faults.append(fault)
    raise_if(faults)
    return FileSources(files, reading)


def unescape(text: str) -> str:
    r"""The text with \n, \r, \t and \\ replaced by what they stand for."""
    meanings = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\"}
    return re.sub(r"\\([nrt\\])", lambda match: meanings[match[1]], text)


def _expand(argument: str, faults: list[Fault]) -> list[Path]:
    """The files that one argument means, sorted where it means several."""
    path = Path(argument)
    if not argument.strip():  # Path would take it for the current folder
        faults.append(Fault("A source is an empty name.", "Give a file, a folder or a glob in quotes."))
        return []
    if path.is_dir():
        files = _inside(path)
    elif path.exists():
        if path.suffix.lower() not in READERS:
            faults.append(Fault(f"{argument} is of no kind that can be read.", f"The kinds are: {_KINDS}."))
            return []
        return [path]
    elif _MAGIC.search(argument):
        matches = _glob(path)
        files = [file for match in matches for file in (_inside(match) if match.is_dir() else [match])]
        files = [file for file in files if file.suffix.lower() in READERS]
    else:
        faults.append(Fault(f"There is no file or folder {argument}.", _hint(path)))
        return []
    if not files:
        faults.append(Fault(f"{argument} has no files of a kind that can be read.", f"The kinds are: {_KINDS}."))
    return files


def _inside(folder: Path) -> list[Path]:
    """Files of known kinds in the folder and below, sorted by path alike on every system; no hidden ones."""
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(root) / name for name in names if Path(name).suffix.lower() in READERS and name[0] != "."]
    return sorted(found, key=lambda path: path.parts)


def _glob(pattern: Path) -> list[Path]:
    parts = pattern.parts
    first = next(number for number, part in enumerate(parts) if _MAGIC.search(part))
    base = Path(*parts[:first])
    matches = base.glob(str(Path(*parts[first:])))
    visible = [path for path in matches if not any(part[0] == "." for part in path.relative_to(base).parts)]
    return sorted(visible, key=lambda path: path.parts)


def _fault(path: Path) -> Fault | None:
    try:
        with path.open("rb"):
            return None
    except OSError as error:
        return Fault(f"{path} can't be read: {error.strerror or error}.", "Check its permissions.")


def _hint(path: Path) -> str:
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    close = nearest(path.name, siblings)
    return f"Did you mean {path.with_name(close)}?" if close else "Give a file, a folder or a glob in quotes."
