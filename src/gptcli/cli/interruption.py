"""Signals that ask a command to end: each raises in the main thread, so that all that is open is closed on the way out.

A training run replaces these handlers by its own as soon as there is something to save.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

_SAME_REQUEST_SECONDS = 5.0  # what ends a job often sends its signal to a process and once more to its group


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGUSR1 came. It unwinds as Ctrl-C does: libraries that clean up after that one do so after this."""


class CarriedError(Exception):
    """Brings its cause past Typer, which would turn Ctrl-C or a closed pipe into an exit code, and nothing said."""


@contextlib.contextmanager
def carried() -> Iterator[None]:
    """Carries errors of its block that Typer has ends of its own for."""
    try:
        yield
    except (KeyboardInterrupt, OSError, EOFError) as error:
        raise CarriedError from error


@contextlib.contextmanager
def noted() -> Iterator[Callable[[], bool]]:
    """Within the block Ctrl-C is noted rather than raised: what is given tells whether it came, for whoever can stop in
    better places than anywhere."""
    came = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = True

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: came
    finally:
        signal.signal(signal.SIGINT, before)


def over() -> None:
    """The command has told how it ended: a signal that comes while the interpreter shuts down, since what ends a job
    often sends two, changes nothing of that any more."""
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGINT", "SIGUSR1"):
            number = getattr(signal, name, None)
            if number is not None:
                signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def raising() -> Iterator[None]:
    """Within the block SIGTERM and SIGUSR1 raise `Terminated`, again only after a while: a second signal must not break
    the closing that the first has begun. Outside the main thread, where Python allows no handlers, nothing changes."""
    last = -_SAME_REQUEST_SECONDS

    def raise_terminated(number: int, frame: FrameType | None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _SAME_REQUEST_SECONDS:
            last = now
            raise Terminated

    before = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGUSR1"):
            number = getattr(signal, name, None)  # Windows has no SIGUSR1
            if number is not None:
                before[number] = signal.signal(number, raise_terminated)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
