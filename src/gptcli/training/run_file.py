"""`run.json` as everybody reads it, and what else of a run folder has a fixed name. Imports nothing large."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gptcli.errors import UserError

RUN, PLOTS, PROFILES, TRACKING = "run.json", "plots", "profile", "tracking"


def read(run: Path) -> dict[str, Any] | None:
    """The content of a run's `run.json`, None where it has none. Raises UserError for one that is damaged or can't be
    read."""
    file = run / RUN
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        shape = {"identity": dict, "steps": int, "warmup": int, "settings": dict}
        if not all(isinstance(content[key], kind) for key, kind in shape.items()):
            raise TypeError(f"not the shape of {RUN}")
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged.", "Start again with --fresh, which moves the old run aside.") from error
    except OSError as error:
        raise UserError(f"{file} can't be read: {error.strerror or error}.", "Check the permissions.") from error
    return _of_today(dict(content))


def _of_today(content: dict[str, Any]) -> dict[str, Any]:
    """With the one source of the first version's data in a list, as later ones have it, and no part missing."""
    for part, empty in (("data", {}), ("resolved", {}), ("calls", [])):
        if content.get(part) is None:
            content[part] = empty
    data = content["data"]
    if isinstance(data, dict) and isinstance(data.get("sources"), dict):
        content["data"] = {**data, "sources": [data["sources"]]}
    return content


def shape_of(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """The model's shape by the names of GPTConfig, as the content of a `run.json` tells it; empty where it does not."""
    prefix = "model "
    told = recorded.get("identity", {}).items()
    return {name.removeprefix(prefix): value for name, value in told if name.startswith(prefix)}
