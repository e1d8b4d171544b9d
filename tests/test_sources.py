from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from gptcli.data import slices
from gptcli.data.remote_file import RemoteFile
from gptcli.data.slices import Bundle, Cursor, Reading
from gptcli.data.sources import RemoteFiles, Sources, open_source
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
        patch.setattr(slices, "SLICE_BYTES", chunk)
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
    (tmp_path / "a.pdf").write_text("")
    (tmp_path / "empty").mkdir()
    found = faults(tmp_path / "shakespear.txt", tmp_path / "a.pdf", tmp_path / "empty", tmp_path / "*.jsonl", " ")
    assert len(found) == 5
    assert "shakespeare.txt" in found[0].hint
    assert all(".parquet" in fault.hint for fault in found[1:4])


def test_a_file_that_vanishes_before_it_is_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    source = open_source(TokenizeSettings(sources=(str(tmp_path),)))
    (tmp_path / "a.txt").unlink()
    with pytest.raises(UserError, match="can't be read"):
        list(source.documents())


def test_the_shares_of_all_slices_come_to_the_total(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "SLICE_BYTES", 100)
    (tmp_path / "a.txt").write_text("x " * 1000)
    save_parquet(tmp_path / "b.parquet", text=[f"{number:0100d}" for number in range(100)], other=["y" * 9999] * 100)
    source = open_source(TokenizeSettings(sources=(str(tmp_path),)))
    assert source.total_bytes() == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert sum(bundle.bytes for bundle in source.bundles(tmp_path, "words")) == source.total_bytes()


def test_a_local_folder_of_parquet_is_a_dataset(tmp_path: Path) -> None:
    save_parquet(tmp_path / "train-00000.parquet", text=["one", "two"], id=[1, 2])
    save_parquet(tmp_path / "test-00000.parquet", text=["three"], id=[3])

    def dataset(name: str, split: str) -> list[str]:
        settings = TokenizeSettings(dataset_path=str(tmp_path), remote_name=name, split=split)
        return list(open_source(settings).documents())

    assert dataset("sample-10BT", "train") == ["one", "two"]
    assert dataset("", "test") == ["three"]
    with pytest.raises(UsageError, match="no split 'validation'"):
        dataset("", "validation")


# --- bundles


def bundles_of(path: Path, start: Cursor = slices.BEGINNING) -> list[Bundle]:
    return list(open_source(TokenizeSettings(sources=(str(path),))).bundles(path, "words", start))


def test_small_files_are_worked_on_together_and_large_ones_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "SLICE_BYTES", 1000)
    for number in range(50):
        (tmp_path / f"a{number:03d}.txt").write_text("some words " * 9)
    (tmp_path / "b.txt").write_text("some words " * 400)
    for number in range(5):
        (tmp_path / f"c{number}.txt").write_text("")
    found = bundles_of(tmp_path)
    sizes = [len(bundle.slices) for bundle in found]
    assert sizes[:5] == [10] * 5
    assert set(sizes[5:-1]) == {1}
    assert all(bundle.bytes <= 1100 for bundle in found)
    assert sum(sizes) == sum(len(bundle.names) for bundle in found)
    assert [bundle.at for bundle in found][:6] == [Cursor(number, 0) for number in (0, 10, 20, 30, 40, 50)]


def test_bundles_from_any_place_on_are_those_that_follow_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "SLICE_BYTES", 300)
    for number in range(20):
        (tmp_path / f"{number:02d}.txt").write_text("some words " * (number * number % 70))
    found = bundles_of(tmp_path)
    assert len(found) > 15
    for number, bundle in enumerate(found):
        assert bundles_of(tmp_path, bundle.at) == found[number:]


# --- what is recorded, and what differs from it


