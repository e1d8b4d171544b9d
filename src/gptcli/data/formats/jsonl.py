"""JSON Lines: a document is the text of an object, one a line; blank lines are passed over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gptcli.data.formats.cuts import next_cut
from gptcli.data.formats.json_text import decoder, text_of_bytes
from gptcli.data.formats.source import BOM, Held, Source, Span, begin_of_content
from gptcli.data.formats.texts import ends_of
from gptcli.data.slices import Part, Problem, Reading, Texts


@dataclass(frozen=True)
class Lines:
    """Whole lines of a file. begins: a byte-order mark may stand first."""

    source: Span | Held
    begins: bool = False

    def read(self, reading: Reading) -> Texts:
        """The text of each line."""
        data = self.source.load()
        if self.begins:
            data = data.removeprefix(BOM)
        lines = data.split(b"\n")
        if not lines[-1]:
            lines.pop()
        texts: list[bytes] = []
        problems: list[Problem] = []
        column = reading.text_column
        for number, line in enumerate(lines):
            if not line or line.isspace():
                continue
            try:
                texts.append(decoder.decode(line.decode("utf-8"))[column].encode("utf-8"))
            except (ValueError, RecursionError, TypeError, LookupError, AttributeError):
                text, problem = text_of_bytes(line, number, reading, "line")
                if text is not None:
                    texts.append(text)
                if problem is not None:
                    problems.append(problem)
        return Texts(b"".join(texts), ends_of(texts), units=len(lines), unit="line", problems=tuple(problems))


def small(source: Source) -> Part:
    """A file that is one slice, as it stands."""
    return Lines(Span(source.path, 0, source.size), begins=True)


def plan(source: Source, reading: Reading) -> Iterator[tuple[Part, int]]:
    """Parts that end with a line."""
    with source.view() as view:
        start = begin_of_content(view)
        while cut := next_cut(view, start, b"\n", "none"):
            part = Lines(view.take(start, cut.position))
            start = cut.position
            yield part, view.forget(start)
        yield Lines(view.take(start, None)), source.size
