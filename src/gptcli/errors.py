"""What a user can be told: errors in their terms, each with its mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong (`message`) and what to do about it (`hint`, may be empty)."""

    message: str
    hint: str = ""


class UserError(Exception):
    """A command failed for a reason that its user can act on. The command ends with exit code 1.

    Takes one fault as two strings, or several at once: `UserError(faults=[...])`.
    """

    exit_code = 1

    def __init__(self, message: str = "", hint: str = "", *, faults: Iterable[Fault] = ()) -> None:
        self.faults: list[Fault] = ([Fault(message, hint)] if message else []) + list(faults)
        assert self.faults, "an error without a fault"
        super().__init__("; ".join(fault.message for fault in self.faults))


class UsageError(UserError):
    """The call itself was wrong: an option, a value, a name of something that is not there. Exit code 2."""

    exit_code = 2


class ToldElsewhereError(UserError):
    """Another process of the run failed and has told the user; this one ends with the same exit code, silently."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("another process of the run failed")
        self.exit_code = exit_code


def raise_if(faults: list[Fault]) -> None:
    """Raise all collected faults of a call at once; nothing when there are none."""
    if faults:
        raise UsageError(faults=faults)


def nearest(word: str, candidates: Iterable[str]) -> str:
    """The candidate that `word` was probably meant to be, or an empty string."""
    matches = difflib.get_close_matches(word, list(candidates), n=1, cutoff=0.6)
    return matches[0] if matches else ""
