from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from reading_slices import COMPRESSIONS, Contents, contents

from gptcli.data import slices
from gptcli.data.formats import slices_of
from gptcli.data.formats.cuts import after_separator
from gptcli.data.formats.source import Span
from gptcli.data.slices import Cuts, Reading
from gptcli.tokenizer import get_tokenizer

# As tiktoken has them for r50k_base (and gpt2, p50k_base), cl100k_base and o200k_base.
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
PATTERNS = {
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
    "cl100k_base": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
    "o200k_base": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+" + _CONTRACTION + "|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*" + _CONTRACTION + "|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
WORDS = st.sampled_from(
    [
        "a",
        "the",
        "It's",
        "we'VE",
        "ſ'ſ",
        "1",
        "12345",
        "é",
        "e\u0301",
        "日本",
        "²",
        "_",
        "'",
        "!?",
        "/",
        "😀",
        "\x1c",
        "<|endoftext|>",
        *(" ", "  ", "\n", "\r\n", "\t", "\n\n", "\u3000", "\x0b", "\u2028"),
    ]
)
TEXTS = st.one_of(st.lists(WORDS, max_size=40).map("".join), st.text(max_size=60))


@cache
def encoding(pattern: str) -> tiktoken.Encoding:
    return tiktoken.Encoding(
        "test", pat_str=PATTERNS[pattern], mergeable_ranks=get_tokenizer("gpt2").ranks, special_tokens={}
    )


def in_slices(data: bytes, size: int, reading: Reading, suffix: str = "") -> Contents:
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"a.txt{suffix}"
        path.write_bytes(COMPRESSIONS[suffix](data))
        return contents(path, reading, size)


@pytest.mark.parametrize("pattern", PATTERNS)
@settings(max_examples=150, deadline=None)
@given(text=TEXTS, size=st.integers(1, 12))
def test_ids_of_the_pieces_between_words_are_those_of_the_whole(pattern: str, text: str, size: int) -> None:
    bpe = encoding(pattern)
    (pieces,) = in_slices(text.encode(), size, Reading(cuts="words")).pieces
    apart = [token for piece in pieces for token in bpe.encode_ordinary(piece.decode())]
    assert apart == bpe.encode_ordinary(text.removeprefix("\ufeff"))


def test_the_patterns_tried_are_those_of_tiktoken() -> None:
    public = pytest.importorskip("tiktoken_ext.openai_public")
    source = Path(public.__file__).read_text(encoding="utf-8")
    assert PATTERNS["gpt2"] in source
    assert PATTERNS["cl100k_base"] in source
    for line in PATTERNS["o200k_base"].replace("|", "\n").splitlines():
        assert line in source
    assert get_tokenizer("gpt2").pattern == PATTERNS["gpt2"]


def test_text_is_cut_between_words_only() -> None:
    (pieces,) = in_slices("one two  three, four é five".encode(), 1, Reading(cuts="words")).pieces
    assert pieces == [b"one", b" two", b"  three, four", " é five".encode()]


def test_text_that_may_not_be_cut_is_one_piece() -> None:
    assert len(in_slices(b"one two three " * 100, 1, Reading(cuts="none")).slices) == 1


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=40) | TEXTS.map(str.encode), size=st.integers(1, 5))
def test_pieces_between_characters_are_replaced_as_the_whole_is(data: bytes, size: int) -> None:
    found = in_slices(data, size, Reading(cuts="characters"))
    assert found.texts == [data.decode("utf-8-sig", errors="replace")]
    assert bool(found.problems) == (b"".join(found.documents) != data.removeprefix(b"\xef\xbb\xbf"))


SEPARATED = st.lists(st.sampled_from(["a", "b b", "aa", "--", "-", "\n", "\n\n", "é", " ", "😀"]), max_size=60).map(
    "".join
)


@settings(max_examples=300, deadline=None)
@given(
    text=SEPARATED,
    separator=st.sampled_from(["\n", "\n\n", "--", "-a-", "aa", "a-a-a", "é", "-", "b b", " "]),
    size=st.integers(1, 20),
    cuts=st.sampled_from(["words", "characters", "none"]),
    on_error=st.sampled_from([None, "stop", "skip"]),
    suffix=st.sampled_from(["", "", ".gz"]),
    mark=st.booleans(),
)
def test_documents_are_what_one_search_through_the_file_finds(
    text: str, separator: str, size: int, cuts: Cuts, on_error: None, suffix: str, mark: bool
) -> None:
    data = b"\xef\xbb\xbf" * mark + text.encode()
    documents = text.split(separator)
    found = in_slices(data, size, Reading(separator=separator, cuts=cuts, on_error=on_error), suffix)
    assert found.texts == (documents if documents[-1] else documents[:-1])
    assert found.units == text.count("\n")


@settings(max_examples=300, deadline=None)
@given(
    data=st.lists(
        st.sampled_from([b"a", b" ", b"\n", b"--", b"-", b"\xff", b"\xe3\x81", b"\xe3\x81\x82", b"x y"]), max_size=40
    ),
    separator=st.sampled_from(["\n", "--", None]),
    size=st.integers(1, 12),
    cuts=st.sampled_from(["words", "characters"]),
    suffix=st.sampled_from(["", ".gz"]),
)
def test_a_document_that_is_not_utf8_is_left_out_whole_however_long(
    data: list[bytes], separator: str | None, size: int, cuts: Cuts, suffix: str
) -> None:
    whole = b"".join(data)
    pieces = whole.split(separator.encode()) if separator else [whole]
    if separator and not pieces[-1]:
        pieces.pop()
    good, lines, place = [], [], 0
    for piece in pieces:
        try:
            piece.decode()
            good.append(piece)
        except UnicodeDecodeError as error:
            lines.append(whole.count(b"\n", 0, place + error.start))
        place += len(piece) + len(separator or "")
    found = in_slices(whole, size, Reading(separator=separator, cuts=cuts, on_error="skip"), suffix)
    assert found.documents == good
    assert found.problems == [(line, "bytes that are not UTF-8", False) for line in lines]
    assert found.units == whole.count(b"\n")


@settings(max_examples=300, deadline=None)
@given(
    data=st.lists(st.sampled_from([b"a", b"b", b"ab"]), max_size=30).map(b"".join),
    separator=st.sampled_from([b"aa", b"aba", b"ab", b"b"]),
)
def test_a_place_after_a_separator_is_one_that_the_search_passes(data: bytes, separator: bytes) -> None:
    passed, at = [], data.find(separator)
    while at >= 0:
        passed.append(at + len(separator))
        at = data.find(separator, at + len(separator))
    for first in range(len(data)):
        place = after_separator(data, separator, first)
        assert place is None or (place >= first and place in passed)


def test_long_documents_are_cut_where_no_separator_is_near() -> None:
    data = b"word " * 1000 + b"|" + b"word " * 1000
    found = in_slices(data, 256, Reading(separator="|", cuts="words"))
    assert len(found.documents) == 2
    assert max(part.bytes for part in found.slices) < 2 * 256


def test_planning_a_large_file_reads_little_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"some words\n" * 100_000)
    lengths = []
    load = Span.load

    def noted(span: Span) -> bytes:
        lengths.append(span.stop - span.start)
        return load(span)

    monkeypatch.setattr(slices, "SLICE_BYTES", 2**16)
    monkeypatch.setattr(Span, "load", noted)
    planned = list(slices_of(path, Reading(cuts="words"), tmp_path))
    assert len(planned) > 10
    assert 0 < sum(lengths) < path.stat().st_size / 20
