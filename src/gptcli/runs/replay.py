"""The lines of a run's files as the events that they were written for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from gptcli.model.locate import CHECKPOINTS
from gptcli.training.events import Evaluated, Event, Note, Sampled, Saved, Started, StepDone, Topic

_SAVED = "saved "
SCORES = {"val": "loss", "hellaswag": "acc_norm"}  # what an evaluation's line is nothing without
_BESIDES = {"kind", "step", "tokens", "time", "seconds"}  # of an evaluation's line: what is no score


def started(run: Path, recorded: Mapping[str, Any]) -> Started:
    """The beginning of a run, as its `run.json` tells it."""
    tokens_per_step = recorded["resolved"].get("tokens_per_step", 0)
    return Started(run, 0, recorded["steps"], tokens_per_step, recorded.get("facts", {}))


def event_of(run: Path, row: Mapping[str, Any]) -> Event | None:
    """The event behind a line of `metrics.jsonl` or `samples.jsonl`; None for one that this version does not know, or
    whose numbers are none."""
    try:
        match row.get("kind"):
            case "train":
                return _step_done(row)
            case "val" | "hellaswag":
                return _evaluated(row)
            case "event" if row["message"].startswith(_SAVED):
                folder = run / CHECKPOINTS / row["message"].removeprefix(_SAVED)
                return Saved(row["step"], folder, row.get("stall_ms", 0.0), row.get("save_seconds", 0.0))
            case "event":
                topic = row.get("topic", "note")
                return Note(row["message"], row["step"], topic if topic in get_args(Topic) else "note")
            case None if isinstance(row.get("text"), str):
                return Sampled(row["step"], str(row.get("prompt", "")), row["text"])
    except (KeyError, TypeError, AttributeError, ZeroDivisionError):
        return None
    return None


def number(value: object) -> float | None:
    """A value of a row that is a number; None for anything else."""
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _step_done(row: Mapping[str, Any]) -> StepDone | None:
    needed = [number(row[name]) for name in ("lr", "tokens_per_second", "tokens", "step_ms")]
    if None in needed:
        return None
    return StepDone(
        step=row["step"],
        loss=_finite_or_not(row["loss"]),
        lr=row["lr"],
        grad_norm=_finite_or_not(row["grad_norm"]),
        tokens_per_second=row["tokens_per_second"],
        tokens=row["tokens"],
        seconds=row["step_ms"] / 1000,
        waited=(number(row.get("data_ms")) or 0.0) / row["step_ms"],
        peak_memory=row.get("peak_memory_bytes") if isinstance(row.get("peak_memory_bytes"), int) else None,
        mfu=number(row.get("mfu")),
    )


def _evaluated(row: Mapping[str, Any]) -> Evaluated | None:
    scores = {
        name: score for name, value in row.items() if name not in _BESIDES and (score := number(value)) is not None
    }
    return Evaluated(row["step"], row["kind"], scores) if SCORES[row["kind"]] in scores else None


def _finite_or_not(value: float | None) -> float:
    """JSON has no word for what is not finite: it is null there."""
    return math.nan if value is None else value + 0.0
