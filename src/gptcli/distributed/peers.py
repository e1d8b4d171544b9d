"""The death of one process is noticed by all, whatever they are busy with: a rank that waits in native code for one
that is no more, as those on GPUs do, would wait for ever."""

from __future__ import annotations

import contextlib
import os
import threading
from datetime import timedelta

import torch
import torch.distributed as dist

from gptcli.distributed.runtime import Ranks

GRACE_SECONDS = 5.0  # in which the main thread, which mostly hears of it too, can end by itself and tell why
_LEAVING_SECONDS = 3.0  # in which an alarm has gone around
_NEVER = timedelta(days=3650)
_GOODBYE, _ALARM = 1, 0


class Peers:
    """The processes of a run in a ring. A thread of each waits to hear from the one before it: a goodbye, when that one
    leaves; an alarm, which it passes on; or the end of the connection, since a process that dies, however it does, has
    its sockets closed by the system. One that is only slow or stopped says nothing, and counts as alive.

    After an alarm a process that has not left by itself is ended with exit code 1.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._group = dist.new_group(backend="gloo", timeout=_NEVER)
        self._left = threading.Event()
        self._said = threading.Lock()  # held from the one thing on that this process says
        self._thread = threading.Thread(target=self._listen, name="peers", daemon=True)
        self._thread.start()

    def leave(self, well: bool) -> None:
        """Say goodbye, or sound the alarm, and wait for what the process before this one says."""
        self._left.set()
        self._say(_GOODBYE if well else _ALARM)
        self._thread.join(None if well else _LEAVING_SECONDS)
        self._group = None

    def _say(self, word: int) -> None:
        if self._said.acquire(blocking=False):
            after = (self._ranks.rank + 1) % self._ranks.world_size
            with contextlib.suppress(RuntimeError):  # it is gone itself
                dist.send(torch.tensor([word]), dst=after, group=self._group)

    def _listen(self) -> None:
        word = torch.tensor([_ALARM])
        before = (self._ranks.rank - 1) % self._ranks.world_size
        with contextlib.suppress(RuntimeError):  # the connection has ended
            dist.recv(word, src=before, group=self._group)
            if int(word) == _GOODBYE:
                return
        self._say(_ALARM)
        if not self._left.wait(GRACE_SECONDS):
            # The main thread may never come back to tell it.
            os.write(2, f"rank {self._ranks.rank}: another process of the run has ended; this one ends too.\n".encode())
            os._exit(1)
