"""The text of a completion as its tokens come: whole characters only, up to a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class GrowingText:
    """Text from the bytes of one token after another.

    `push` returns what has become certain: characters whose bytes are all there, but for an end that may be the
    beginning of one of the `stops`. Once one of them is whole, `stopped` is set and the text ends before it.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self.stops = list(stops)
        self.stopped = False
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""  # decoded, but perhaps the beginning of a stop string

    def push(self, new: bytes, final: bool = False) -> str:
        """Add a token's bytes; `final` gives out what has been held back."""
        assert not self.stopped
        self._held += self._decoder.decode(new, final)
        found = [at for stop in self.stops if (at := self._held.find(stop)) >= 0]
        self.stopped = bool(found)
        cut = min(found) if found else len(self._held) - (0 if final else self._beginning())
        certain, self._held = self._held[:cut], self._held[cut:]
        return certain

    def _beginning(self) -> int:
        """How many characters at the end may be the beginning of a stop string."""
        longest = min(len(self._held), max(map(len, self.stops), default=1) - 1)
        for n in range(longest, 0, -1):
            if any(stop.startswith(self._held[-n:]) for stop in self.stops):
                return n
        return 0