def test_a_file_may_move_but_its_content_counts_even_at_the_same_size(tmp_path: Path) -> None:
    big = bytearray(range(256)) * 20_000
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.txt").write_bytes(big)
    moved = open_source(TokenizeSettings(sources=(str(tmp_path / "b"),)))
    for name in "ab":
        os.utime(tmp_path / name / "x.txt", ns=(0, 0))
    before = open_source(TokenizeSettings(sources=(str(tmp_path / "a"),))).record()
    assert moved.differences(before, ask=True) == []
    big[2_000_001] ^= 1  # between the pieces that the checksum is of
    (tmp_path / "b" / "x.txt").write_bytes(big)
    changed = f"{(tmp_path / 'b' / 'x.txt').as_posix()} as it was before its last change (of the same size)"
    assert moved.differences(before, ask=True) == [changed]
    (tmp_path / "b" / "y.txt").write_text("")
    more = open_source(TokenizeSettings(sources=(str(tmp_path / "b"),)))
    assert more.differences(before, ask=True) == ["1 files (now 2)"]


def test_what_this_command_wrote_and_what_is_no_file_is_no_source(tmp_path: Path) -> None:
    for name in ("a.json", "shards/manifest.json", "shards/tokenizer.json", "shards/b.txt", "manifest.json.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"text": "x"}')
    source = open_source(TokenizeSettings(sources=(str(tmp_path),)))
    (record,) = source.record()
    assert isinstance(record["files"], list)
    names = [Path(entry["path"]).name for entry in record["files"] if isinstance(entry, dict)]  # type: ignore[arg-type]
    assert names == ["a.json", "manifest.json.txt", "b.txt"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are POSIX")
def test_a_pipe_is_refused_with_the_way_to_read_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    (fault,) = faults(tmp_path / "a.txt")
    assert "no regular file" in fault.message
    assert "| gpt tokenize -" in fault.hint


def test_of_many_files_one_checksum_is_kept(tmp_path: Path) -> None:
    for number in range(1001):
        (tmp_path / f"{number}.txt").write_text(str(number))
    source = open_source(TokenizeSettings(sources=(str(tmp_path),)))
    record = source.record()
    assert len(json.dumps(record)) < 500
    assert source.differences(record, ask=True) == []
    (tmp_path / "7.txt").write_text("8")
    assert source.differences(record, ask=True) == ["another content of the files"]


class There(RemoteFile):
    """A remote file whose content is at hand."""

    def fetch(self, cache: Path, told: object = None, retries: object = None) -> Path:
        cache.mkdir(exist_ok=True)
        (cache / self.name).write_text(self.version)
        return cache / self.name


def test_remote_files_are_listed_only_when_needed_and_asked_for_changes_only_then(tmp_path: Path) -> None:
    listed: list[int] = []
    there = [There(address="x://a.txt", name="a.txt", size=3, version="one")]

    def listing() -> list[RemoteFile]:
        listed.append(1)
        return list(there)

    def source(address: str = "x://a.txt") -> Sources:
        return Sources((RemoteFiles({"address": address}, Reading(), listing),))

    record = source().record()
    assert len(listed) == 1
    assert source().differences(record, ask=False) == []
    assert source("x://b.txt").differences(record, ask=False) == ["another source than x://b.txt"]
    assert len(listed) == 1
    assert source().differences(record, ask=True) == []
    there[0] = There(address="x://a.txt", name="a.txt", size=3, version="two")
    assert source().differences(record, ask=True) == ["another content of x://a.txt"]
    (bundle,) = source().bundles(tmp_path / "cache", "words")
    assert bundle.names == ("x://a.txt",)
    assert bytes(bundle.slices[0].part.read(bundle.reading).data) == b"two"


def test_a_dataset_that_can_not_be_reached_points_to_local_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", unreachable)
    with pytest.raises(UserError, match="can't be reached") as caught:
        list(open_source(TokenizeSettings()).documents())
    assert caught.value.exit_code == 1
    assert "arguments" in caught.value.faults[0].hint


def test_files_are_read_without_importing_datasets(tmp_path: Path) -> None:
    import subprocess

    (tmp_path / "a.txt").write_text("text")
    code = (
        "import sys; from gptcli.data.sources import open_source; from gptcli.settings import TokenizeSettings;"
        "list(open_source(TokenizeSettings(sources=(sys.argv[1],))).documents());"
        "sys.exit(bool({'datasets', 'torch', 'fsspec'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 0
