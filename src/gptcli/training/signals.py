"""What asks a run to stop, signals and --max-time: noted when it comes, acted on where the run can be saved."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType

_SAME_KEYPRESS_SECONDS = 2.0  # Ctrl-C reaches a rank from the terminal and again from its launcher


def name(number: int) -> str:
    """`SIGTERM`, or `Ctrl-C`, which is how people know SIGINT."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


class StopSignals:
    """While entered, SIGINT, SIGTERM and SIGUSR1 set `received`; a second Ctrl-C interrupts at once. True from the
    first signal on, or from `deadline` on, a moment of `time.monotonic`.

    The handlers that were there before come back at the end. Outside the main thread, where Python allows no handlers,
    nothing is caught.
    """

    def __init__(self, deadline: float | None = None) -> None:
        self.deadline = deadline
        self.received: int | None = None
        self._when = 0.0
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
                number = getattr(signal, name, None)
                if number is not None:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal returned
        self._before.clear()

    def __bool__(self) -> bool:
        return self.received is not None or (self.deadline is not None and time.monotonic() >= self.deadline)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received is None:
            self.received, self._when = number, now
        elif number == signal.SIGINT and now - self._when > _SAME_KEYPRESS_SECONDS:
            raise KeyboardInterrupt
