from __future__ import annotations

import json
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from gptcli.data import readers
from gptcli.data.hub import stream_dataset
from gptcli.data.sources import FileSources, open_source
from gptcli.errors import Fault, UsageError, UserError
from gptcli.settings import TokenizeSettings


def documents(*sources: Path | str, separator: str | None = None, text_column: str = "text") -> list[str]:
    names = tuple(str(source) for source in sources)
    settings = TokenizeSettings(sources=names, separator=separator, text_column=text_column)
    return list(open_source(settings).documents())


def faults(*sources: Path | str, text_column: str = "text") -> list[Fault]:
    with pytest.raises(UsageError) as caught:
        documents(*sources, text_column=text_column)
    return caught.value.faults


def save_parquet(path: Path, **columns: list[object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(columns), path)
    return path


def test_a_text_file_is_one_document_with_its_line_ends_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\r\ntwo\rthree\n\n")
    assert documents(tmp_path / "a.txt") == ["one\r\ntwo\rthree\n\n"]


def test_bytes_that_are_no_utf8_are_replaced_and_a_byte_order_mark_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_bytes(b"\xef\xbb\xbfcaf\xe9 \xef\xbb\xbf")
    assert documents(tmp_path / "a.md") == ["caf\ufffd \ufeff"]
    assert documents(tmp_path / "a.md", separator="#") == ["caf\ufffd \ufeff"]


def test_a_separator_cuts_and_the_end_of_the_file_begins_no_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\n\n\n\nthree\n\n", newline="")
    assert documents(tmp_path / "a.txt", separator=r"\n\n") == ["one", "two", "", "three"]


@given(
    text=st.text(alphabet="ab|é😀"), separator=st.text(alphabet="ab|", min_size=1, max_size=3), chunk=st.integers(1, 7)
)
def test_a_separator_is_found_wherever_chunks_end(
    tmp_path_factory: pytest.TempPathFactory, text: str, separator: str, chunk: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "a.txt"
    path.write_bytes(text.encode())
    pieces = text.split(separator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "_CHUNK", chunk)
        assert documents(path, separator=separator) == (pieces if pieces[-1] else pieces[:-1])


def test_json_lines_are_documents_and_blank_lines_are_not(tmp_path: Path) -> None:
    lines = [json.dumps({"text": "a\nb\u2028c", "id": 1}), "", '{"text": ""}', '{"text": "caf\\u00e9"}\r']
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + "\n".join(lines).encode())
    assert documents(tmp_path / "a.jsonl") == ["a\nb\u2028c", "", "café"]


@pytest.mark.parametrize(
    "line",
    [
        '{"text": "a"',
        '["text"]',
        '{"txt": "a"}',
        '{"text": null}',
        '{"text": 5}',
        '{"text": ["a"]}',
        "[" * 100_000,
        b"\xff",
    ],
)
def test_a_json_line_that_can_not_be_used_is_named(tmp_path: Path, line: str | bytes) -> None:
    data = line if isinstance(line, bytes) else line.encode()
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "good"}\n\n' + data + b"\n")
    with pytest.raises(UserError, match=r"a\.jsonl, line 3") as caught:
        documents(tmp_path / "a.jsonl")
    assert caught.value.faults[0].hint


def test_rows_of_parquet_are_documents_across_row_groups(tmp_path: Path) -> None:
    texts = [f"row {number}" for number in range(1000)]
    parquet.write_table(pa.table({"id": list(range(1000)), "body": texts}), tmp_path / "a.parquet", row_group_size=300)
    assert documents(tmp_path / "a.parquet", text_column="body") == texts


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())])
def test_every_kind_of_string_column_is_read(tmp_path: Path, kind: pa.DataType) -> None:
    parquet.write_table(pa.table({"text": pa.array(["a", "b", "a"]).cast(kind)}), tmp_path / "a.parquet")
    assert documents(tmp_path / "a.parquet") == ["a", "b", "a"]


def test_bytes_of_parquet_that_are_no_utf8_are_replaced(tmp_path: Path) -> None:
    raw = pa.array([b"good", b"caf\xe9"], type=pa.binary())
    column = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    parquet.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    assert documents(tmp_path / "a.parquet") == ["good", "caf\ufffd"]


def test_a_null_in_parquet_names_its_row(tmp_path: Path) -> None:
    save_parquet(tmp_path / "a.parquet", text=["a"] * 400 + [None])
    with pytest.raises(UserError, match=r"a\.parquet, row 401"):
        documents(tmp_path / "a.parquet")


