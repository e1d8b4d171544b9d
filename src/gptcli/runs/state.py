"""What a run is doing: running, finished, stopped, or crashed. Told from its folder alone."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from gptcli.data.locks import OWNER_FILE, owner_of
from gptcli.model.locate import STATE, newest_whole, step_of
from gptcli.training.metrics import METRICS, SAMPLES
from gptcli.training.run_file import RUN

State = Literal["running", "finished", "stopped", "crashed"]
SILENCE = 30 * 60.0  # seconds without a line after which a run on another machine counts as gone


def state_of(run: Path, recorded: Mapping[str, Any], last_step: int) -> State:
    """The state of the run in folder `run` whose `run.json` says `recorded` and whose log has come to `last_step`.

    A run that was stopped has saved all that it did; one that has steps after its last checkpoint has crashed. Whether
    a process of another machine is still there is judged by the age of what it wrote last.
    """
    if (owner := owner_of(run)) is not None:
        alive = owner.is_alive()
        if alive or (alive is None and _age(run) < SILENCE):
            return "running"
    newest = newest_whole(run)
    if newest is None:
        return "crashed"
    saved = step_of(newest)
    if saved >= recorded["steps"]:
        return "stopped" if _owes_an_evaluation(newest) else "finished"
    return "stopped" if saved >= last_step else "crashed"


def _age(run: Path) -> float:
    """Seconds since the run wrote anything."""
    files = [run / name for name in (METRICS, SAMPLES, RUN, OWNER_FILE)]
    return time.time() - max((file.stat().st_mtime for file in files if file.exists()), default=0.0)


def _owes_an_evaluation(checkpoint: Path) -> bool:
    """Whether the run was stopped after its last step, but before it had measured what it came to."""
    try:
        state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
        return bool(state["evaluation_due"] or state["sample_due"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
