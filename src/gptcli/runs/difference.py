"""How two runs differ: in what they were told, in where they ran, and in what they came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptcli.runs.replay import number
from gptcli.runs.summary import summarise
from gptcli.training import metrics
from gptcli.training.run_file import read

# Where a run lies, and how one call of it was watched: nothing that its numbers could come from.
_NOT_TOLD = {"log_dir", "fresh", "monitor", "dry_run", "on", "profile", "track"}
_RESULTS = (
    "state", "step", "tokens", "loss", "val_loss", "best_val_loss", "hellaswag", "tokens_per_second", "seconds", "bytes"
)  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """What two runs have not in common: `section` is "settings", "surroundings" or "results"."""

    section: str
    name: str
    first: Any
    second: Any


def differences(first: Path, second: Path) -> list[Difference]:
    """What differs between two runs. Their validation losses are also held beside each other where both have been
    measured last: at the same step, or else after the same number of tokens."""
    one, other = read(first), read(second)
    assert one is not None, "the caller has looked"
    assert other is not None, "the caller has looked"
    found = _between("settings", _settings(one), _settings(other))
    found += _between("surroundings", _surroundings(one), _surroundings(other))
    results, others = ({key: summarise(run).as_dict()[key] for key in _RESULTS} for run in (first, second))
    found += _between("results", results, others)
    return found + _where_both_were_measured(first, second)


def _between(section: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Difference]:
    names = dict.fromkeys((*first, *second))
    return [
        Difference(section, name, first.get(name), second.get(name))
        for name in names
        if first.get(name) != second.get(name)
    ]


def _settings(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """The settings by name, resolved where the run has resolved them: what was left to it has a value then."""
    settings = {name: value for name, value in recorded["settings"].items() if name not in _NOT_TOLD}
    resolved = {name.removeprefix("model "): value for name, value in recorded["identity"].items()}
    resolved["data_root"] = recorded["data"].get("folder", settings.get("data_root"))
    resolved["data"], resolved["tokenizer"] = resolved.get("data"), recorded.get("tokenizer")
    return {**settings, **resolved, "steps": recorded["steps"], "warmup": recorded["warmup"]}


def _surroundings(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Machine, versions, and how it computed."""
    known = {**recorded["resolved"], **recorded.get("versions", {}), "git_commit": recorded.get("git_commit")}
    return {name: value for name, value in known.items() if not isinstance(value, (dict, list))}


def _where_both_were_measured(first: Path, second: Path) -> list[Difference]:
    """The validation losses at the last step, or after the last number of tokens, that both were measured at."""
    for key, unit in (("step", "step"), ("tokens", "tokens")):
        one, other = ({row[key]: row["loss"] for row in _validations(run)} for run in (first, second))
        common = sorted(place for place in one.keys() & other.keys() if place > 0)
        if common and one[common[-1]] != other[common[-1]]:
            place = f"step {common[-1]:,}" if unit == "step" else f"{common[-1]:,} tokens"
            return [Difference("results", f"val_loss at {place}", one[common[-1]], other[common[-1]])]
    return []


def _validations(run: Path) -> list[dict[str, Any]]:
    return [
        row
        for row in metrics.read(run / metrics.METRICS)
        if row.get("kind") == "val" and number(row.get("loss")) is not None and number(row.get("tokens")) is not None
    ]
