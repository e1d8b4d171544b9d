"""The folder that tokenizing writes into: whose is what lies there, and how it is cleared."""

from __future__ import annotations

import contextlib
import re
import shutil
from pathlib import Path

from gptcli.data.manifest import MANIFEST_FILE
from gptcli.data.shard_format import SUFFIXES
from gptcli.errors import UsageError, UserError
from gptcli.tokenizer.folders import TOKENIZER, TOKENIZER_CONFIG

JOURNAL_FILE = ".unfinished.json"
SOURCES_FOLDER = ".sources"  # what was fetched, and standard input
TOKENIZER_FILES = (TOKENIZER, TOKENIZER_CONFIG)

_SHARD_NAME = re.compile(r"(val_0{6}|train_[0-9]{6,}|\.?part_[0-9]{6,})\.npy")
_PIECE_NAME = re.compile(r"\.part_[0-9]{6,}\.npy")
_OWN = {MANIFEST_FILE, *TOKENIZER_FILES, "tokenizer.tiktoken"}


def is_unfinished(folder: Path) -> bool:
    """Whether tokenizing into `folder` was begun and cut off (or goes on in another process)."""
    return (folder / JOURNAL_FILE).exists() and not (folder / MANIFEST_FILE).exists()


def has_remains(folder: Path) -> bool:
    """Whether a call left what only going on needs; beside a manifest it is to be taken away."""
    return (folder / JOURNAL_FILE).exists() or (folder / SOURCES_FOLDER).exists()


def is_shard(name: str) -> bool:
    """Whether a file of that name is a shard or a piece of one, whole or being written."""
    return bool(_SHARD_NAME.fullmatch(_published(name)))


def prepare(folder: Path, fresh: bool) -> Path | None:
    """Make `folder` ready for shards from the beginning. Its lock must be held.

    What a call that was cut off left behind is cleared away; with `fresh`, tokens that lie there are moved into a new
    folder beside it, which is returned. Raises UsageError for shards that this command did not write.
    """
    moved = None
    if is_unfinished(folder):
        clear(folder)
    elif fresh:
        moved = _move_aside(folder)
    elif foreign := [path.name for path in folder.iterdir() if path.suffix in SUFFIXES and path.name[0] != "."]:
        raise UsageError(
            f"{folder} holds shards that have no manifest, such as {min(foreign)}.",
            "Give another --local-dir, or --fresh to move them aside.",
        )
    return moved


def check_tokenizer_place(folder: Path, tokenizer_model: str) -> None:
    """Raise UsageError where a tokenizer of the user's own lies where another is to be put."""
    mine = folder / TOKENIZER_FILES[0]
    ours = (folder / MANIFEST_FILE).exists() or is_unfinished(folder)
    named = Path(tokenizer_model).resolve() in (mine.resolve(), folder.resolve())
    if mine.exists() and not ours and not named:
        raise UsageError(f"{folder} holds a {mine.name} of its own.", "Give another --local-dir.")


def finish(folder: Path) -> None:
    """Take away what only going on needs: the manifest has been written."""
    forget_fetched(folder)
    for path in folder.iterdir():
        if _PIECE_NAME.fullmatch(path.name):
            path.unlink()
    (folder / JOURNAL_FILE).unlink(missing_ok=True)


def clear_unpacked(folder: Path) -> None:
    """Remove what a killed call had unpacked for a while. The lock of `folder` must be held."""
    for path in (folder / SOURCES_FOLDER).glob("tmp*"):
        shutil.rmtree(path, ignore_errors=True)


def forget_fetched(folder: Path) -> None:
    """Remove what was fetched, and standard input."""
    shutil.rmtree(folder / SOURCES_FOLDER, ignore_errors=True)


def clear(folder: Path) -> None:
    """Remove the shards of an unfinished call, the journal last, so that a clearing that is cut off can be done again.

    What was fetched stays: it serves the next call too. Tokenizer files stay, which the user may have put there.
    """
    for path in folder.iterdir():
        if is_shard(path.name) or _published(path.name) in _OWN - {*TOKENIZER_FILES}:
            path.unlink(missing_ok=True)
    (folder / JOURNAL_FILE).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not empty, or not there
        (folder / SOURCES_FOLDER).rmdir()


def restore(folder: Path, aside: Path) -> None:
    """Put back what `prepare` moved aside."""
    for path in sorted(aside.iterdir(), key=lambda path: path.name == MANIFEST_FILE):
        path.replace(folder / path.name)
    aside.rmdir()


def _published(name: str) -> str:
    """The name that a file being written will have. A hidden one is written under the name of a visible one."""
    return name[1:-4] if name.startswith(".") and name.endswith(".tmp") else name


def _move_aside(folder: Path) -> Path | None:
    """Move shards and what belongs to them into a folder beside this one. Other files stay where they are."""
    own = _OWN if (folder / MANIFEST_FILE).exists() else _OWN - {*TOKENIZER_FILES}
    old = [path for path in folder.iterdir() if path.suffix in SUFFIXES or path.name in own]
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
