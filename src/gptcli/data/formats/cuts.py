r"""Where a file is cut into slices: after a separator, or inside a document where its ids stay what they are.

**After a separator.** Documents are the pieces that a search from left to right finds, without overlaps. An occurrence
that no other occurrence overlaps from before is certainly found: whatever the search took earlier ends at or before its
beginning. So a cut behind it can be told from a few bytes, and the search begins anew there with the same result. The
same holds for a cut inside a document, if no occurrence reaches across it or ends at it.

**Between words**: behind a letter or an ASCII digit and before ASCII white space. The split patterns of GPT-2 (r50k,
p50k), cl100k and o200k never look behind; a match that holds a letter or digit is a word or a number, with at most a
character before it and a contraction after it, and takes in no white space behind, so one match ends at the cut. Their
only look ahead, at the end of a run of white space, sees the letter before the cut at the latest. So the matches on
both sides are those of the whole text, and ids never reach across matches.

**Between characters**: before any byte that does not continue a UTF-8 sequence. Decoding with replacement gives the
same on both sides, as such a byte ends any sequence that is incomplete.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gptcli.data import slices
from gptcli.data.formats.source import View
from gptcli.data.slices import Cuts

# Letters (\\p{L}) in UTF-8. Not all there are, but so many that every large script has places to be cut at.
_LETTERS = (
    rb"[A-Za-z0-9]",
    rb"\xc3[\x80-\x96\x98-\xb6\xb8-\xbf]", rb"[\xc4\xc5][\x80-\xbf]",  # Latin with accents
    rb"\xce[\x91-\xa1\xa3-\xbf]", rb"\xcf[\x80-\x8e]",  # Greek
    rb"[\xd0\xd1\xd3][\x80-\xbf]", rb"\xd2[\x8a-\xbf]",  # Cyrillic
    rb"\xd7[\x90-\xaa]", rb"\xd8[\xa1-\xba]", rb"\xd9[\x81-\x8a]",  # Hebrew, Arabic
    rb"\xe0\xa4[\x85-\xb9]", rb"\xe0\xb8[\x81-\xb0]",  # Devanagari, Thai
    rb"\xe3\x81[\x81-\xbf]", rb"\xe3\x82[\x80-\x96\xa1-\xbf]", rb"\xe3\x83[\x80-\xba]",  # Kana
    rb"\xe4[\xb8-\xbf][\x80-\xbf]", rb"[\xe5-\xe8][\x80-\xbf]{2}", rb"\xe9[\x80-\xbd][\x80-\xbf]",  # Chinese
    rb"\xea[\xb0-\xbf][\x80-\xbf]", rb"[\xeb\xec][\x80-\xbf]{2}", rb"\xed[\x80-\x9d][\x80-\xbf]",  # Hangul
)  # fmt: skip
_BEHIND_A_LETTER = b"|".join(b"(?<=%b.)" % letter for letter in _LETTERS)

_PLACES = {
    "words": re.compile(rb"[ \t\n\r](?:%b)" % _BEHIND_A_LETTER, re.DOTALL),
    "characters": re.compile(rb"[\x00-\x7f\xc0-\xff]"),
}


@dataclass(frozen=True)
class Cut:
    """The place before the byte at `position`; `inside` a document, or where one ends."""

    position: int
    inside: bool


def next_cut(view: View, start: int, separator: bytes | None, cuts: Cuts) -> Cut | None:
    """The end of a slice of at least SLICE_BYTES that begins at `start`; None where the file holds no more than that.

    Separators are preferred to places inside a document if there is one within reach.
    """
    target = start + slices.SLICE_BYTES
    width = len(separator or b"")
    reach = max(1, slices.SLICE_BYTES // 64)
    while True:
        # Two separators before the target tell of any that overlap; one more byte behind tells that the file goes on.
        begin = max(start, target - 2 * width - 1)
        first = target - begin
        wanted = first + reach + width + 1
        data = view.read(begin, begin + wanted)
        if len(data) <= first:
            return None
        if separator and (place := after_separator(data, separator, first)) is not None and place < len(data):
            return Cut(begin + place, inside=False)
        if cuts != "none" and (place := inside_document(data, separator, cuts, first, first + reach)) is not None:
            return Cut(begin + place, inside=True)
        if len(data) < wanted:
            return None
        target += reach


def after_separator(data: bytes, separator: bytes, first: int) -> int | None:
    """The end, at or after `first`, of a separator that a search through the whole file certainly finds.

    `data` must begin where a search begins, or two separators before `first`.
    """
    width = len(separator)
    previous = -width
    at = data.find(separator)
    while at >= 0:
        if at + width >= first and at >= previous + width:
            return at + width
        previous = at
        at = data.find(separator, at + 1)
    return None


def inside_document(data: bytes, separator: bytes | None, cuts: Cuts, first: int, stop: int) -> int | None:
    """A place in first … stop - 1 at which a document may be cut, away from any separator."""
    width = len(separator or b"")
    for match in _PLACES[cuts].finditer(data, first, stop):
        place = match.start()
        if not separator or data.find(separator, max(0, place - width), place - 1 + width) < 0:
            return place
    return None


def last_inside_document(data: bytes, cuts: Cuts) -> int | None:
    """The last place in `data`, the beginning of a document, at which it may be cut; None where there is none."""
    if cuts == "none":
        return None
    return max((match.start() for match in _PLACES[cuts].finditer(data, 1)), default=None)
