"""Whether a long document is UTF-8 throughout, which must be known before its first half is let out."""

from __future__ import annotations

import codecs
from dataclasses import dataclass

from gptcli.data.formats.source import View

_CHUNK = 2**20  # bytes


@dataclass(frozen=True)
class Scan:
    """A document and its separator end at `end`, and hold `lines` line feeds; `bad_line`: how many of them come before
    the first byte that is not UTF-8, None where there is none.
    """

    end: int
    lines: int
    bad_line: int | None


def scan_document(view: View, begin: int, separator: bytes | None) -> Scan:
    """Look through the document that begins at `begin`, a chunk at a time."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    held = b""  # where a separator may have begun
    position, lines, bad_line, found = begin, 0, None, -1
    while found < 0:
        view.forget(position)
        chunk = view.read(position, position + _CHUNK)
        position += len(chunk)
        held += chunk
        found = held.find(separator) if separator else -1
        if found >= 0:
            settled = found
        elif chunk:
            settled = max(0, len(held) - len(separator or b"x") + 1)
        else:
            settled = len(held)
        body, held = held[:settled], held[settled:]
        if bad_line is None:
            try:
                decoder.decode(body, final=found >= 0 or not chunk)
            except UnicodeDecodeError as error:
                bad_line = lines + error.object[: error.start].count(b"\n")
        lines += body.count(b"\n")
        if not chunk:
            return Scan(position, lines, bad_line)
    assert separator is not None
    lines += separator.count(b"\n")
    return Scan(position - len(held) + len(separator), lines, bad_line)
