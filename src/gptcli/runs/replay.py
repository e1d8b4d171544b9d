"""The lines of a run's files as the events that they were written for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from gptcli.model.locate import CHECKPOINTS
from gptcli.training.events import Evaluated, Event, Note, Sampled, Saved, Started, StepDone, Topic

_SAVED = "saved "
_BESIDES = {"kind", "step", "tokens", "time", "seconds"}  # of an evaluation's line: what is no score


def started(run: Path, recorded: Mapping[str, Any]) -> Started:
    """The beginning of a run, as its `run.json` tells it."""
    tokens_per_step = recorded.get("resolved", {}).get("tokens_per_step", 0)
    return Started(run, 0, recorded["steps"], tokens_per_step, recorded.get("facts", {}))


def event_of(run: Path, row: Mapping[str, Any]) -> Event | None:
    """The event behind a line of `metrics.jsonl` or `samples.jsonl`; None for one that this version does not know."""
    try:
        match row.get("kind"):
            case "train":
                return _step_done(row)
            case "val" | "hellaswag":
                scores = {name: value for name, value in row.items() if name not in _BESIDES}
                return Evaluated(row["step"], row["kind"], scores)
            case "event" if row["message"].startswith(_SAVED):
                folder = run / CHECKPOINTS / row["message"].removeprefix(_SAVED)
                return Saved(row["step"], folder, row.get("stall_ms", 0.0), row.get("save_seconds", 0.0))
            case "event":
                topic = row.get("topic", "note")
                return Note(row["message"], row["step"], topic if topic in get_args(Topic) else "note")
            case None if "text" in row:
                return Sampled(row["step"], row.get("prompt", ""), row["text"])
    except (KeyError, TypeError, AttributeError, ZeroDivisionError):
        return None
    return None


def _step_done(row: Mapping[str, Any]) -> StepDone:
    milliseconds = row["step_ms"]
    return StepDone(
        step=row["step"],
        loss=_number(row["loss"]),
        lr=row["lr"],
        grad_norm=_number(row["grad_norm"]),
        tokens_per_second=row["tokens_per_second"],
        tokens=row["tokens"],
        seconds=milliseconds / 1000,
        waited=row.get("data_ms", 0.0) / milliseconds,
        peak_memory=row.get("peak_memory_bytes"),
        mfu=row.get("mfu"),
    )


def _number(value: float | None) -> float:
    """JSON has no word for what is not finite: it is null there."""
    return math.nan if value is None else value
