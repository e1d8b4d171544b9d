"""`provenance.json`: where a model comes from. It lies beside the weights and goes with them, to wherever the folder is
copied and into what is exported from it; nothing needs it to load the model or to go on with the run.

It holds what `run.json` says of the run and of the call that wrote the checkpoint, and where training stood. It never
holds anything of the environment but the versions of what computed. Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from gptcli.data.source_records import shortened
from gptcli.errors import UserError
from gptcli.model.locate import CHECKPOINTS, STATE
from gptcli.training import run_file

PROVENANCE = "provenance.json"
_OF_THE_MODEL = {"parameters", "flops_per_token", "metrics"}  # of what was resolved: not how it was computed


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class DataOrigin(_Part):
    """The token shards: their folder as the run named it, the fingerprint of their content, tokens by split; totals and
    sources as their manifest has them, where they have one."""

    folder: str | None = None
    fingerprint: str | None = None
    tokens: dict[str, int] = {}
    totals: dict[str, int] | None = None
    sources: tuple[dict[str, JsonValue], ...] = ()


class TokenizerOrigin(_Part):
    """The tokenizer that the shards were made with, and its fingerprint."""

    name: str
    sha256: str | None = None


class Provenance(_Part):
    """Where a model comes from; what is not known is None or empty.

    `run` is the name of the run's folder, `started` when its first call began and `saved` when the checkpoint was
    written, both in ISO 8601 and UTC; `steps` is how long the run was to be, `step` and `tokens` how far it had come,
    `val_loss` what was measured there. `command`, `versions`, `git_commit` and `computed` (device, precision,
    processes) are those of the call that wrote the checkpoint, `settings` all options of `gpt train` that it had.
    """

    format: int = 1
    run: str | None = None
    started: str | None = None
    saved: str | None = None
    step: int | None = None
    steps: int | None = None
    tokens: int | None = None
    val_loss: float | None = None
    data: DataOrigin = DataOrigin()
    tokenizer: TokenizerOrigin | None = None
    settings: dict[str, JsonValue] = {}
    computed: dict[str, JsonValue] = {}
    command: tuple[str, ...] | None = None
    versions: dict[str, str] = {}
    git_commit: str | None = None


@dataclass(frozen=True)
class Origin:
    """What all checkpoints of a call have in common, from which `at` makes the provenance of one."""

    common: Provenance
    tokens_per_step: int | None

    def at(self, step: int, val_loss: float | None, saved: str | None) -> Provenance:
        """The provenance of the checkpoint of `step`, at which `val_loss` was measured, `saved` at that time."""
        tokens = step * self.tokens_per_step if self.tokens_per_step else None
        return self.common.model_copy(update={"step": step, "tokens": tokens, "val_loss": val_loss, "saved": saved})


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def origin_of(run: Path) -> Origin | None:
    """What the newest call wrote into a run's `run.json`; None where there is none. Raises UserError for a damaged
    one."""
    recorded = run_file.read(run)
    return None if recorded is None else _origin(run, recorded)


def write(folder: Path, provenance: Provenance) -> None:
    """Write it beside the weights in `folder`. Raises OSError."""
    (folder / PROVENANCE).write_bytes(as_json(provenance).encode("utf-8", errors="replace"))


def as_json(provenance: Provenance) -> str:
    """The content of its file."""
    return json.dumps(provenance.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read(folder: Path) -> Provenance | None:
    """Where the model in `folder` comes from: by its own file; a checkpoint of a version that wrote none, still in its
    run, by what the run's files tell; None for any other. Raises UserError for a damaged file."""
    try:
        return Provenance.model_validate_json((folder / PROVENANCE).read_bytes())
    except FileNotFoundError:
        return _from_run(folder)
    except (OSError, ValidationError) as error:
        raise UserError(f"{folder / PROVENANCE} is damaged or can't be read.", "Copy it again.") from error


def _from_run(checkpoint: Path) -> Provenance | None:
    """What a run's `run.json` and the checkpoint's own state tell. Which of several calls wrote the checkpoint is not
    known then, so only what all of them have in common is told of the call."""
    checkpoint = checkpoint.resolve()
    run = checkpoint.parent.parent
    if checkpoint.parent.name != CHECKPOINTS or not (checkpoint / STATE).is_file():
        return None
    try:
        state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
        step, val_loss = int(state["step"]), state["val_loss"]
        recorded = run_file.read(run)
        if recorded is None:
            return Provenance(step=step, val_loss=val_loss)
        return _origin(run, recorded | _shared(recorded)).at(step, val_loss, None)
    except (OSError, ValueError, KeyError, TypeError, UserError):
        return None  # what can't be told must not keep anybody from the model


def _shared(recorded: Mapping[str, Any]) -> dict[str, Any]:
    calls = recorded.get("calls") or [recorded]
    keys = ("command", "versions", "git_commit")
    same = {key for key in keys if all(call.get(key) == calls[0].get(key) for call in calls)}
    return {key: calls[0].get(key) if key in same else None for key in keys}


def _origin(run: Path, recorded: Mapping[str, Any]) -> Origin:
    data, resolved = recorded.get("data") or {}, dict(recorded.get("resolved") or {})
    name, calls = recorded.get("tokenizer"), recorded.get("calls") or [recorded]
    tokens_per_step = resolved.pop("tokens_per_step", None)
    known = {
        "run": run.resolve().name,
        "started": calls[0].get("time"),
        "steps": recorded["steps"],
        "data": {**data, "sources": [shortened(source) for source in data.get("sources", ())]},
        "tokenizer": {"name": name, "sha256": recorded["identity"].get("tokenizer")} if name else None,
        "settings": recorded["settings"],
        "computed": {key: value for key, value in resolved.items() if key not in _OF_THE_MODEL},
        **{key: recorded[key] for key in ("command", "versions", "git_commit") if recorded.get(key) is not None},
    }
    try:
        return Origin(Provenance.model_validate(known), tokens_per_step)
    except ValidationError as error:
        raise UserError(f"{run / run_file.RUN} is damaged.", "Copy it again.") from error
