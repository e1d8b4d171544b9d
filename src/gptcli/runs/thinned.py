"""A curve of any length in bounded memory."""

from __future__ import annotations


class Thinned:
    """The means of equal stretches of a series, of which there are between `most` / 2 and `most` once it is that long:
    where they become too many, each two of them become one."""

    def __init__(self, most: int = 256) -> None:
        assert most % 2 == 0
        self._most = most
        self._means: list[float] = []
        self._length = 1  # values of a whole stretch
        self._sum, self._count = 0.0, 0  # of the stretch that is not yet whole

    def add(self, value: float) -> None:
        """One more value."""
        self._sum, self._count = self._sum + value, self._count + 1
        if self._count == self._length:
            self._means.append(self._sum / self._count)
            self._sum, self._count = 0.0, 0
        if len(self._means) == self._most:
            pairs = zip(self._means[::2], self._means[1::2], strict=True)
            self._means = [(first + second) / 2 for first, second in pairs]
            self._length *= 2

    @property
    def values(self) -> list[float]:
        """The curve so far, the newest values in it."""
        return [*self._means, self._sum / self._count] if self._count else list(self._means)
