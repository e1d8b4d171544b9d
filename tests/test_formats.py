from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import lzma
import pickle
import random
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from reading_slices import COMPRESSIONS, SIZES, Contents, contents, zstd

from gptcli.data import slices
from gptcli.data.formats import FORMATS, KINDS, fault_of, is_known, slices_of
from gptcli.data.formats.source import Span
from gptcli.data.slices import OnError, Reading
from gptcli.errors import UserError

DOCUMENTS = [
    "",
    "one",
    "two\nlines",
    "",
    'quo"ted, "twice"',
    "é 日本 😀",
    "x" * 300,
    *(f"number {n}\r\n" for n in range(50)),
    "",
]
PLAIN = Reading()
SEPARATED = Reading(separator="|")


def save_json(texts: list[str]) -> bytes:
    return json.dumps([{"id": 1, "text": text} for text in texts], indent=1).encode()


def save_jsonl(texts: list[str]) -> bytes:
    return "".join(json.dumps({"id": 1, "text": text}, ensure_ascii=False) + "\n" for text in texts).encode()


def save_csv(texts: list[str]) -> bytes:
    out = io.StringIO(newline="")
    csv.writer(out).writerows([["id", "text"], *([str(number), text] for number, text in enumerate(texts))])
    return out.getvalue().encode()


def save_parquet(texts: list[str], rows: int = 7) -> bytes:
    out = io.BytesIO()
    parquet.write_table(
        pa.table({"id": [1] * len(texts), "text": pa.array(texts, pa.string())}), out, row_group_size=rows
    )
    return out.getvalue()


def save_arrow(texts: list[str], new: Callable[..., pa.RecordBatchWriter] = pa.ipc.new_stream) -> bytes:
    table = pa.table({"id": [1] * len(texts), "text": pa.array(texts, pa.string())})
    out = io.BytesIO()
    with new(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    return out.getvalue()


def save_arrow_file(texts: list[str]) -> bytes:
    return save_arrow(texts, pa.ipc.new_file)


SAVED: dict[str, tuple[str, Callable[[list[str]], bytes]]] = {
    "txt": (".txt", lambda texts: "".join(text + "|" for text in texts).encode()),
    "md": (".md", lambda texts: "".join(text + "|" for text in texts).encode()),
    "jsonl": (".jsonl", save_jsonl),
    "json": (".json", save_json),
    "json lines called json": (".json", save_jsonl),
    "csv": (".csv", save_csv),
    "parquet": (".parquet", save_parquet),
    "parquet in one row group": (".parquet", lambda texts: save_parquet(texts, 10**6)),
    "arrow stream": (".arrow", save_arrow),
    "arrow file": (".arrow", save_arrow_file),
}


def read(tmp_path: Path, name: str, data: bytes, reading: Reading = PLAIN, size: int = 64) -> Contents:
    (tmp_path / name).write_bytes(data)
    return contents(tmp_path / name, reading, size)


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("kind", SAVED)
def test_the_documents_are_the_same_whatever_the_size_of_slices(tmp_path: Path, kind: str, compression: str) -> None:
    suffix, save = SAVED[kind]
    data = COMPRESSIONS[compression](save(DOCUMENTS))
    units = set()
    for size in SIZES:
        found = read(tmp_path, f"a{suffix}{compression}", data, SEPARATED, size)
        assert found.texts == DOCUMENTS
        assert found.problems == []
        units.add(found.units)
        assert len(found.slices) == 1 if size == 2**22 else len(found.slices) > 1 or size == 1000
    assert units == {len(DOCUMENTS) if suffix not in (".txt", ".md") else "".join(DOCUMENTS).count("\n")}


@pytest.mark.parametrize("kind", SAVED)
def test_slices_depend_on_nothing_but_the_content(tmp_path: Path, kind: str) -> None:
    suffix, save = SAVED[kind]
    for compression in ("", ".gz", ".xz"):
        data = COMPRESSIONS[compression](save(DOCUMENTS * 20))
        found = [
            [(part.bytes, tuple(part.part.read(SEPARATED).ends.tolist())) for part in got.slices]
            for got in (read(tmp_path, f"a{suffix}{compression}", data, SEPARATED, 200) for _ in range(3))
        ]
        assert found[0] == found[1] == found[2]


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.text(max_size=30).filter(lambda text: "\0" not in text)), size=st.sampled_from(SIZES))
def test_any_texts_come_out_of_any_table(tmp_path_factory: pytest.TempPathFactory, texts: list[str], size: int) -> None:
    folder = tmp_path_factory.mktemp("any")
    for kind in ("jsonl", "json", "csv", "parquet", "arrow file"):
        suffix, save = SAVED[kind]
        assert read(folder, f"a{suffix}", save(texts), Reading(), size).texts == texts


