"""The files of this machine that an argument means, and what tells one content from another."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from pydantic import JsonValue

from gptcli.data.formats import KINDS, is_known
from gptcli.data.manifest import MANIFEST_FILE
from gptcli.data.output import TOKENIZER_FILES
from gptcli.errors import Fault, nearest

_MAGIC = re.compile(r"[*?\[]")
_WHOLE_BYTES = 2**20  # up to here all of a file goes into its checksum
_PIECES = 64


def identity(path: Path) -> dict[str, JsonValue]:
    """What tells one content of a file from another: its size and checksum.

    Beyond 1 MiB the checksum is of 64 pieces all over it, and the time of its last change, in nanoseconds, tells of
    what lies between them.
    """
    state = path.stat()
    digest = hashlib.sha256()
    with path.open("rb") as file:
        if state.st_size <= _WHOLE_BYTES:
            digest.update(file.read())
            return {"bytes": state.st_size, "sha256": digest.hexdigest()}
        length = _WHOLE_BYTES // _PIECES
        for number in range(_PIECES):
            file.seek((state.st_size - length) * number // (_PIECES - 1))
            digest.update(file.read(length))
    return {"bytes": state.st_size, "sampled_sha256": digest.hexdigest(), "changed_ns": state.st_mtime_ns}


def expand(argument: str, faults: list[Fault]) -> list[Path]:
    """The files that one argument means, sorted where it means several."""
    path = Path(argument)
    if not argument.strip():  # Path would take it for the current folder
        faults.append(Fault("A source is an empty name.", "Give a file, a folder or a glob in quotes."))
        return []
    if path.is_dir():
        files = _inside(path, faults)
    elif path.exists() and not path.is_file():
        faults.append(Fault(f"{argument} is no regular file.", "Pipe it: ... | gpt tokenize -"))
        return []
    elif path.exists():
        if not is_known(path.name):
            faults.append(Fault(f"{argument} is of no kind that can be read.", f"The kinds are: {KINDS}."))
            return []
        return [path]
    elif _MAGIC.search(argument):
        matches = _glob(path)
        files = [file for match in matches for file in (_inside(match, faults) if match.is_dir() else [match])]
        files = [file for file in files if is_known(file.name)]
    else:
        faults.append(Fault(f"There is no file or folder {argument}.", _hint(path)))
        return []
    if not files:
        faults.append(Fault(f"{argument} has no files of a kind that can be read.", f"The kinds are: {KINDS}."))
    return files


def _inside(folder: Path, faults: list[Fault]) -> list[Path]:
    """Files of known kinds in the folder and below, sorted by path alike on every system; no hidden ones, and none that
    lie beside token shards, which were made by this command."""

    def unreadable(error: OSError) -> None:
        faults.append(Fault(f"The folder {error.filename} can't be read: {error.strerror}.", "Check its permissions."))

    found = []
    for root, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if MANIFEST_FILE in names:
            names = [name for name in names if name not in (MANIFEST_FILE, *TOKENIZER_FILES)]
        found += [Path(root) / name for name in names if is_known(name) and name[0] != "."]
    return sorted(found, key=lambda path: path.parts)


def _glob(pattern: Path) -> list[Path]:
    parts = pattern.parts
    first = next(number for number, part in enumerate(parts) if _MAGIC.search(part))
    base = Path(*parts[:first])
    matches = base.glob(str(Path(*parts[first:])))
    visible = [path for path in matches if not any(part[0] == "." for part in path.relative_to(base).parts)]
    return sorted(visible, key=lambda path: path.parts)


def _hint(path: Path) -> str:
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    close = nearest(path.name, siblings)
    return f"Did you mean {path.with_name(close)}?" if close else "Give a file, a folder or a glob in quotes."
