"""The live view of a run on a terminal: drawn again twice a second beneath what else is printed."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.cells import cell_len

from gptcli.cli.dashboard import Room, dashboard
from gptcli.cli.monitor import Quiet
from gptcli.cli.terminal import surviving
from gptcli.errors import UserError
from gptcli.runs.follow import progress_of
from gptcli.runs.progress import RunProgress
from gptcli.training.events import Event, Note, Started

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.text import Text

SECONDS_BETWEEN_DRAWINGS = 0.5
_MOST_ABOVE = 100  # lines that are printed again where the terminal's size has changed


class Canvas:
    """Draws `picture` at the bottom of the console until it is closed; the last drawing stays.

    A terminal that is made narrower breaks lines that are there already in ways of its own, and nobody can know where
    they then lie. So when it becomes smaller it is cleared, and `above` is printed again over the picture. When it is
    there no more, since its connection was lost, nothing is drawn.
    """

    def __init__(self, out: Console, picture: Callable[[], RenderableType], above: Callable[[], None]) -> None:
        self.out, self.picture, self.above = out, picture, above
        self._size = out.size
        self._live = self._begun()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._draw_again_and_again, name="live view", daemon=True)
        self._thread.start()

    def _begun(self) -> Live:
        from rich.live import Live

        live = Live(
            console=self.out,
            get_renderable=self.picture,
            auto_refresh=False,
            redirect_stdout=sys.stdout.isatty(),  # what goes into a file or a pipe is none of this
        )
        live.start(refresh=True)
        return live

    def draw(self) -> None:
        """Draw once, on what is perhaps another size of the terminal now."""
        before, self._size = self._size, self.out.size
        if self._size.width < before.width or self._size.height < before.height:
            self._live.transient = True
            self._live.stop()
            self.out.clear()
            self.above()
            self._live = self._begun()
        self._live.refresh()

    def _draw_again_and_again(self) -> None:
        while not self._closed.wait(SECONDS_BETWEEN_DRAWINGS):
            with surviving(self.out):
                self.draw()

    def close(self) -> None:
        """Draw for the last time, and leave the terminal as it was, whatever interrupts this."""
        self._closed.set()
        with surviving(self.out):
            try:
                self._thread.join()
                self.draw()
            finally:
                self._live.stop()


class LiveRun(Quiet):
    """A listener that draws the run: facts and notes above, the view beneath. What an earlier call of the run did is
    taken from its files, so that the curves begin where the run did."""

    def __init__(self, out: Console, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(out)
        self.clock = clock
        self.began = clock()
        self.progress = RunProgress()
        self.state = "running"
        self.canvas: Canvas | None = None
        self._above: list[tuple[str, str]] = []
        self._lock = threading.Lock()  # of the progress, which is drawn in a thread of its own

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.canvas:
            self.state = "finished" if self.progress.step >= self.progress.steps else "stopped"
            if error is not None and not isinstance(error, KeyboardInterrupt):
                self.state = "crashed"
            self.canvas.close()

    def __call__(self, event: Event) -> None:
        if isinstance(event, Started) and event.step:
            self._go_on_from(event.log_dir)
        with self._lock:
            self.progress.take(event, self.clock())
        super().__call__(event)
        if isinstance(event, Started):
            self.canvas = Canvas(self.out, self.picture, self.print_above)

    def _go_on_from(self, run: Path) -> None:
        try:
            progress = progress_of(run)
        except (UserError, OSError):  # the curves then begin here
            return
        with self._lock:
            for happening in self.progress.happenings:
                progress.take(Note(happening.text), progress.seconds)
            self.progress = progress
            self.began = self.clock() - progress.seconds

    def line(self, text: str, style: str = "") -> None:
        self._above = [*self._above[1 - _MOST_ABOVE :], (text, style)]
        super().line(text, style)

    def print_above(self) -> None:
        """What was printed so far, as much of it as there is room for."""
        width, height = self.out.size
        room = height - len(self._lines()) - 1
        shown = list[tuple[str, str]]()
        for text, style in reversed(self._above):
            room -= max(1, math.ceil(cell_len(text) / width))
            if room < 0:
                break
            shown.insert(0, (text, style))
        for text, style in shown:
            super().line(text, style)

    def picture(self) -> RenderableType:
        """The view as it is now."""
        from rich.text import Text

        return Text("\n").join(self._lines())

    def _lines(self) -> list[Text]:
        started = self.progress.started
        with self._lock:
            return dashboard(
                self.progress,
                str(started.log_dir) if started else "",
                self.state,
                self.clock() - self.began,
                room_of(self.out),
            )


def room_of(out: Console) -> Room:
    """The room that a view has on a console, whose margin keeps the terminal's own ^C from breaking a line."""
    return Room(out.options.max_width, out.size.height - 2, out.options.ascii_only)