@pytest.mark.parametrize("kind", SAVED)
def test_a_file_without_documents_is_one_slice(tmp_path: Path, kind: str) -> None:
    suffix, save = SAVED[kind]
    for compression in ("", ".zst"):
        found = read(tmp_path, f"a{suffix}{compression}", COMPRESSIONS[compression](save([])), SEPARATED)
        assert (found.texts, found.problems, len(found.slices)) == ([], [], 1)


def test_an_empty_text_file_is_one_empty_document(tmp_path: Path) -> None:
    for suffix, compress in COMPRESSIONS.items():
        assert read(tmp_path, f"a.txt{suffix}", compress(b"")).texts == [""]
        assert read(tmp_path, f"a.txt{suffix}", compress(codecs.BOM_UTF8)).texts == [""]
        assert read(tmp_path, f"a.txt{suffix}", compress(b""), SEPARATED).texts == []


def test_names_tell_the_format_in_any_case_and_with_a_compression() -> None:
    for name in ("a.txt", "A.TXT", "a.b.jsonl.GZ", "a.Parquet.zst", "a.arrow", "a.md.bz2", "a.csv.xz", "a.json"):
        assert is_known(name)
    for name in ("a.gz", "a", "a.rst", "a.txt.zip", ".gz", "a.gz.txt.gz.gz"):
        assert not is_known(name)
    assert all(suffix in KINDS for suffix in (*FORMATS, ".gz", ".zst", ".xz", ".bz2"))


def test_small_files_are_planned_without_being_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.txt", "a.jsonl"):
        (tmp_path / name).write_bytes(b'{"text": "a"}')
        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", lambda *_, **__: pytest.fail("it was opened"))
            (planned,) = slices_of(tmp_path / name, Reading(), tmp_path)
        assert planned.bytes == 13


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet"])
def test_parts_of_files_that_can_be_sought_in_hold_no_text(tmp_path: Path, name: str) -> None:
    found = read(tmp_path, name, SAVED[name[2:]][1](DOCUMENTS), SEPARATED, 100)
    assert len(found.slices) > 3
    assert all(b"number" not in pickle.dumps(part) for part in found.slices)


def test_small_row_groups_are_read_together(tmp_path: Path) -> None:
    data = save_parquet(["x" * 100] * 100, rows=1)
    assert 2 < len(read(tmp_path, "a.parquet", data, Reading(), 2000).slices) < 30


# Several streams one after another, as pigz, pbzip2, pzstd and cat write them, and padding that is allowed.


@pytest.mark.parametrize("compression", [".gz", ".zst", ".xz", ".bz2"])
def test_streams_one_after_another_are_one_file(tmp_path: Path, compression: str) -> None:
    compress = COMPRESSIONS[compression]
    rows = [save_jsonl(DOCUMENTS), b"", save_jsonl(["more"]), save_jsonl(DOCUMENTS)]
    found = read(tmp_path, f"a.jsonl{compression}", b"".join(map(compress, rows)))
    assert found.texts == [*DOCUMENTS, "more", *DOCUMENTS]


