"""What a user can be told: errors in their terms, each with its mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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


class Errors:
    """Collects the errors of several checks, so that all that is wrong with a call is told at once."""

    def __init__(self) -> None:
        self._errors: list[UserError] = []

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Keeps a UserError of its block for later; what follows the block runs in any case."""
        try:
            yield
        except UserError as error:
            self._errors.append(error)

    def raise_all(self) -> None:
        """Raise what was collected: a UsageError, or a UserError where the call is right and only data is at fault."""
        if self._errors:
            kind = UsageError if any(isinstance(error, UsageError) for error in self._errors) else UserError
            raise kind(faults=[fault for error in self._errors for fault in error.faults])


def nearest(word: str, candidates: Iterable[str]) -> str:
    """The candidate that `word` was probably meant to be, or an empty string."""
    matches = difflib.get_close_matches(word, list(candidates), n=1, cutoff=0.6)
    return matches[0] if matches else ""
