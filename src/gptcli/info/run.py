"""What a run's folder tells: how it was set up, by which calls, on what data, and the state of its checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from gptcli.errors import UserError
from gptcli.model.checksums import damage, is_sealed
from gptcli.model.config import GPTConfig
from gptcli.model.formats import format_of
from gptcli.model.locate import CHECKPOINTS, best_of, checkpoints_of, step_of, val_loss_of
from gptcli.settings import TrainSettings
from gptcli.training import provenance, run_file
from gptcli.training.provenance import Provenance

DAMAGED = "damaged_*"  # checkpoints that a run has set aside


@dataclass(frozen=True)
class CheckpointState:
    """A checkpoint of a run; `fault` goes on from its name and is empty for a sound one. `bytes` are those of its
    files, `saved` when it was written, where that is known."""

    folder: Path
    step: int
    val_loss: float | None
    saved: str | None
    bytes: int
    is_best: bool
    fault: str


@dataclass(frozen=True)
class RunInfo:
    """A run. `provenance` tells of its newest call, None where it has no `run.json`; its `step` is that of the newest
    sound checkpoint. `changed` are the settings that are not the defaults, `calls` all that were made of it, as
    `run.json` has them; `set_aside` checkpoints that the run found damaged and keeps under another name."""

    folder: Path
    family: str | None
    shape: GPTConfig | None
    parameters: int | None
    provenance: Provenance | None
    changed: Mapping[str, JsonValue]
    calls: tuple[Mapping[str, Any], ...]
    checkpoints: tuple[CheckpointState, ...]
    set_aside: tuple[Path, ...]
    verified: bool
    faults: tuple[str, ...] = field(default=())

    def as_dict(self) -> dict[str, Any]:
        """What `gpt info --json` prints."""
        return {
            "kind": "run",
            "folder": str(self.folder),
            "family": self.family,
            "shape": asdict(self.shape) if self.shape else None,
            "parameters": self.parameters,
            "provenance": self.provenance.model_dump(mode="json") if self.provenance else None,
            "changed": dict(self.changed),
            "calls": [dict(call) for call in self.calls],
            "checkpoints": [vars(state) | {"folder": str(state.folder)} for state in self.checkpoints],
            "set_aside": [str(folder) for folder in self.set_aside],
            "verified": self.verified,
            "faults": list(self.faults),
        }


def run_info(folder: Path, *, verify: bool = False) -> RunInfo:
    """Look at a run; with `verify` the checksums of its checkpoints are compared, which reads every byte of them.
    Raises UserError for a damaged `run.json`."""
    recorded = run_file.read(folder) or {}
    best = best_of(folder)
    checkpoints = tuple(_state(checkpoint, checkpoint == best, verify) for checkpoint in checkpoints_of(folder))
    sound = [state for state in checkpoints if not state.fault]
    shape = _shape(recorded)
    parameters = (recorded.get("resolved") or {}).get("parameters")
    origin = provenance.origin_of(folder)
    newest = sound[-1] if sound else None
    step, val_loss = (newest.step, newest.val_loss) if newest else (0, None)
    return RunInfo(
        folder=folder,
        family=format_of(shape).name if shape else None,
        shape=shape,
        parameters=parameters if isinstance(parameters, int) else None,
        provenance=origin.at(step, val_loss, newest.saved if newest else None) if origin else None,
        changed=changed(recorded.get("settings", {})),
        calls=tuple(call for call in recorded.get("calls", ()) if isinstance(call, dict)),
        checkpoints=checkpoints,
        set_aside=tuple(sorted((folder / CHECKPOINTS).glob(DAMAGED))),
        verified=verify,
        faults=tuple(f"{state.folder.name} {state.fault}" for state in checkpoints if state.fault),
    )


def changed(settings: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """The settings of a run that are not the defaults of `gpt train`."""
    defaults = TrainSettings().model_dump(mode="json")
    return {name: value for name, value in settings.items() if name not in defaults or value != defaults[name]}


def _state(folder: Path, is_best: bool, verify: bool) -> CheckpointState:
    try:
        told = provenance.read(folder)
    except UserError:  # told of by the checksums
        told = None
    return CheckpointState(
        folder=folder,
        step=step_of(folder),
        val_loss=val_loss_of(folder),
        saved=told.saved if told else None,
        bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        is_best=is_best,
        fault=damage(folder, contents=verify) if is_sealed(folder) else "",
    )


def _shape(recorded: Mapping[str, Any]) -> GPTConfig | None:
    """The shape that `run.json` tells, as far as this version knows what it tells."""
    told = run_file.shape_of(recorded)
    known = {name: value for name, value in told.items() if name in GPTConfig.__dataclass_fields__}
    try:
        return GPTConfig(**known) if known else None
    except (UserError, TypeError):
        return None