def test_padding_and_skippable_frames_are_passed_over(tmp_path: Path) -> None:
    skippable = struct.pack("<II", 0x184D2A50, 5) + b"abcde"
    assert read(tmp_path, "a.txt.zst", skippable + zstd(b"one") + skippable + zstd(b" two") + skippable).texts == [
        "one two"
    ]
    assert read(tmp_path, "a.txt.xz", lzma.compress(b"one") + bytes(8) + lzma.compress(b" two") + bytes(4)).texts == [
        "one two"
    ]
    assert read(tmp_path, "a.txt.gz", gzip.compress(b"one") + bytes(512)).texts == ["one"]


@pytest.mark.parametrize("kind", ["txt", "jsonl", "json", "csv", "parquet", "arrow stream", "arrow file"])
@pytest.mark.parametrize("compression", [".gz", ".zst", ".xz", ".bz2"])
def test_a_file_that_is_cut_off_is_an_error_and_never_short(tmp_path: Path, compression: str, kind: str) -> None:
    suffix, save = SAVED[kind]
    data = COMPRESSIONS[compression](save([f"{number:x}" for number in random.Random(1).choices(range(10**9), k=500)]))
    for kept in (0, 1, 5, len(data) // 2, len(data) - 9, len(data) - 1, len(data) + len(data) // 2):
        with pytest.raises(UserError, match=f"a{suffix}{compression} is cut off or damaged") as caught:
            read(tmp_path, f"a{suffix}{compression}", (data + data)[:kept])
        assert caught.value.faults[0].hint
        assert not list((tmp_path / "spool").glob("*"))


@pytest.mark.parametrize("compression", [".gz", ".zst", ".xz", ".bz2"])
def test_damage_where_a_later_stream_begins_is_an_error(tmp_path: Path, compression: str) -> None:
    data = COMPRESSIONS[compression](b"some words\n" * 100)
    with pytest.raises(UserError, match="cut off or damaged"):
        read(tmp_path, f"a.txt{compression}", data + b"\xff" + data[1:])


@pytest.mark.parametrize("kind", ["parquet", "arrow stream", "arrow file"])
def test_a_table_that_is_cut_off_is_an_error(tmp_path: Path, kind: str) -> None:
    suffix, save = SAVED[kind]
    data = save(DOCUMENTS * 30)
    for kept in (0, 3, len(data) // 3, len(data) * 2 // 3):
        with pytest.raises(UserError, match=rf"a\{suffix} can't be read as") as caught:
            read(tmp_path, f"a{suffix}", data[:kept])
        assert caught.value.faults[0].hint


def test_a_damaged_page_is_told_when_it_is_read(tmp_path: Path) -> None:
    data = bytearray(save_parquet(["some text"] * 1000, rows=1000))
    page = parquet.ParquetFile(io.BytesIO(data)).metadata.row_group(0).column(1).data_page_offset
    data[page : page + 32] = b"\xff" * 32
    with pytest.raises(UserError, match=r"a\.parquet can't be read as Parquet"):
        read(tmp_path, "a.parquet", bytes(data))


def test_a_file_that_shrinks_or_vanishes_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"0123456789")
    (planned,) = slices_of(path, Reading(), tmp_path)
    path.write_bytes(b"0123")
    with pytest.raises(UserError, match="become shorter"):
        planned.part.read(Reading())
    path.unlink()
    with pytest.raises(UserError, match=r"a\.txt can't be read"):
        planned.part.read(Reading())
    with pytest.raises(UserError, match=r"a\.txt can't be read"):
        list(slices_of(path, Reading(), tmp_path))
    fault = fault_of(path, Reading())
    assert fault is not None
    assert "can't be read" in fault.message


def test_what_was_unpacked_is_removed_when_planning_stops_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "SLICE_BYTES", 50)
    path = tmp_path / "a.parquet.gz"
    path.write_bytes(gzip.compress(save_parquet(DOCUMENTS)))
    planned = slices_of(path, Reading(), tmp_path / "new" / "spool")
    next(planned)
    assert len(list((tmp_path / "new" / "spool").rglob("a.parquet"))) == 1
    planned.close()
    assert not list((tmp_path / "new" / "spool").iterdir())


