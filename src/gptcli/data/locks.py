"""One writer for a folder: an operating-system lock that ends with the process that holds it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
from filelock import FileLock, Timeout

from gptcli.errors import UserError

LOCK_FILE = ".lock"
_SAME_START = 2.0  # seconds: as exactly as a system tells a process' start twice
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
        with contextlib.suppress(OSError):  # it only serves to tell others who holds the folder
            (self.folder / OWNER_FILE).write_text(json.dumps(asdict(Owner.this_process())), encoding="utf-8")
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
    owner = owner_of(folder)
    return f"process {owner.pid} on {owner.host}" if owner else "another process"


@dataclass(frozen=True)
class Owner:
    """The process that holds a folder, or died holding it: its number, its machine, and when it was started, in seconds
    since the epoch (another process may have got its number since)."""

    pid: int
    host: str
    started: float = 0.0

    @classmethod
    def this_process(cls) -> Owner:
        """The one that asks."""
        return cls(os.getpid(), socket.gethostname(), psutil.Process().create_time())

    def is_alive(self) -> bool | None:
        """Whether it is still there; None where that can't be known, since it is a process of another machine."""
        if self.host != socket.gethostname():
            return None
        try:
            process = psutil.Process(self.pid)
            began, is_over = process.create_time(), process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False
        except psutil.Error:  # it is there, and somebody else's
            return True
        return not is_over and (not self.started or abs(began - self.started) < _SAME_START)


def owner_of(folder: Path) -> Owner | None:
    """Who holds `folder`, or died holding it; None where nobody does. The lock itself is not tried, which could be in
    the way of somebody who begins to write."""
    try:
        told = json.loads((folder / OWNER_FILE).read_text(encoding="utf-8"))
        return Owner(int(told["pid"]), str(told["host"]), float(told.get("started", 0.0)))
    except (OSError, ValueError, KeyError, TypeError):
        return None
