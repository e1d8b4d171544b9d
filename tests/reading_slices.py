"""Reads files by their slices, of whatever size, and puts the documents together again."""

from __future__ import annotations

import bz2
import gzip
import lzma
import pickle
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pytest

from gptcli.data import slices
from gptcli.data.formats import slices_of
from gptcli.data.slices import Problem, Reading, Slice

SIZES = (1, 7, 64, 1000, 2**22)


def zstd(data: bytes) -> bytes:
    compressed: bytes = pa.compress(data, codec="zstd", asbytes=True)
    return compressed


COMPRESSIONS = {"": bytes, ".gz": gzip.compress, ".zst": zstd, ".xz": lzma.compress, ".bz2": bz2.compress}


@dataclass
class Contents:
    """What the slices of a file hold: documents in UTF-8, problems by their numbers in the file."""

    documents: list[bytes] = field(default_factory=list)
    problems: list[tuple[int, str, bool]] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    units: int = 0
    pieces: list[list[bytes]] = field(default_factory=list)  # the pieces of each document
    slices: list[Slice] = field(default_factory=list)

    @property
    def texts(self) -> list[str]:
        return [document.decode("utf-8") for document in self.documents]


def contents(path: Path, reading: Reading, size: int = slices.SLICE_BYTES) -> Contents:
    """Plan with slices of `size` bytes and read them all afterwards."""
    spool = path.parent / "spool"
    found = Contents()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slices, "SLICE_BYTES", size)
        found.slices = list(slices_of(path, reading, spool))
    for part in found.slices:
        assert pickle.dumps((part, reading)), "another process can't have it"
        _add(found, part, reading)
    assert sum(part.bytes for part in found.slices) == path.stat().st_size
    assert [part.begins_file for part in found.slices] == [True] + [False] * (len(found.slices) - 1)
    assert not spool.exists() or not list(spool.iterdir())
    found.documents = [b"".join(pieces) for pieces in found.pieces]
    return found


def _add(found: Contents, part: Slice, reading: Reading) -> None:
    texts = part.part.read(reading)
    begin = 0
    for number, end in enumerate(texts.ends.tolist()):
        piece = bytes(texts.data[begin:end])
        if number == 0 and texts.continues:
            found.pieces[-1].append(piece)
        else:
            found.pieces.append([piece])
        begin = end
    assert begin == len(texts.data)
    assert not (texts.continues and not len(texts.ends)), "it continues with nothing"
    assert all(0 <= problem.number <= texts.units for problem in texts.problems)
    found.problems += [_told(problem, found.units) for problem in texts.problems]
    found.hints += [problem.hint for problem in texts.problems]
    found.units += texts.units


def _told(problem: Problem, before: int) -> tuple[int, str, bool]:
    return before + problem.number, problem.reason, problem.replaced