# Text.


def test_a_text_file_is_one_document_with_its_line_ends_as_they_are(tmp_path: Path) -> None:
    for size in SIZES:
        found = read(tmp_path, "a.txt", b"one\r\ntwo\rthree\n\n", Reading(cuts="words"), size)
        assert found.texts == ["one\r\ntwo\rthree\n\n"]


def test_a_separator_cuts_and_the_end_of_the_file_begins_no_document(tmp_path: Path) -> None:
    found = read(tmp_path, "a.txt", b"one\n\ntwo\n\n\n\nthree\n\n", Reading(separator="\n\n"))
    assert found.texts == ["one", "two", "", "three"]


def test_bytes_that_are_not_utf8_are_replaced_and_told_by_line(tmp_path: Path) -> None:
    data = b"\xef\xbb\xbfone|two\ncaf\xe9 \xef\xbb\xbf|th\nree|\xff"
    for size in SIZES:
        found = read(tmp_path, "a.txt", data, SEPARATED, size)
        assert found.texts == ["one", "two\ncaf\ufffd \ufeff", "th\nree", "\ufffd"]
        assert found.problems == [(1, "bytes that are not UTF-8", True), (2, "bytes that are not UTF-8", True)]
        skipped = read(tmp_path, "a.txt", data, Reading(separator="|", on_error="skip"), size)
        assert skipped.texts == ["one", "th\nree"]
        assert skipped.problems == [(1, "bytes that are not UTF-8", False), (2, "bytes that are not UTF-8", False)]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json", "a.csv"])
