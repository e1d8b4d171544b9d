"""JSON: an array of objects, one object, or several one after another; read as a stream."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

from gptcli.data import slices
from gptcli.data.formats.compression import Stream
from gptcli.data.formats.json_text import decoder, invalid, text_of_bytes, text_of_value
from gptcli.data.formats.source import Source
from gptcli.data.formats.texts import Loaded, ends_of
from gptcli.data.slices import Part, Problem, Reading, Texts

_SPACE = re.compile(r"[ \t\n\r]*")
_CHUNK = 2**20  # bytes
_LITERAL = 16  # characters; longer than any word or escape of JSON that the end of a chunk may have cut
_OBJECT_ON_A_LINE = "\n{"

Outcome = tuple[bytes | None, Problem | None]  # an item's text, or why it has none; both where bytes were replaced


def plan(source: Source, reading: Reading) -> Iterator[tuple[Part, int]]:
    """Parts of about SLICE_BYTES of text, in whole items."""
    with closing(source.open()) as stream:
        texts: list[bytes] = []
        problems: list[Problem] = []
        units = size = 0
        for text, problem in _outcomes(_Buffer(stream), reading):
            if problem is not None:
                problems.append(replace(problem, number=units))
            if text is not None:
                texts.append(text)
                size += len(text)
            units += 1
            if size + units >= slices.SLICE_BYTES:  # empty texts take room too
                yield _part(texts, units, problems), stream.position()
                texts, problems, units, size = [], [], 0, 0
        yield _part(texts, units, problems), source.size


def _part(texts: list[bytes], units: int, problems: list[Problem]) -> Part:
    return Loaded(Texts(b"".join(texts), ends_of(texts), units=units, unit="item", problems=tuple(problems)))


class _Buffer:
    """The file's text from `at` on, as far as it has been read.

    Bytes that are not UTF-8 become lone surrogates, so that the item which has them can be told.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape")
        self.text = ""
        self.at = 0
        while len(self.text) < 2 and self.more():
            pass
        self.begin = self.text[:2].encode("utf-8", "surrogateescape")
        self.text = self.text.removeprefix("\ufeff")

    def more(self) -> bool:
        """Read on; False at the end of the file. Ever larger chunks keep the work for a long item linear."""
        chunk = self._stream.read(max(_CHUNK, len(self.text) - self.at))
        added = self._decoder.decode(chunk, final=not chunk)
        self.text = self.text[self.at :] + added
        self.at = 0
        return bool(chunk) or bool(added)

    def next_character(self) -> str:
        """The character after white space, "" at the end of the file."""
        while True:
            match = _SPACE.match(self.text, self.at)
            self.at = match.end() if match else self.at
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def value(self) -> tuple[Any, int]:
        """The value that begins here, and where it ends.

        Raises ValueError and RecursionError for what can't be decoded.
        """
        while True:
            try:
                value, end = decoder.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                cut_off = error.msg.startswith("Unterminated string") or error.pos > len(self.text) - _LITERAL
                if not (cut_off and self.more()):
                    raise
            else:
                if end < len(self.text) or isinstance(value, (str, dict, list)) or not self.more():
                    return value, end

    def skip_to_object(self) -> bool:
        """Go to the next object that begins a line; False where there is none."""
        while (found := self.text.find(_OBJECT_ON_A_LINE, self.at)) < 0:
            self.at = max(self.at, len(self.text) - 1)
            if not self.more():
                return False
        self.at = found + 1
        return True


def _outcomes(buffer: _Buffer, reading: Reading) -> Iterator[Outcome]:
    """What each item of the file comes to: those of arrays, and values beside them."""
    while here := buffer.next_character():
        if here == "[":
            buffer.at += 1
            if not (yield from _array(buffer, reading)):
                return
            continue
        try:
            outcome = _item(buffer, reading)
        except (ValueError, RecursionError) as error:
            # In a file of JSON Lines that is called .json the next line is good again.
            resumed = buffer.skip_to_object()
            yield None, _invalid(buffer, error, resumed)
            if not resumed:
                return
        else:
            yield outcome


def _array(buffer: _Buffer, reading: Reading) -> Generator[Outcome, None, bool]:
    """What each item of the array comes to whose bracket has just been passed; False where it is damaged."""
    here = buffer.next_character()
    comma = False
    try:
        while comma or here != "]":
            yield _item(buffer, reading)
            here = buffer.next_character()
            if here not in ",]" or not here:
                raise json.JSONDecodeError("Expecting ',' delimiter", "", 0)
            comma = here == ","
            if comma:
                buffer.at += 1
                here = buffer.next_character()
    except (ValueError, RecursionError) as error:
        yield None, _invalid(buffer, error, resumed=False)
        return False
    buffer.at += 1
    return True


def _item(buffer: _Buffer, reading: Reading) -> Outcome:
    """What the value that begins here comes to, an object or a plain string; the buffer then stands behind it.

    Raises ValueError and RecursionError for what can't be decoded.
    """
    value, end = buffer.value()
    begin, buffer.at = buffer.at, end
    text = text_of_value(value, 0, reading, "item")
    if isinstance(text, Problem):
        return None, text
    try:
        return text.encode("utf-8"), None
    except UnicodeEncodeError:
        return text_of_bytes(buffer.text[begin:end].encode("utf-8", "surrogateescape"), 0, reading, "item")


def _invalid(buffer: _Buffer, error: Exception, resumed: bool) -> Problem:
    more = "" if resumed else "; what follows can't be read"
    return invalid(0, error, buffer.begin, "item", more)