def test_a_missing_column_lists_what_there_is_the_nearest_first(tmp_path: Path) -> None:
    path = save_parquet(tmp_path / "a.parquet", id=[1], texts=["a"])
    (fault,) = faults(path)
    assert "columns are: texts, id" in fault.hint
    (fault,) = faults(path, text_column="id")
    assert "holds int64" in fault.message


def test_a_file_that_is_no_parquet_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 but no more")
    (fault,) = faults(tmp_path / "a.parquet")
    assert "can't be read as Parquet" in fault.message


def test_a_folder_is_read_in_the_order_of_its_paths_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.md", "a/.hidden.txt", ".git/x.txt", "a-b.TXT", "notes.rst", "a/b/c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert documents(tmp_path) == ["a/b/c.txt", "a/z.md", "a-b.TXT", "b.txt"]


def test_sources_are_read_in_the_order_given_each_file_once(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", "c.md"):
        (tmp_path / name).write_text(name)
    assert documents(tmp_path / "b.txt", tmp_path, tmp_path / "c.md") == ["b.txt", "a.txt", "c.md"]


def test_globs_are_expanded_relative_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("x/a.txt", "x/y/b.txt", "x/y/c.md", "x/y/.d.txt", "x/e.rst"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert documents(tmp_path / "**" / "*.txt") == ["x/a.txt", "x/y/b.txt"]
    monkeypatch.chdir(tmp_path)
    assert documents("x/*") == ["x/a.txt", "x/y/b.txt", "x/y/c.md"]
    assert documents("x/y/[bc].*") == ["x/y/b.txt", "x/y/c.md"]


def test_a_file_whose_name_looks_like_a_glob_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a[1].txt").write_text("brackets")
    assert documents(tmp_path / "a[1].txt") == ["brackets"]


def test_all_faults_of_the_sources_come_at_once(tmp_path: Path) -> None:
    (tmp_path / "shakespeare.txt").write_text("")
    (tmp_path / "a.csv").write_text("")
    (tmp_path / "empty").mkdir()
    found = faults(tmp_path / "shakespear.txt", tmp_path / "a.csv", tmp_path / "empty", tmp_path / "*.jsonl", "")
    assert len(found) == 5
    assert "shakespeare.txt" in found[0].hint
    assert all(".parquet" in fault.hint for fault in found[1:4])


def test_a_file_that_vanishes_before_it_is_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    source = open_source(TokenizeSettings(sources=(str(tmp_path),)))
    (tmp_path / "a.txt").unlink()
    with pytest.raises(UserError, match="can't be read"):
        list(source.documents())


def test_the_total_is_about_the_bytes_of_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x" * 1000)
    save_parquet(tmp_path / "b.parquet", text=[f"{number:0100d}" for number in range(100)], other=["y" * 9999] * 100)
    source = open_source(TokenizeSettings(sources=(str(tmp_path),)))
    assert isinstance(source, FileSources)
    assert source.total_bytes() == pytest.approx(11_000, rel=0.2)


def test_a_local_folder_of_parquet_is_a_dataset(tmp_path: Path) -> None:
    save_parquet(tmp_path / "train-00000.parquet", text=["one", "two"], id=[1, 2])
    save_parquet(tmp_path / "test-00000.parquet", text=["three"], id=[3])
    assert list(stream_dataset(str(tmp_path), "sample-10BT", "train", "text")) == ["one", "two"]
    assert list(stream_dataset(str(tmp_path), None, "test", "text")) == ["three"]
    with pytest.raises(UsageError, match="no split 'validation'"):
        list(stream_dataset(str(tmp_path), None, "validation", "text"))
    with pytest.raises(UsageError, match="no column 'txt'"):
        list(stream_dataset(str(tmp_path), None, "train", "txt"))


def test_a_dataset_that_can_not_be_reached_points_to_local_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", unreachable)
    with pytest.raises(UserError, match="can't be reached") as caught:
        list(stream_dataset("HuggingFaceFW/fineweb-edu", "sample-10BT", "train", "text"))
    assert caught.value.exit_code == 1
    assert "arguments" in caught.value.faults[0].hint


def test_files_are_read_without_importing_datasets(tmp_path: Path) -> None:
    import subprocess

    (tmp_path / "a.txt").write_text("text")
    code = (
        "import sys; from gptcli.data.sources import open_source; from gptcli.settings import TokenizeSettings;"
        "list(open_source(TokenizeSettings(sources=(sys.argv[1],))).documents());"
        "sys.exit(bool({'datasets', 'torch', 'pyarrow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 0