def test_utf16_is_guessed(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes('{"text": "a"}'.encode("utf-16"))
    fault = fault_of(tmp_path / name, Reading())
    hint = fault.hint if fault else contents(tmp_path / name, Reading()).hints[0]
    assert "UTF-16" in hint


# JSON Lines and JSON.


def test_json_lines_are_documents_and_blank_lines_are_not_but_count(tmp_path: Path) -> None:
    lines = [
        json.dumps({"text": "a\nb\u2028c", "id": 1}),
        "",
        ' {"text": ""} ',
        " \t\r",
        '{"text": "caf\\u00e9\\ud800x"}\r',
        "{}",
    ]
    data = codecs.BOM_UTF8 + "\n".join(lines).encode()
    for size in SIZES:
        found = read(tmp_path, "a.jsonl", data, Reading(), size)
        assert found.texts == ["a\nb\u2028c", "", "café\ufffdx"]
        assert found.problems == [(5, "no key 'text'", False)]
        assert found.units == 6


BAD = {
    '{"text": "a"': "no valid JSON (Expecting ',' delimiter)",
    '{"text": "a"} {"text": "b"}': "no valid JSON (Extra data)",
    '["text"]': "a list, not an object",
    "5": "a number, not an object",
    '{"txt": "a"}': "no key 'text'",
    '{"text": null}': "'text' is null",
    '{"text": 5}': "'text' is a number, not text",
    '{"text": ["a"]}': "'text' is a list, not text",
    "[" * 100_000: "no valid JSON (nested too deep)",
    '{"text": ' + "1" * 5000 + "}": "no valid JSON (a number that is too long)",
}


@pytest.mark.parametrize("line", BAD)
def test_a_json_line_that_can_not_be_used_is_listed_by_its_number(tmp_path: Path, line: str) -> None:
    data = '{"text": "good"}\n\n' + line + '\n{"text": "better"}'
    for size in (64, 2**22):
        found = read(tmp_path, "a.jsonl", data.encode(), Reading(), size)
        assert found.texts == ["good", "better"]
        assert found.problems == [(2, BAD[line], False)]
        assert all(found.hints)


def test_a_missing_key_lists_what_there_is_the_nearest_first(tmp_path: Path) -> None:
    found = read(tmp_path, "a.jsonl", b'{"id": 1, "texts": "a"}')
    assert "columns are: texts, id" in found.hints[0]


@pytest.mark.parametrize("on_error", [None, "skip", "stop"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_bytes_that_are_not_utf8_matter_in_the_text_only(tmp_path: Path, name: str, on_error: OnError | None) -> None:
    data = b'{"text": "a", "b": "\xff"}\n{"text": "caf\xe9 \\udce9"}\n{"text": "\\udce9", "b": "\xff"}\n'
    for size in SIZES:
        found = read(tmp_path, name, data, Reading(on_error=on_error), size)
        assert found.texts == ["a", *(["caf\ufffd \ufffd"] if on_error is None else []), "\ufffd"]
        assert found.problems == [(1, "bytes that are not UTF-8", on_error is None)]


@pytest.mark.parametrize(
    ("data", "texts"),
    [
        ('{"text": "a"}', ["a"]),
        (' \n{"text": "a"}{"text": "b"} "c" \n', ["a", "b", "c"]),
        ('["a", {"text": "b"},\n"c"\n]', ["a", "b", "c"]),
        ('[] ["a"] [{"text": "b"}] "c"', ["a", "b", "c"]),
        ("\ufeff[]", []),
        ("", []),
    ],
)
def test_json_is_an_array_or_values_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str, texts: list[str]
) -> None:
    for chunk in (1, 3, 2**20):
        monkeypatch.setattr("gptcli.data.formats.json_items._CHUNK", chunk)
        found = read(tmp_path, "a.json", data.encode())
        assert (found.texts, found.problems) == (texts, [])


@pytest.mark.parametrize(
    ("data", "texts", "problems"),
    [
        ('["a", 5, {"txt": "b"}, "c"]', ["a", "c"], [1, 2]),
        ('[123456789012345678901234, "a"]', ["a"], [0]),
        ('["a" "b"]', ["a"], [1]),
        ('["a", ]', ["a"], [1]),
        ('["a", "b"', ["a", "b"], [2]),
        ('["a", ', ["a"], [1]),
        ("[", [], [0]),
        ('["a", {"text": "b]', ["a"], [1]),
        ('{"text": "a"}\n{"text": ]\n{"text": "b"}\n}\n{"text": "c"}', ["a", "b", "c"], [1, 3]),
        ('{"text": "a"}\n{"text" "b"', ["a"], [1]),
        ("\ufffd", [], [0]),
    ],
)
def test_what_is_wrong_in_json_is_listed_by_item(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str, texts: list[str], problems: list[int]
) -> None:
    for chunk in (1, 3, 2**20):
        monkeypatch.setattr("gptcli.data.formats.json_items._CHUNK", chunk)
        found = read(tmp_path, "a.json", data.encode())
        assert found.texts == texts
        assert [number for number, _, _ in found.problems] == problems
        assert all(found.hints)


# Tables.


def test_uneven_csv_rows_are_listed_and_blank_lines_passed_over(tmp_path: Path) -> None:
    data = codecs.BOM_UTF8 + b'id,text\r\n1,a\r\n\r\n2\r\n3,"b,\r\n""c"""\r\n4,5,6\r\n7,' + b"x" * 500 + b"\r\n8\r\n"
    for size in SIZES:
        found = read(tmp_path, "a.csv", data, Reading(), size)
        assert found.texts == ["a", 'b,\r\n"c"', "x" * 500]
        assert found.problems == [
            (1, "1 field where the header has 2", False),
            (3, "3 fields where the header has 2", False),
            (5, "1 field where the header has 2", False),
        ]
        assert found.units == 6


@settings(max_examples=300, deadline=None)
@given(
    rows=st.lists(st.tuples(*[st.text('a,"\r\né\ufeff', max_size=8)] * 2)),
    quoting=st.booleans(),
    size=st.integers(1, 20),
)
def test_csv_is_read_as_it_was_written_wherever_slices_end(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], quoting: bool, size: int
) -> None:
    out = io.StringIO(newline="")
    writer = csv.writer(out, quoting=csv.QUOTE_ALL if quoting else csv.QUOTE_MINIMAL)
    writer.writerows([("text", "other"), *rows])
    found = read(tmp_path_factory.mktemp("csv"), "a.csv", out.getvalue().encode(), PLAIN, size)
    assert found.texts == [text for text, _ in rows]
    assert found.units == len(rows)


@settings(max_examples=300, deadline=None)
@given(data=st.text('a,"\n', max_size=40), size=st.integers(1, 20))
def test_quotes_anywhere_in_csv_mean_what_the_csv_module_takes_them_for(
    tmp_path_factory: pytest.TempPathFactory, data: str, size: int
) -> None:
    found = read(tmp_path_factory.mktemp("csv"), "a.csv", f"text,other\n{data}\n".encode(), PLAIN, size)
    rows = [row for row in csv.reader(io.StringIO(data + "\n", newline="")) if row]
    assert found.units == len(rows)
    assert found.texts == [row[0] for row in rows if len(row) == 2]
    assert [number for number, _, _ in found.problems] == [number for number, row in enumerate(rows) if len(row) != 2]


def test_words_that_mean_null_elsewhere_are_text_in_csv(tmp_path: Path) -> None:
    assert read(tmp_path, "a.csv", b'text\nNA\nnull\nNaN\n5\n""\n').texts == ["NA", "null", "NaN", "5", ""]


def test_csv_bytes_that_are_not_utf8_are_listed_by_row(tmp_path: Path) -> None:
    data = b"a,text\n\xff,good\n1,caf\xe9\n"
    found = read(tmp_path, "a.csv", data)
    assert (found.texts, found.problems) == (["good", "caf\ufffd"], [(1, "bytes that are not UTF-8", True)])
    assert read(tmp_path, "a.csv", data, Reading(on_error="skip")).texts == ["good"]


STRINGS = [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view()]
KINDS_OF_TEXT = [*STRINGS, pa.dictionary(pa.int32(), pa.string()), pa.dictionary(pa.int8(), pa.large_string())]


@pytest.mark.parametrize("kind", KINDS_OF_TEXT, ids=str)
@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_every_kind_of_text_column_is_read_and_nulls_are_listed(tmp_path: Path, name: str, kind: pa.DataType) -> None:
    texts = ["a", None, "é", "", "a", None, "b" * 100] * 9
    table = pa.table({"text": pa.array(texts, pa.string()).cast(kind), "other": list(range(len(texts)))})
    path = tmp_path / name
    if name == "a.parquet":
        parquet.write_table(table, path, row_group_size=10)
    else:
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=10)
    assert fault_of(path, Reading()) is None
    for size in SIZES:
        found = contents(path, Reading(), size)
        assert found.texts == [text for text in texts if text is not None]
        nulls = [(number, "'text' is null", False) for number, text in enumerate(texts) if text is None]
        assert found.problems == nulls
        assert found.units == len(texts)


