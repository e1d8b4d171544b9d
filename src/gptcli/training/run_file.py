"""`run.json` as everybody reads it, and what else of a run folder has a fixed name. Imports nothing large."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gptcli.errors import UserError

RUN, PLOTS, PROFILES, TRACKING = "run.json", "plots", "profile", "tracking"


def read(run: Path) -> dict[str, Any] | None:
    """The content of a run's `run.json`, None where it has none. Raises UserError for a damaged one."""
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
    return dict(content)
