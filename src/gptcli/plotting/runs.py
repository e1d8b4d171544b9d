"""The runs of a figure: what they logged, what tells them apart, and what they can be compared with."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from gptcli.errors import Errors, Fault, UsageError, nearest, raise_if
from gptcli.model.arithmetic import flops_per_token
from gptcli.model.config import GPTConfig
from gptcli.plotting.curves import Floats, Points
from gptcli.plotting.units import Axis
from gptcli.training import metrics
from gptcli.training.run_file import RUN, read, shape_of

Row = Mapping[str, Any]

_LONGEST_NAME = 32  # characters
_MOST_NAMED = 9  # runs in a hint: more are not told apart in a figure
_OF_A_CONFIG = {item.name for item in fields(GPTConfig)} - {"rope_scaling"}


@dataclass(frozen=True)
class Run:
    """A run that has begun: `name` tells it from the others, `rows` are its metrics of each kind by rising step,
    `recorded` is its `run.json` (empty where there is none)."""

    folder: Path
    name: str
    rows: Mapping[str, Sequence[Row]]
    recorded: Mapping[str, Any] = field(default_factory=dict)
    _columns: dict[tuple[str, str], Floats] = field(default_factory=dict, repr=False)

    def points(self, axis: Axis, kind: str, key: str, without: str = "") -> Points:
        """The values `key` of the rows of a `kind` over the axis, in steps, tokens, seconds or FLOPs, but for rows that
        are marked `without`. A step that was skipped may have no value, and has no point then."""
        x, y = self._column(kind, "tokens" if axis == "flops" else axis), self._column(kind, key)
        if axis == "flops":
            x = x * (self.flops_per_token or np.nan)
        wanted = np.isfinite(x) & np.isfinite(y)
        if without:
            wanted &= self._column(kind, without) != 1
        return Points(x[wanted], y[wanted])

    def _column(self, kind: str, key: str) -> Floats:
        """What the rows of a kind have under a key, NaN where that is no number; marks are 1."""
        if (kind, key) not in self._columns:
            values = (row.get(key) for row in self.rows.get(kind, ()))
            numbers = [float(value) if isinstance(value, (int, float)) else np.nan for value in values]
            self._columns[kind, key] = np.array(numbers, float)
        return self._columns[kind, key]

    @property
    def flops_per_token(self) -> int | None:
        """As the run recorded it, or from its shape where an earlier version did not; None where neither is known."""
        resolved, identity = self.recorded.get("resolved", {}), self.recorded.get("identity", {})
        if resolved.get("flops_per_token"):
            return int(resolved["flops_per_token"])
        shape = shape_of(self.recorded)
        try:
            config = GPTConfig(**{name: value for name, value in shape.items() if name in _OF_A_CONFIG})
            return flops_per_token(config, int(resolved["parameters"]), int(identity["n_tokens"])) if shape else None
        except (KeyError, TypeError, ValueError, UsageError):
            return None

    @property
    def is_fineweb_in_gpt2(self) -> bool:
        """Whether the run's data is what GPT-2's loss was measured on."""
        sources = self.recorded.get("data", {}).get("sources", [])
        datasets = [str(source.get("dataset", "")).lower() for source in sources]
        is_fineweb = bool(datasets) and all(dataset.endswith("/fineweb-edu") for dataset in datasets)
        return self.recorded.get("tokenizer") == "gpt2" and is_fineweb


def open_runs(folders: Iterable[Path], axis: Axis = "step") -> list[Run]:
    """The runs in these folders, one that is named twice once. Raises UsageError naming every folder that is none or
    has no steps, and every run that can't be drawn over `axis`."""
    named = {folder.resolve(): folder for folder in reversed(list(folders))}
    distinct = list(named.values())[::-1]
    runs: list[Run] = []
    errors = Errors()
    for folder, name in zip(distinct, names_of(distinct), strict=True):
        with errors.collected():
            runs.append(_open(folder, name, axis))
    errors.raise_all()
    return runs


def _open(folder: Path, name: str, axis: Axis) -> Run:
    rows = _by_kind(metrics.read(folder / metrics.METRICS)) if folder.is_dir() else {}
    if "train" not in rows:
        raise_if([_why_not(folder)])
    run = Run(folder, name, rows, read(folder) or {})
    if axis == "flops" and run.flops_per_token is None:
        raise UsageError(f"--x flops: {folder} does not tell how much arithmetic a token takes.", "Use --x tokens.")
    if not any(len(run.points(axis, "train", key)) for key in ("loss", "lr")):
        raise UsageError(f"--x {axis}: {folder} has nothing that could be drawn over that.", "Use --x step.")
    return run


def names_of(folders: Sequence[Path]) -> list[str]:
    """What tells runs apart: their paths without what all of them begin and end with. Long names lose their middle, if
    they can still be told apart."""
    parts = [folder.resolve().parts for folder in folders]
    if len(parts) == 1:
        names = [parts[0][-1]]
    else:
        parts = _without_shared(parts, 0)
        parts = _without_shared(parts, -1)
        names = ["/".join(of_run) for of_run in parts]
    short = [_shortened(name) for name in names]
    return short if len(set(short)) == len(short) else names


def _without_shared(parts: list[tuple[str, ...]], end: int) -> list[tuple[str, ...]]:
    """Without the parts at one `end` (0 or -1) that all have in common; each keeps one."""
    while all(len(of_run) > 1 for of_run in parts) and len({of_run[end] for of_run in parts}) == 1:
        parts = [of_run[1:] if end == 0 else of_run[:-1] for of_run in parts]
    return parts


def _shortened(name: str) -> str:
    if len(name) <= _LONGEST_NAME:
        return name
    half = (_LONGEST_NAME - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def _by_kind(rows: list[dict[str, Any]]) -> dict[str, list[Row]]:
    """Rising by step, the last word on each: a run that was killed while it dropped lines may have two."""
    last = {(str(row.get("kind")), row["step"]): row for row in rows}
    kinds: dict[str, list[Row]] = {}
    for kind, step in sorted(last):
        kinds.setdefault(kind, []).append(last[kind, step])
    return kinds


def _why_not(folder: Path) -> Fault:
    """What is wrong with a folder that no run can be read from."""
    if folder.is_file():
        return Fault(f"{folder} is a file; a run is a folder.", f"Did you mean '{folder.parent}'?")
    if not folder.is_dir():
        around = folder.parent if folder.parent.is_dir() else Path()
        close = nearest(str(folder), [str(path) for path in _runs_in(around)])
        hint = f"Did you mean '{close}'?" if close else "Name a run folder of gpt train."
        return Fault(f"There is no folder {folder}.", hint)
    if (folder / RUN).exists() or (folder / metrics.METRICS).exists():
        return Fault(f"{folder} has no steps to draw yet.", "Its curves begin with its first step.")
    inside = [shlex.quote(str(path)) for path in _runs_in(folder)]
    hint = f"It holds runs: gpt plot {' '.join(inside[:_MOST_NAMED])}" if inside else "Name a run folder of gpt train."
    return Fault(f"{folder} is not a run: it has no {metrics.METRICS}.", hint)


def _runs_in(folder: Path) -> list[Path]:
    return sorted(file.parent for depth in ("*", "*/*") for file in folder.glob(f"{depth}/{metrics.METRICS}"))