@pytest.mark.parametrize("on_error", [None, "stop"])
@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_bytes_of_a_column_that_are_not_utf8_are_listed_by_row(
    tmp_path: Path, name: str, on_error: OnError | None
) -> None:
    # Valid when taken together, and not by themselves.
    raw = pa.array([b"good", None, b"\xc3", b"\xa9", b"end"], type=pa.binary())
    column = pa.Array.from_buffers(pa.string(), len(raw), raw.buffers(), raw.null_count)
    if name == "a.parquet":
        parquet.write_table(pa.table({"text": column}), tmp_path / name)
    else:
        with pa.ipc.new_file(tmp_path / name, pa.schema({"text": pa.string()})) as writer:
            writer.write_table(pa.table({"text": column}))
    for size in SIZES:
        found = contents(tmp_path / name, Reading(on_error=on_error), size)
        assert found.texts == ["good", *(["\ufffd", "\ufffd"] if on_error is None else []), "end"]
        bad = "bytes that are not UTF-8", on_error is None
        assert found.problems == [(1, "'text' is null", False), (2, *bad), (3, *bad)]


@pytest.mark.parametrize("kind", ["csv", "parquet", "arrow stream", "arrow file"])
@pytest.mark.parametrize("compression", ["", ".xz"])
def test_a_missing_column_is_a_fault_with_what_there_is(tmp_path: Path, kind: str, compression: str) -> None:
    suffix, save = SAVED[kind]
    path = tmp_path / f"a{suffix}{compression}"
    path.write_bytes(COMPRESSIONS[compression](save(DOCUMENTS)))
    reading = Reading(text_column="txt")
    fault = fault_of(path, reading)
    if kind != "parquet" or not compression:  # its footer is not read before it is unpacked
        assert fault is not None
        assert "columns are: text, id" in fault.hint
    with pytest.raises(UserError, match="has no column 'txt'"):
        list(slices_of(path, reading, tmp_path / "spool"))


