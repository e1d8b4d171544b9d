"""A rank does not outlive its launcher: nobody would be left to stop it, and its GPU would stay taken."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_TO_SAVE = 600.0  # large checkpoints take minutes; ranks that lost a peer end by themselves


@contextlib.contextmanager
def ending_with(launcher: int | None) -> Iterator[None]:
    """Within the block this process gets SIGTERM once its launcher is no more, and so saves and ends as it always does.
    One that hears no signal, since it waits in native code for processes that are gone, is killed a while later.

    `launcher` is the id of the process that started this one; None is whichever did. An orphan gets another parent on
    every POSIX system. Windows has no such thing, and nothing happens there.
    """
    parent = os.getppid() if launcher is None else launcher
    left = threading.Event()

    def watch() -> None:
        while os.getppid() == parent:
            if left.wait(SECONDS_BETWEEN_LOOKS):
                return
        os.kill(os.getpid(), signal.SIGTERM)
        if not left.wait(SECONDS_TO_SAVE):
            os.kill(os.getpid(), signal.SIGKILL)

    if os.name != "posix":
        yield
        return
    watcher = threading.Thread(target=watch, name="launcher-watch", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        left.set()
        watcher.join()
