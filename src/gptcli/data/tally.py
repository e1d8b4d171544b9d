"""What has been counted on the way from sources to shards: documents, bytes, tokens, and what could not be read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from gptcli.data.slices import Bundle, OnError, Problem
from gptcli.errors import UserError

_NAMED_PROBLEMS = 1000  # kept by name; all are counted


@dataclass(frozen=True)
class SliceFacts:
    """What the numbering of problems needs of a slice that was read. See `Texts`."""

    units: int
    unit: str
    problems: tuple[Problem, ...]


class LocatedProblem(BaseModel):
    """A document that was left out or changed: file, and line, row or item counted from 1."""

    model_config = ConfigDict(frozen=True)

    file: str
    unit: str
    number: int
    reason: str
    replaced: bool = False

    def __str__(self) -> str:
        return f"{self.file}, {self.unit} {self.number:,}: {self.reason}"


class Tally(BaseModel):
    """All counts up to some place in the sources.

    bytes: of text, in UTF-8. source_bytes: of the files. units: lines, rows or items of the present file.
    """

    model_config = ConfigDict(frozen=True)

    documents: int = 0
    bytes: int = 0
    tokens: int = 0
    source_bytes: int = 0
    units: int = 0
    skipped: int = 0
    replaced: int = 0
    problems: tuple[LocatedProblem, ...] = ()

    def after(self, bundle: Bundle, facts: Iterable[SliceFacts], on_error: OnError | None) -> Tally:
        """The tally with a bundle's problems and place added; its documents, bytes and tokens are for `counted`.

        Raises UserError at the first document that can't be read, unless they are to be skipped.
        """
        units, skipped, replaced, found = self.units, self.skipped, self.replaced, list(self.problems)
        for part, name, read in zip(bundle.slices, bundle.names, facts, strict=True):
            units = 0 if part.begins_file else units
            for problem in read.problems:
                number = units + problem.number + 1
                located = LocatedProblem(
                    file=name, unit=read.unit, number=number, reason=problem.reason, replaced=problem.replaced
                )
                if not problem.replaced and on_error != "skip":
                    hint = problem.hint or "Mend it."
                    if "--on-error" not in hint:
                        hint += " Or leave such documents out with --on-error skip."
                    raise UserError(f"{located}.", hint)
                skipped += not problem.replaced
                replaced += problem.replaced
                if len(found) < _NAMED_PROBLEMS:
                    found.append(located)
            units += read.units
        return self.model_copy(
            update={
                "source_bytes": self.source_bytes + bundle.bytes,
                "units": units,
                "skipped": skipped,
                "replaced": replaced,
                "problems": tuple(found),
            }
        )

    def counted(self, documents: int, size: int, tokens: int) -> Tally:
        """The tally with so many documents, bytes of text and tokens more."""
        return self.model_copy(
            update={
                "documents": self.documents + documents,
                "bytes": self.bytes + size,
                "tokens": self.tokens + tokens,
            }
        )
