"""One writer for a folder: an operating-system lock that ends with the process that holds it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout

from gptcli.errors import UserError

LOCK_FILE = ".lock"
OWNER_FILE = ".lock-owner.json"  # beside the lock, since Windows lets nobody read a locked file


class FolderLock:
    """`with FolderLock(folder):` holds `folder`, which is created where it is missing.

    A second holder gets a UserError that names the process and host of the first. A folder that the lock created and
    that is still empty at the end is removed again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = FileLock(folder / LOCK_FILE, timeout=0)
        self._created: list[Path] = []

    def __enter__(self) -> Self:
        parents = [self.folder, *self.folder.parents]
        self._created = [path for path in parents if not path.exists()]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout:
            raise UserError(
                f"{self.folder} is being written by {_owner(self.folder)}.",
                "Wait until it ends, or stop it, or choose another folder.",
            ) from None
        except OSError as error:
            self._remove_created()
            reason = (
                "there is a file of that name" if isinstance(error, FileExistsError) else error.strerror or str(error)
            )
            raise UserError(f"{self.folder} can't be written to: {reason}.", "Choose another folder.") from error
        owner = {"pid": os.getpid(), "host": socket.gethostname()}
        with contextlib.suppress(OSError):  # it only serves the message to a second writer
            (self.folder / OWNER_FILE).write_text(json.dumps(owner), encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            (self.folder / OWNER_FILE).unlink()
        unused = bool(self._created) and [path.name for path in self.folder.iterdir()] == [LOCK_FILE]
        if unused and os.name == "posix":
            # While it is held: who opened the file meanwhile then finds that it has lost its name, and tries afresh.
            (self.folder / LOCK_FILE).unlink()
        self._lock.release()
        if unused:
            with contextlib.suppress(OSError):
                (self.folder / LOCK_FILE).unlink(missing_ok=True)
            self._remove_created()

    def _remove_created(self) -> None:
        with contextlib.suppress(OSError):  # not empty, or never made: then it stays as it is
            for path in self._created:
                path.rmdir()


def _owner(folder: Path) -> str:
    try:
        owner = json.loads((folder / OWNER_FILE).read_text(encoding="utf-8"))
        return f"process {owner['pid']} on {owner['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
