"""What a check tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "fault"]


@dataclass(frozen=True)
class Finding:
    """What was looked at and found, and the mend where it is not well. A warning is something that may do no harm."""

    name: str
    state: State
    found: str
    mend: str = ""


def ok(name: str, found: str) -> Finding:
    """It is well."""
    return Finding(name, "ok", found)


def warning(name: str, found: str, mend: str) -> Finding:
    """It may do harm."""
    return Finding(name, "warning", found, mend)


def fault(name: str, found: str, mend: str) -> Finding:
    """It keeps something from working."""
    return Finding(name, "fault", found, mend)
