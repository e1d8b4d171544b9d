"""Rows of the run's files as what a tracker is told: numbers by name, samples, configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gptcli.training.tracking.registry import Tracker

SAMPLE = "sample"  # the kind of a row of samples.jsonl, which names none
_OF_TRAIN_ALONE = ("tokens", "time")  # the same in all rows of a step
_OF_THE_FILE = ("format", "identity", "calls")  # of run.json: nothing to tell runs apart by


def is_told(row: Mapping[str, Any]) -> bool:
    """Whether a row is a tracker's business: events are words for the run's user."""
    return isinstance(row.get("kind"), str) and row["kind"] != "event"


def tell(tracker: Tracker, row: Mapping[str, Any]) -> None:
    """Hand one row over. Raises what the tracker does."""
    if row["kind"] == SAMPLE:
        tracker.sample(row["step"], str(row.get("prompt", "")), str(row.get("text", "")))
    elif values := numbers(row):
        tracker.log(row["step"], values)


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row as `kind/name`, whatever they are: `train/loss`, `val/loss`, `hellaswag/acc_norm`."""
    kind = row["kind"]
    left_out = {"step", *(() if kind == "train" else _OF_TRAIN_ALONE)}
    return {
        f"{kind}/{name}": int(value) if isinstance(value, bool) else value
        for name, value in row.items()
        if name not in left_out and isinstance(value, (int, float))
    }


def configuration(content: Mapping[str, Any]) -> dict[str, Any]:
    """The settings and resolved facts of a run, of the content of its `run.json`."""
    return {name: value for name, value in content.items() if name not in _OF_THE_FILE}


def flat(configuration: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested names joined by dots, `settings.max_lr`, for tools that know no others."""
    joined: dict[str, Any] = {}
    for name, value in configuration.items():
        if isinstance(value, Mapping):
            joined |= flat(value, f"{before}{name}.")
        else:
            joined[before + name] = value
    return joined


def as_code(text: str) -> str:
    """As Markdown that shows the text as it is."""
    return "\n".join(f"    {line}" for line in text.splitlines())
