"""From files to slices, and from slices to texts.

A new format is one new file in this folder and one line in FORMATS. Its `plan` gives the parts of a file in order, at
least one, each with how far into the file on disk it reaches, in bytes; a part carries what its `read` needs
(slices.Part). `fault` tells what is wrong as far as a cheap look does. `small`, where a file can be read at a place,
gives the one part of a file that is not larger than a slice, without opening it. Compression is the Source's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from gptcli.data import slices
from gptcli.data.formats import arrow, csv_rows, json_items, jsonl, parquet, text
from gptcli.data.formats.compression import SUFFIXES, cannot_be_read
from gptcli.data.formats.source import Source
from gptcli.data.slices import Part, Reading, Slice
from gptcli.errors import Fault, UserError

Plan = Callable[[Source, Reading], Iterator[tuple[Part, int]]]


@dataclass(frozen=True)
class Format:
    """How files of one kind are planned, looked at and, if small, taken whole."""

    plan: Plan
    fault: Callable[[Source, Reading], Fault | None] | None = None
    small: Callable[[Source], Part] | None = None


FORMATS: dict[str, Format] = {
    ".txt": Format(text.plan, small=text.small),
    ".md": Format(text.plan, small=text.small),
    ".jsonl": Format(jsonl.plan, small=jsonl.small),
    ".json": Format(json_items.plan),
    ".csv": Format(csv_rows.plan, csv_rows.fault),
    ".parquet": Format(parquet.plan, parquet.fault),
    ".arrow": Format(arrow.plan, arrow.fault),
}

KINDS = f"{', '.join(FORMATS)}, each also {' '.join(SUFFIXES)}"


def is_known(name: str) -> bool:
    """Whether a file of this name can be read; what it is called tells."""
    return _suffix(name) in FORMATS


def is_plain_text(name: str) -> bool:
    """Whether a file of this name is text as it stands, in which documents are found by a separator."""
    return FORMATS[_suffix(name)].plan is text.plan


def slices_of(path: Path, reading: Reading, spool: Path) -> Iterator[Slice]:
    """The slices of a file in order, as they are asked for; there is at least one.

    They depend on its content and the reading alone. spool: a folder for what has to be unpacked, made when needed and
    cleared at the end. Raises UserError where the file can't be read, as for one that is cut off.
    """
    source, kind = _source(path, spool), FORMATS[_suffix(path.name)]
    if kind.small and not source.compressed and source.size <= slices.SLICE_BYTES:
        yield Slice(path, kind.small(source), source.size, begins_file=True)
        return
    parts = kind.plan(source, reading)
    part, position = next(parts)
    reached, begins = 0, True
    for later in parts:  # one behind, so that the last takes what is left of the file
        share = min(max(0, position - reached), source.size - reached)
        yield Slice(path, part, share, begins)
        reached, begins = reached + share, False
        part, position = later
    yield Slice(path, part, source.size - reached, begins)


def fault_of(path: Path, reading: Reading) -> Fault | None:
    """What is wrong with a file, as far as opening it tells, its footer, its schema or its header."""
    kind = FORMATS[_suffix(path.name)]
    try:
        source = _source(path, path.parent)
        with closing(source.open()) as stream:
            stream.read(1)
        return kind.fault(source, reading) if kind.fault else None
    except UserError as error:
        return error.faults[0]


def _suffix(name: str) -> str:
    """The suffix that names the format, with that of the compression taken off."""
    path = Path(name.lower())
    return Path(path.stem).suffix if path.suffix in SUFFIXES else path.suffix


def _source(path: Path, spool: Path) -> Source:
    try:
        return Source(path, path.stat().st_size, spool)
    except OSError as error:
        raise cannot_be_read(path, error) from error
