"""The folder that tokenizing writes into: whose is what lies there, and how it is cleared."""

from __future__ import annotations

import re
from pathlib import Path

from gptcli.data.durable import write_json
from gptcli.data.manifest import MANIFEST_FILE
from gptcli.data.shard_format import SUFFIXES
from gptcli.errors import UsageError, UserError

MARKER_FILE = ".unfinished.json"
SPOOL_FILE = ".tokens.tmp"
TOKENIZER_FILE = "tokenizer.tiktoken"

_SHARD_NAME = re.compile(r"(val_0{6}|train_[0-9]{6,})\.npy")
_OWN = {MARKER_FILE, SPOOL_FILE, TOKENIZER_FILE, MANIFEST_FILE}


def is_unfinished(folder: Path) -> bool:
    """Whether tokenizing into `folder` was begun and cut off (or goes on in another process)."""
    return (folder / MARKER_FILE).exists() and not (folder / MANIFEST_FILE).exists()


def prepare(folder: Path, fresh: bool) -> Path | None:
    """Make `folder` ready to be written, and mark it unfinished. Its lock must be held.

    What a call that was cut off left behind is cleared away; with `fresh`, tokens that lie there are moved into a new
    folder beside it, which is returned. Raises UsageError for shards that this command did not write.
    """
    moved = None
    if is_unfinished(folder):
        clear(folder)
    elif fresh:
        moved = _move_aside(folder)
    elif foreign := [path.name for path in folder.iterdir() if path.suffix in SUFFIXES]:
        raise UsageError(
            f"{folder} holds shards that have no manifest, such as {min(foreign)}.",
            "Give another --local-dir, or --fresh to move them aside.",
        )
    write_json(folder / MARKER_FILE, {"note": "Tokenizing has begun here and has not finished."})
    return moved


def finish(folder: Path) -> None:
    """Take the mark away: the manifest has been written."""
    (folder / MARKER_FILE).unlink(missing_ok=True)


def clear(folder: Path) -> None:
    """Remove what an unfinished call wrote, the mark last, so that a clearing that is cut off can be done again."""
    for path in folder.iterdir():
        if _is_own(path.name) and path.name != MARKER_FILE:
            path.unlink(missing_ok=True)
    (folder / MARKER_FILE).unlink(missing_ok=True)


def restore(folder: Path, aside: Path) -> None:
    """Put back what `prepare` moved aside."""
    for path in sorted(aside.iterdir(), key=lambda path: path.name == MANIFEST_FILE):
        path.replace(folder / path.name)
    aside.rmdir()


def _is_own(name: str) -> bool:
    published = name[1:-4] if name.startswith(".") and name.endswith(".tmp") else name
    return name in _OWN or published in _OWN or f".{published}" in _OWN or bool(_SHARD_NAME.fullmatch(published))


def _move_aside(folder: Path) -> Path | None:
    """Move shards and what belongs to them into a folder beside this one. Other files stay where they are."""
    old = [path for path in folder.iterdir() if path.suffix in SUFFIXES or path.name in _OWN]
    if not old:
        return None
    whole = folder.resolve()
    number = 1
    while (aside := whole.with_name(f"{whole.name}.old-{number}")).exists():
        number += 1
    try:
        aside.mkdir()
        for path in sorted(old, key=lambda path: path.name == MANIFEST_FILE):  # last: no folder looks whole meanwhile
            path.replace(aside / path.name)
    except OSError as error:
        raise UserError(
            f"What lies in {folder} could not be moved to {aside}: {error.strerror}.", "Choose another --local-dir."
        ) from error
    return aside
