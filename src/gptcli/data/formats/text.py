"""Plain text: a document a file, or the pieces between separators."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gptcli.data.formats.cuts import next_cut
from gptcli.data.formats.source import BOM, Held, Source, Span, begin_of_content
from gptcli.data.formats.texts import Loaded, ends_of, judged, not_utf8
from gptcli.data.formats.whole import Scan, scan_document
from gptcli.data.slices import Part, Problem, Reading, Texts


@dataclass(frozen=True)
class Text:
    """A part of a text file. begins: a byte-order mark may stand first. continues: it goes on with a document."""

    source: Span | Held
    begins: bool = False
    continues: bool = False

    def read(self, reading: Reading) -> Texts:
        """Its documents, as a search for separators from its beginning finds them."""
        data = self.source.load()
        if self.begins:
            data = data.removeprefix(BOM)
        separator = _separator(reading)
        pieces = data.split(separator) if separator else [data]
        if separator and not pieces[-1]:
            pieces.pop()
        ends = ends_of(pieces)

        def line(piece: int, place: int) -> int:
            begin = int(ends[piece]) - len(pieces[piece]) + piece * len(separator or b"")
            return data.count(b"\n", 0, begin + place)

        texts, ends_kept, problems = judged(b"".join(pieces) if separator else data, ends, reading, line)
        return Texts(texts, ends_kept, self.continues, line_feeds(data), "line", tuple(problems))


def small(source: Source) -> Part:
    """A file that is one slice, as it stands."""
    return Text(Span(source.path, 0, source.size), begins=True)


def plan(source: Source, reading: Reading) -> Iterator[tuple[Part, int]]:
    """Parts that end after a separator, or inside a long document where the reading allows it."""
    separator = _separator(reading)
    with source.view() as view, source.view() as ahead:
        start = begin_of_content(view)
        continues, sound = False, start  # sound: how far documents are known to be UTF-8
        while cut := next_cut(view, start, separator, reading.cuts):
            if cut.inside and reading.on_error is not None and cut.position > sound:
                before = view.read(start, cut.position)
                begin = cut.position - len(before.split(separator)[-1] if separator else before)
                scan = scan_document(ahead, begin, separator)
                if scan.bad_line is not None:
                    if begin > start:
                        part = Text(view.take(start, begin), continues=continues)
                        yield part, view.forget(begin)
                    faulty = _faulty(scan, view.read(begin, begin + 2), reading)
                    yield faulty, view.forget(scan.end)
                    start, continues = scan.end, False
                    if not view.read(start, start + 1):
                        return
                    continue
                sound = scan.end
            part = Text(view.take(start, cut.position), continues=continues)
            start, continues = cut.position, cut.inside
            yield part, view.forget(start)
        yield Text(view.take(start, None), continues=continues), source.size


def line_feeds(data: bytes) -> int:
    """How many lines end in it; several times as fast as bytes.count."""
    return int(np.count_nonzero(np.frombuffer(data, dtype=np.uint8) == ord("\n")))


def _separator(reading: Reading) -> bytes | None:
    return None if reading.separator is None else reading.separator.encode("utf-8")


def _faulty(scan: Scan, begin: bytes, reading: Reading) -> Part:
    """A long document of which nothing is let out."""
    assert scan.bad_line is not None
    problem: Problem = not_utf8(scan.bad_line, begin, reading)
    return Loaded(Texts(b"", ends_of([]), units=scan.lines, problems=(problem,)))
