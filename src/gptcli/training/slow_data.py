"""Whether the data keeps up with the training: told when it begins not to."""

from __future__ import annotations

from collections import deque

SPAN = 30.0  # seconds of steps that are judged together
TOO_MUCH, FINE_AGAIN = 0.2, 0.1  # of their time, waiting for data


class SlowData:
    """Watches the share of the steps' time that is spent waiting for data. It is told once when it passes `TOO_MUCH`,
    and again only after it had fallen to `FINE_AGAIN`."""

    def __init__(self) -> None:
        self._steps: deque[tuple[float, float]] = deque()
        self._seconds = self._waited = 0.0
        self._is_slow = False

    def after_step(self, seconds: float, waited: float) -> str:
        """After a step of `seconds`, `waited` of them for its data: what to tell, empty as a rule."""
        self._steps.append((seconds, waited))
        self._seconds, self._waited = self._seconds + seconds, self._waited + waited
        while self._seconds - self._steps[0][0] >= SPAN:
            past, past_waited = self._steps.popleft()
            self._seconds, self._waited = self._seconds - past, self._waited - past_waited
        share = self._waited / self._seconds if self._seconds >= SPAN else 0.0
        if self._is_slow:
            self._is_slow = share > FINE_AGAIN
            return ""
        self._is_slow = share > TOO_MUCH
        if not self._is_slow:
            return ""
        return f"Slow data: {share:.0%} of the last {self._seconds:.0f} s were spent waiting for it; is the disk busy?"
