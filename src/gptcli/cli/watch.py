"""`gpt watch`: the view of a run that goes on in another process, or on another machine that shares its folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gptcli.cli import report
from gptcli.cli.options import Call
from gptcli.settings import WatchSettings

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

    from gptcli.runs.progress import RunProgress
    from gptcli.runs.state import State
    from gptcli.training.events import Event

EXAMPLES = """\
gpt watch
gpt watch log/books"""

_SECONDS_BETWEEN_LOOKS = 1.0


def run(settings: WatchSettings, call: Call) -> int:
    """Watch the run until it ends. Returns the exit code."""
    from gptcli.runs.follow import check_is_run

    folder = Path(settings.log_dir)
    check_is_run(folder)
    out = report.console()
    try:
        if out.is_terminal and not out.is_dumb_terminal:
            progress = _draw(folder, out)
        else:
            progress = _tell(folder, out)
    except KeyboardInterrupt as error:
        if type(error) is not KeyboardInterrupt:  # a signal, not Ctrl-C, which is how a watcher leaves
            raise
        return report.DONE
    report.say(ending(folder, progress))
    return report.DONE


class Watched:
    """What the files of a run tell by now; `look` reads on, and gives the new events."""

    def __init__(self, folder: Path) -> None:
        from gptcli.runs.follow import Follower
        from gptcli.runs.progress import RunProgress

        self.folder = folder
        self.progress: RunProgress = RunProgress()
        self.state: State = "running"
        self.starts_anew = False  # whether what was told before is no more: the run went on from an earlier checkpoint
        self._follower = Follower(folder)

    def look(self) -> list[Event]:
        from gptcli.runs.progress import RunProgress

        self.state = state_of_run(self.folder)  # first: what a run that ends now wrote last is then still read
        found = self._follower.poll()
        self.starts_anew = self._follower.starts_anew
        progress = RunProgress() if self.starts_anew else self.progress
        for event, moment in found:
            progress.take(event, moment)
        self.progress = progress  # in one go: it is drawn in a thread of its own
        return [event for event, _ in found]


def state_of_run(folder: Path) -> State:
    """What the run in `folder` is doing. One that has not written its `run.json` yet is about to."""
    from gptcli.data.locks import owner_of
    from gptcli.runs.state import state_of
    from gptcli.training import metrics
    from gptcli.training.run_file import read

    recorded = read(folder)
    if recorded is None:
        owner = owner_of(folder)
        return "running" if owner and owner.is_alive() is not False else "crashed"
    return state_of(folder, recorded, metrics.last_step(folder))


def _draw(folder: Path, out: Console) -> RunProgress:
    """The live view, until the run ends."""
    from gptcli.cli.dashboard import dashboard
    from gptcli.cli.live import Canvas, room_of

    watched = Watched(folder)
    watched.look()

    def picture() -> RenderableType:
        from rich.text import Text

        progress = watched.progress
        lines: list[Text] = dashboard(progress, str(folder), watched.state, progress.seconds, room_of(out))
        return Text("\n").join(lines)

    canvas = Canvas(out, picture, above=lambda: None)
    try:
        _until_it_ends(watched, lambda events: None)
    finally:
        canvas.close()
    return watched.progress


def _tell(folder: Path, out: Console) -> RunProgress:
    """Plain lines: where the run stands, then what happens from now on."""
    from gptcli.cli.monitor import Lines

    watched = Watched(folder)
    watched.look()
    lines = Lines(out)

    def tell(events: list[Event]) -> None:
        lines.progress = watched.progress
        for event in where_it_stands(watched.progress) if watched.starts_anew else events:
            lines.tell(event)

    tell(where_it_stands(watched.progress))
    _until_it_ends(watched, tell)
    return watched.progress


def where_it_stands(progress: RunProgress) -> list[Event]:
    """The last event of each kind."""
    events = (progress.started, progress.val, progress.hellaswag, progress.last)
    return [event for event in events if event is not None]


def _until_it_ends(watched: Watched, tell: Callable[[list[Event]], None]) -> None:
    while watched.state == "running":
        time.sleep(_SECONDS_BETWEEN_LOOKS)
        tell(watched.look())


def ending(folder: Path, progress: RunProgress) -> str:
    """How a run that goes on no more has ended, and what to do about it."""
    from gptcli.model.locate import newest_whole, step_of

    newest = newest_whole(folder)
    saved = f"its last checkpoint is that of step {step_of(newest):,}" if newest else "it has no checkpoint"
    match state_of_run(folder):
        case "finished":
            return f"{folder} is finished: {progress.steps:,} steps."
        case "crashed":
            return f"{folder} has crashed after step {progress.step:,}; {saved}. Its command, without --fresh, goes on."
        case _:
            return f"{folder} was stopped after step {progress.step:,}; {saved}. Its command, without --fresh, goes on."
