"""A run in a row: where it stands, how good it is, how fast, how large."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gptcli.model.locate import CHECKPOINTS
from gptcli.runs.replay import SCORES, number
from gptcli.runs.state import State, state_of
from gptcli.training.metrics import METRICS
from gptcli.training.run_file import PLOTS, PROFILES, RUN, TRACKING, read

DEEPEST = 4  # levels of folders under which runs are looked for
RECENT = 100  # steps of which the speed is the median
_TRAIN = '"kind": "train"'  # as `metrics.jsonl` has it in each line of a step


@dataclass(frozen=True)
class RunSummary:
    """`tokens` and `seconds` are those of the run so far, `bytes` what its folder takes on the disk. Losses are in
    nats, `hellaswag` is the last acc_norm, `tokens_per_second` the median of the last steps; what was not measured is
    None. `started` is when it was first called: ISO 8601, in UTC."""

    path: Path
    state: State
    step: int
    steps: int
    tokens: int
    loss: float | None
    val_loss: float | None
    best_val_loss: float | None
    hellaswag: float | None
    tokens_per_second: float | None
    seconds: float
    bytes: int
    parameters: int | None
    model: str
    data: str
    started: str | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "path": str(self.path)}


def find_runs(folder: Path) -> list[Path]:
    """The runs at and under `folder`, by path. Hidden folders, and what belongs to a run, are not looked into."""
    found = []
    for where, folders, files in os.walk(folder):
        depth = len(Path(where).relative_to(folder).parts)
        if RUN in files:
            found.append(Path(where))
        inside = {CHECKPOINTS, PLOTS, PROFILES, TRACKING} if RUN in files else set()
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in inside)
        if depth == DEEPEST:
            folders.clear()
    return found


def summarise(run: Path) -> RunSummary:
    """The summary of the run in a folder. Raises UserError where its `run.json` is missing or damaged."""
    recorded = read(run)
    assert recorded is not None, "find_runs found it by that file"
    others, steps = _rows(run / METRICS)
    val, scores = _scores(others, "val"), _scores(others, "hellaswag")
    last = max((*others, *steps), key=lambda row: row["step"], default={"step": 0})
    speeds = _numbers([row for row in steps if "profiled" not in row], "tokens_per_second")
    losses = _numbers(steps, "loss")
    resolved, calls = recorded["resolved"], recorded["calls"]
    return RunSummary(
        path=run,
        state=state_of(run, recorded, last["step"]),
        step=last["step"],
        steps=recorded["steps"],
        tokens=int(number(last.get("tokens")) or 0),
        loss=losses[-1] if losses else None,
        val_loss=val[-1] if val else None,
        best_val_loss=min(val, default=None),
        hellaswag=scores[-1] if scores else None,
        tokens_per_second=statistics.median(speeds) if speeds else None,
        seconds=max(_numbers((*others, *steps), "time"), default=0.0),
        bytes=_size(run),
        parameters=resolved.get("parameters"),
        model=model_of(recorded),
        data=Path(str(recorded["data"].get("folder", ""))).name,
        started=calls[0].get("time") if calls else None,
    )


def _scores(rows: Sequence[Mapping[str, Any]], kind: str) -> list[float]:
    return _numbers([row for row in rows if row.get("kind") == kind], SCORES[kind])


def _numbers(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [value for row in rows if (value := number(row.get(name))) is not None]


def model_of(recorded: Mapping[str, Any]) -> str:
    """A run's model in a word: its preset, or else its layers and width (`12×768`)."""
    settings, identity = recorded["settings"], recorded["identity"]
    layers, width = identity.get("model n_layers"), identity.get("model emb_dim")
    return str(settings.get("preset") or settings.get("init_from") or f"{layers}×{width}")


def _rows(file: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What a log has beside its steps, and its last steps; of these a long run has some ten thousand, and the others
    are not parsed."""
    others: list[str] = []
    steps: deque[str] = deque(maxlen=RECENT)
    if file.exists():
        with file.open(encoding="utf-8", errors="replace", newline="\n") as lines:
            for line in lines:
                (steps if _TRAIN in line else others).append(line)
    return list(_parsed(others)), list(_parsed(steps))


def _parsed(lines: Iterator[str] | list[str] | deque[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:  # cut off by a crash
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            yield row


def _size(run: Path) -> int:
    """Bytes of a run's files, without those of other runs in its folder."""
    size = 0
    for where, folders, files in os.walk(run):
        folders[:] = [name for name in folders if not (Path(where) / name / RUN).exists()]
        for name in files:
            with contextlib.suppress(OSError):  # a run that goes on removes its old checkpoints
                size += (Path(where) / name).stat().st_size
    return size