@pytest.mark.parametrize("kind", ["parquet", "arrow stream"])
def test_a_column_that_is_not_text_is_a_fault(tmp_path: Path, kind: str) -> None:
    suffix, save = SAVED[kind]
    (tmp_path / f"a{suffix}").write_bytes(save(DOCUMENTS))
    fault = fault_of(tmp_path / f"a{suffix}", Reading(text_column="id"))
    assert fault is not None
    assert "holds int64, not text" in fault.message


@pytest.mark.parametrize("kind", SAVED)
@pytest.mark.parametrize("compression", ["", ".bz2"])
def test_a_good_file_has_no_fault(tmp_path: Path, kind: str, compression: str) -> None:
    suffix, save = SAVED[kind]
    path = tmp_path / f"a{suffix}{compression}"
    path.write_bytes(COMPRESSIONS[compression](save(DOCUMENTS)))
    assert fault_of(path, Reading()) is None


@pytest.mark.parametrize(
    "name", ["a.parquet", "a.parquet.gz", "a.arrow", "a.csv", "a.txt.gz", "a.jsonl.zst", "a.json.xz"]
)
def test_a_file_that_is_not_what_its_name_says_is_a_fault(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(b"nothing") if name == "a.parquet.gz" else b"PAR1 but no more")
    fault = fault_of(tmp_path / name, Reading())
    assert fault is not None
    assert name in fault.message


# Memory.


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.txt.gz", "a.json", "a.csv", "a.arrow.gz"])
def test_planning_holds_a_few_slices_whatever_the_size_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    texts = [f"{number} " * 200 for number in range(12_000)]  # 14 MB
    kind = {"a.arrow.gz": "arrow stream"}.get(name, name.split(".")[1])
    data = SAVED[kind][1](texts)
    (tmp_path / name).write_bytes(gzip.compress(data, 1) if name.endswith(".gz") else data)
    del data, texts
    size = 2**18
    monkeypatch.setattr(slices, "SLICE_BYTES", size)
    tracemalloc.start()
    arrow_before = pa.total_allocated_bytes()
    arrow_most = 0
    count = 0
    for _ in slices_of(tmp_path / name, Reading(cuts="words", on_error="stop"), tmp_path / "spool"):
        count += 1
        arrow_most = max(arrow_most, pa.total_allocated_bytes() - arrow_before)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count > 40
    assert most + arrow_most < 6 * 2**20


def test_a_row_group_larger_than_slices_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"{number} " * 200 for number in range(12_000)]
    (tmp_path / "a.parquet").write_bytes(save_parquet(texts, rows=10**6))
    monkeypatch.setattr(slices, "SLICE_BYTES", 2**18)
    before, most, lengths = pa.total_allocated_bytes(), 0, []
    for part in slices_of(tmp_path / "a.parquet", Reading(), tmp_path):
        most = max(most, pa.total_allocated_bytes() - before)
        lengths.append(len(part.part.read(Reading()).data))
    assert sum(lengths) == sum(map(len, texts))
    assert max(lengths) < 2**19
    assert most < 6 * 2**20


def test_a_span_pickles_to_next_to_nothing() -> None:
    assert len(pickle.dumps(Span(Path("a"), 0, 2**40))) < 200
