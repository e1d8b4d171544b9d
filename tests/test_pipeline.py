from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tiktoken
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pyarrow import parquet

from gptcli.data import assembly, executor, output, pipeline, slices
from gptcli.data import encoder as encoder_module
from gptcli.data.assembly import Progress, Summary
from gptcli.data.encoder import BulkEncoder, MismatchError
from gptcli.data.executor import LocalProcesses
from gptcli.data.formats.source import Held
from gptcli.data.locks import FolderLock
from gptcli.data.manifest import Manifest
from gptcli.data.pipeline import tokenize, verify
from gptcli.data.shards import open_shards
from gptcli.data.slices import Bundle, Cursor, Reading, Slice
from gptcli.data.writer import ShardWriter, _ShardFile
from gptcli.errors import UsageError, UserError
from gptcli.settings import TokenizeSettings
from gptcli.tokenizer import Tokenizer, get_tokenizer

BOOKS = Path(__file__).parents[2] / "shared" / "data" / "books.parquet"
TEXTS = ["One two three.", "", "It's <|endoftext|> in the middle.", "naïve 😀 日本\r\n\x00", "word " * 300]


def save_jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def run(tmp_path: Path, *sources: Path, out: str = "out", **options: Any) -> Summary:
    names = tuple(str(source) for source in sources)
    return tokenize(TokenizeSettings(sources=names, local_dir=str(tmp_path / out), **options))


def tokens_of(texts: list[str]) -> list[int]:
    """The whole stream that these documents come to, by the reference."""
    tokenizer = get_tokenizer("gpt2")
    return [token for text in texts for token in [tokenizer.eot, *tokenizer.encode(text)]]


def shard_contents(folder: Path) -> dict[str, list[int]]:
    return {path.name: np.load(path).tolist() for path in sorted(folder.glob("*.npy"))}


def all_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".lock")}


# --- the shards


def cut(ids: Any, shard_size: int, val_tokens: int | None) -> dict[str, Any]:
    """The shards that the contract promises for these ids, by name."""
    val = min(shard_size, -(-len(ids) // 10)) if val_tokens is None else val_tokens
    parts = {"val_000000.npy": ids[:val]} if val else {}
    for number, start in enumerate(range(val, len(ids), shard_size), start=1):
        parts[f"train_{number:06d}.npy"] = ids[start : start + shard_size]
    return parts


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80, deadline=None)
@given(
    total=st.integers(2, 150), shard_size=st.integers(1, 60), val_tokens=st.none() | st.integers(0, 50), data=st.data()
)
def test_shards_are_cut_as_promised_however_the_tokens_come_and_wherever_the_writer_is_cut_off(
    tmp_path_factory: pytest.TempPathFactory, total: int, shard_size: int, val_tokens: int | None, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    ids = np.arange(total, dtype=np.uint16)
    writer = ShardWriter(folder, "uint16", shard_size, val_tokens)
    for end in [*sorted(data.draw(st.lists(st.integers(0, total), max_size=5))), total]:
        writer.append(ids[writer.tokens : end])
        if data.draw(st.booleans()):  # only what was whole is known to the next one
            writer.close()
            writer = ShardWriter(folder, "uint16", shard_size, val_tokens, writer.parts)
    writer.append(ids[writer.tokens :])
    if val_tokens is not None and val_tokens >= total:
        with pytest.raises(UsageError, match="leave nothing to train on"):
            writer.finish()
        writer.close()
        return
    records = writer.finish()
    output.finish(folder)
    parts = cut(ids, shard_size, val_tokens)
    assert [record.name for record in records] == list(parts)
    assert {path.name for path in folder.iterdir()} == set(parts)
    for record in records:
        array = np.load(folder / record.name)
        assert array.dtype == np.uint16
        assert np.array_equal(array, parts[record.name])
        assert record.tokens == len(array)
        assert record.sha256 == hashlib.sha256((folder / record.name).read_bytes()).hexdigest()


@pytest.mark.parametrize("total", [30, 95])  # with ten or fewer pieces they are cut anew, with more they are the shards
@pytest.mark.parametrize("dies_at", range(12))
def test_a_writer_that_dies_while_it_finishes_is_made_up_for(tmp_path: Path, total: int, dies_at: int) -> None:
    ids = np.arange(total, dtype=np.uint16)
    writer = ShardWriter(tmp_path, "uint16", 10, None)
    writer.append(ids[: total - 3])
    known = list(writer.parts)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if not path.name.endswith(".tmp")}
    writer.append(ids[total - 3 :])
    with pytest.MonkeyPatch.context() as patch:
        calls = 0

        def dying(path: Path, target: Path) -> Path:
            nonlocal calls
            calls += 1
            if calls > dies_at:
                raise KeyboardInterrupt
            return type(path).rename(path, target)

        patch.setattr(Path, "replace", dying)
        with contextlib.suppress(KeyboardInterrupt):
            writer.finish()
    writer.close()
    assert before.keys() <= {path.name for path in tmp_path.iterdir()}
    again = ShardWriter(tmp_path, "uint16", 10, None, known)
    again.append(ids[again.tokens :])
    again.finish()
    output.finish(tmp_path)
    stored = {path.name: np.load(path).tolist() for path in tmp_path.iterdir()}
    assert stored == {name: part.tolist() for name, part in cut(ids, 10, None).items()}


def test_a_shard_is_byte_for_byte_what_numpy_saves(tmp_path: Path) -> None:
    run(tmp_path, save_jsonl(tmp_path / "a.jsonl", TEXTS))
    for path in (tmp_path / "out").glob("*.npy"):
        np.save(tmp_path / "copy.npy", np.load(path))
        assert path.read_bytes() == (tmp_path / "copy.npy").read_bytes()


def test_every_token_of_every_document_is_there_in_order(tmp_path: Path) -> None:
    summary = run(tmp_path, save_jsonl(tmp_path / "a.jsonl", TEXTS), shard_size=50)
    expected = tokens_of(TEXTS)
    stored = shard_contents(tmp_path / "out")
    val = stored.pop("val_000000.npy")
    assert val + [token for part in stored.values() for token in part] == expected
    assert [len(part) for part in list(stored.values())[:-1]] == [50] * (len(stored) - 1)
    assert (summary.tokens, summary.documents) == (len(expected), len(TEXTS))
    assert summary.bytes == sum(len(text.encode()) for text in TEXTS)
    assert summary.val_tokens == len(val) == -(-len(expected) // 10)
    assert summary.train_tokens == len(expected) - len(val)
    assert summary.shards == len(stored) + 1


def test_a_document_that_is_empty_is_one_end_of_text_token(tmp_path: Path) -> None:
    run(tmp_path, save_jsonl(tmp_path / "a.jsonl", ["a", "", "", "b"]), val_tokens=0)
    a, b = get_tokenizer("gpt2").encode("a")[0], get_tokenizer("gpt2").encode("b")[0]
    assert shard_contents(tmp_path / "out") == {"train_000001.npy": [50256, a, 50256, 50256, 50256, b]}


def test_the_trainer_reads_back_what_was_written(tmp_path: Path) -> None:
    run(tmp_path, save_jsonl(tmp_path / "a.jsonl", TEXTS), shard_size=40)
    shards = open_shards(tmp_path / "out")
    val, train = shards.split("val"), shards.split("train")
    assert [*val.read(0, len(val)), *train.read(0, len(train))] == tokens_of(TEXTS)
    assert (shards.tokenizer_name, shards.vocab_size, shards.eot) == ("gpt2", 50257, 50256)


def test_the_manifest_tells_what_lies_there_and_from_what(tmp_path: Path) -> None:
    path = save_jsonl(tmp_path / "a.jsonl", TEXTS)
    run(tmp_path, path, separator=r"\n")
    manifest = Manifest.read(tmp_path / "out")
    assert manifest is not None
    assert manifest.format_version == 1
    assert manifest.dtype == "uint16"
    assert manifest.tokenizer.sha256 == get_tokenizer("gpt2").sha256
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    assert manifest.sources == (
        {"files": [{"path": path.as_posix(), "bytes": path.stat().st_size, "sha256": checksum}]},
    )
    assert manifest.options == {
        "shard_size": 100_000_000,
        "val_tokens": None,
        "text_column": "text",
        "separator": "\n",
        "on_error": None,
        "limit_documents": None,
        "limit_tokens": None,
    }
    assert verify(tmp_path / "out").tokens == manifest.totals.tokens


def test_a_vocabulary_over_65536_is_stored_in_32_bits_and_its_file_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpt2 = get_tokenizer("gpt2")
    wide = Tokenizer(
        tiktoken.Encoding(
            "wide", pat_str=gpt2.pattern, mergeable_ranks=gpt2.ranks, special_tokens={"<|endoftext|>": 70_000}
        )
    )
    monkeypatch.setattr(pipeline, "get_tokenizer", lambda name: wide)
    run(tmp_path, save_jsonl(tmp_path / "a.jsonl", TEXTS), tokenizer_model="wide", val_tokens=0)
    array = np.load(tmp_path / "out" / "train_000001.npy")
    assert array.dtype == np.uint32
    assert array.tolist() == [70_000 if token == 50_256 else token for token in tokens_of(TEXTS)]
    assert (tmp_path / "out" / "tokenizer.json").exists()


def test_the_fingerprint_is_of_the_tokens_not_of_where_they_came_from(tmp_path: Path) -> None:
    for name, texts in (("a", TEXTS), ("b", TEXTS), ("c", TEXTS[::-1])):
        run(tmp_path, save_jsonl(tmp_path / f"{name}.jsonl", texts), out=name)
    a, b, c = (open_shards(tmp_path / name).fingerprint for name in "abc")
    assert a == b
    assert a != c


@pytest.mark.usefixtures("small_slices")
def test_progress_ends_at_the_summary(tmp_path: Path) -> None:
    seen: list[Progress] = []
    path = save_jsonl(tmp_path / "a.jsonl", ["word " * 100_000] * 6)
    summary = tokenize(TokenizeSettings(sources=(str(path),), local_dir=str(tmp_path / "out")), seen.append)
    assert len(seen) > 1
    assert [at.tally.tokens for at in seen] == sorted(at.tally.tokens for at in seen)
    last = seen[-1].tally
    assert (last.documents, last.bytes, last.tokens) == (summary.documents, summary.bytes, summary.tokens)
    assert last.source_bytes == seen[-1].total_bytes == path.stat().st_size


# --- encoding


def encoded(encoder: BulkEncoder, texts: list[str]) -> list[int]:
    data = [text.encode() for text in texts]
    ends = np.cumsum([len(text) for text in data], dtype=np.int64)
    ids, id_ends = encoder.encode(b"".join(data), ends, np.ones(len(texts), dtype=bool))
    assert id_ends.tolist() == np.cumsum([len(tokens_of([text])) for text in texts]).tolist()
    assert ids.dtype == np.uint16
    return ids.tolist()


@hypothesis_settings(max_examples=150, deadline=None)
@given(texts=st.lists(st.text() | st.text(alphabet=" \n\t\r\x85\u3000ab1'😀!\u0301"), min_size=1, max_size=5))
def test_both_engines_give_the_reference_ids(texts: list[str]) -> None:
    expected = tokens_of(texts)
    for engine in ("gigatoken", "tiktoken"):
        assert encoded(engine_of(engine), texts) == expected


ENGINES: dict[str, BulkEncoder] = {}


def engine_of(name: Any) -> BulkEncoder:
    if name not in ENGINES:
        ENGINES[name] = BulkEncoder(get_tokenizer("gpt2"), name)
        assert ENGINES[name].engine == name
    return ENGINES[name]


def test_gigatoken_is_taken_where_it_agrees_and_left_where_it_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    gpt2 = get_tokenizer("gpt2")
    assert BulkEncoder(gpt2).engine == "gigatoken"
    monkeypatch.setitem(encoder_module._SCHEMES, "gpt2", "gpt4")  # another way of cutting
    assert BulkEncoder(gpt2).engine == "tiktoken"
    with pytest.raises(UserError, match="has other ids than the tokenizer 'gpt2'"):
        BulkEncoder(gpt2, "gigatoken")


@pytest.mark.parametrize("engine", ["gigatoken", "tiktoken"])
def test_an_engine_that_can_not_read_the_tokenizer_is_refused(tmp_path: Path, engine: str) -> None:
    with pytest.raises(UsageError, match=f"--engine {engine} can't read the tokenizer 'bytes'"):
        run(tmp_path, save_jsonl(tmp_path / "a.jsonl", TEXTS), tokenizer_model="bytes", engine=engine)
    assert not (tmp_path / "out").exists()


def test_a_difference_between_the_engines_in_the_middle_stops_with_the_document_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_jsonl(tmp_path / "a.jsonl", ["fine"] * 50)
    wrong = monkeypatch_gigatoken(monkeypatch)
    with pytest.raises(MismatchError, match=f"begins 'fine' in .*{path.name}"):
        run(tmp_path, path)
    assert wrong
    assert not (tmp_path / "out").exists()


def test_a_difference_between_the_engines_falls_back_where_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_jsonl(tmp_path / "a.jsonl", TEXTS)
    run(tmp_path, path, out="right", engine="tiktoken")
    monkeypatch_gigatoken(monkeypatch)
    summary = run(tmp_path, path, on_mismatch="fall-back")
    assert "gigatoken's ids are not" in summary.fell_back
    assert summary.engine == "tiktoken"
    assert all_files(tmp_path / "out") == all_files(tmp_path / "right")


def monkeypatch_gigatoken(monkeypatch: pytest.MonkeyPatch, after: int = 1) -> list[int]:
    """Have gigatoken, after so many calls (the first is of the probes), give a wrong id at the beginning of texts."""
    calls: list[int] = []
    right = BulkEncoder._by_gigatoken

    def wrong(self: BulkEncoder, data: Any, ends: Any) -> Any:
        ids, id_ends = right(self, data, ends)
        calls.append(1)
        if len(calls) > after:
            ids = ids.copy()
            ids[np.concatenate(([0], id_ends[:-1]))[np.diff(id_ends, prepend=0) > 0]] ^= 1
        return ids, id_ends

    monkeypatch.setattr(BulkEncoder, "_by_gigatoken", wrong)
    return calls


@pytest.mark.parametrize("cuts", ["none", "words"])
def test_of_a_long_text_the_beginning_is_looked_at_or_all_of_it(cuts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = BulkEncoder(get_tokenizer("gpt2"), "gigatoken")
    text = ("words and words " * 2000).encode()
    begins = np.ones(1, dtype=bool)
    monkeypatch.setattr(encoder.tokenizer, "cuts", cuts)
    encoder.encode(text, np.array([len(text)]), begins)
    monkeypatch_gigatoken(monkeypatch, after=0)
    with pytest.raises(MismatchError):
        encoder.encode(text, np.array([len(text)]), begins)


@pytest.mark.parametrize("character", ["a", " ", "\n", "!", "é"])
def test_a_million_equal_characters_are_encoded_by_both_engines_alike(character: str) -> None:
    texts = [character * 1_000_000, character * 1_000_000 + "a b", "x" + character * 60_000 + "\u3000\nb"]
    data = [text.encode() for text in texts]
    ends, begins = np.cumsum([len(text) for text in data]), np.ones(3, dtype=bool)
    by_tiktoken, _ = engine_of("tiktoken").encode(b"".join(data), ends, begins)
    by_gigatoken, _ = engine_of("gigatoken").encode(b"".join(data), ends, begins)
    assert np.array_equal(by_tiktoken, by_gigatoken)
    assert by_tiktoken.tolist()[-50:] == tokens_of(texts[2:])[-50:]


def test_lone_surrogates_become_replacement_characters(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a\\ud800b"}\n')
    summary = run(tmp_path, tmp_path / "a.jsonl", val_tokens=0)
    assert shard_contents(tmp_path / "out")["train_000001.npy"] == tokens_of(["a\ufffdb"])
    assert summary.bytes == len("a\ufffdb".encode())


@pytest.mark.parametrize("seen", [True, False])
def test_a_renewed_encoder_gives_the_same_ids(monkeypatch: pytest.MonkeyPatch, seen: bool) -> None:
    monkeypatch.setattr(encoder_module, "_TOKENS_UNTIL_RENEWAL", 10)
    monkeypatch.setattr(encoder_module, "_CACHE_BYTES", -1)
    if not seen:
        monkeypatch.setattr(encoder_module, "_resident_bytes", lambda: 0)
    encoder = BulkEncoder(get_tokenizer("gpt2"), "gigatoken")
    tokenizers = {id(encoder._gigatoken): encoder._gigatoken}
    for number in range(3):
        texts = [*TEXTS, *(f"{number} {other} words {number * other}" for other in range(20_000))]
        assert encoded(encoder, texts) == tokens_of(texts)
        tokenizers[id(encoder._gigatoken)] = encoder._gigatoken
    assert len(tokenizers) > 1


# --- processes


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "SLICE_BYTES", 3000)


@pytest.fixture
def always_pool(monkeypatch: pytest.MonkeyPatch, small_slices: None) -> None:
    monkeypatch.setattr(assembly, "_ALONE_BYTES", dict.fromkeys(assembly._ALONE_BYTES, 0))


@pytest.mark.usefixtures("always_pool")
def test_the_bytes_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    path = save_jsonl(tmp_path / "a.jsonl", [f"{number} {text}" for number in range(50) for text in TEXTS])
    for count in (1, 2, 3):
        run(tmp_path, path, out=f"out{count}", workers=count, shard_size=700)
    one = all_files(tmp_path / "out1")
    assert len(one) > 20
    assert all_files(tmp_path / "out2") == one
    assert all_files(tmp_path / "out3") == one


class Bytes:
    """A job for tests: how many bytes a bundle has. With `dies`, the process ends instead."""

    def __init__(self, dies: bool = False) -> None:
        self.dies = dies

    def prepare(self) -> Callable[[Bundle], int]:
        return self

    def __call__(self, bundle: Bundle) -> int:
        if self.dies and multiprocessing.parent_process():
            os._exit(1)
        time.sleep(0.01)
        return bundle.bytes


def bundle(number: int) -> Bundle:
    part = Slice(Path("a"), Held(b""), number, True)
    return Bundle((part,), ("a",), Reading(), Cursor(number, 0))


def test_results_come_in_order_and_only_so_many_bundles_are_read_ahead() -> None:
    taken = 0

    def endless() -> Iterator[Bundle]:
        nonlocal taken
        while True:
            taken += 1
            yield bundle(taken)

    results = LocalProcesses(2).run(endless(), Bytes())
    for count in range(1, 400):
        given, size = next(results)
        assert given.at.file == size == count
        assert taken - count <= 2 * executor._BUNDLES_PER_PROCESS + 1
    results.close()


def test_a_worker_that_dies_is_told() -> None:
    results = LocalProcesses(2).run(map(bundle, itertools.count()), Bytes(dies=True))
    with pytest.raises(UserError, match="A process that was encoding died"):
        list(results)


INTERRUPTIBLE = """
import sys
import time
from gptcli.data import assembly, slices
from gptcli.data.pipeline import tokenize
from gptcli.settings import TokenizeSettings

slices.SLICE_BYTES = 100_000
if __name__ == "__main__":
    assembly._ALONE_BYTES = dict.fromkeys(assembly._ALONE_BYTES, 0)
    options = dict(workers=2, shard_size=int(sys.argv[3]), val_tokens=int(sys.argv[5]))
    settings = TokenizeSettings(sources=(sys.argv[1],), local_dir=sys.argv[2], **options)
    tokenize(settings, lambda at: (print("working", flush=True), time.sleep(float(sys.argv[4]))))
"""


def start_tokenizing(tmp_path: Path, source: Path, *numbers: float) -> subprocess.Popen[str]:
    """Tokenize in a process group of its own, and return once it works. numbers: shard size, pause, val_tokens."""
    (tmp_path / "script.py").write_text(INTERRUPTIBLE)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), str(source), str(tmp_path / "out"), *map(str, numbers)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    return process


def long_source(tmp_path: Path) -> Path:
    return save_jsonl(tmp_path / "a.jsonl", [f"{number} some words of text " * 2000 for number in range(100)])


def group_is_gone(group: int) -> bool:
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.skipif(os.name != "posix", reason="process groups are POSIX")
def test_ctrl_c_before_the_first_shard_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    process = start_tokenizing(tmp_path, long_source(tmp_path), 10_000_000, 0.2, 0)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    _, stderr = process.communicate(timeout=60)
    assert group_is_gone(process.pid)
    assert not list((tmp_path / "out").glob("*"))
    assert stderr.count("Traceback") == 1, stderr  # this process's own KeyboardInterrupt, none of the workers'


@pytest.mark.skipif(os.name != "posix", reason="process groups are POSIX")
def test_a_killed_call_leaves_no_process_and_the_next_one_goes_on_after_the_last_whole_shard(tmp_path: Path) -> None:
    source = long_source(tmp_path)
    process = start_tokenizing(tmp_path, source, 1000, 0.05, 100)
    while not (tmp_path / "out" / "train_000003.npy").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate(timeout=60)
    assert group_is_gone(process.pid)
    with pytest.raises(UsageError, match="has not finished"):
        open_shards(tmp_path / "out")
    whole = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("train*.npy")}
    summary = run(tmp_path, source, shard_size=1000, val_tokens=100)
    assert summary.continued >= 3 * 1000 + 100
    later = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in whole}
    assert sum(later[name] == whole[name] for name in whole) >= (summary.continued - 100) // 1000
    run(tmp_path, source, out="other", shard_size=1000, val_tokens=100)
    assert all_files(tmp_path / "out") == all_files(tmp_path / "other")
    assert summary.tokens == Manifest.read(tmp_path / "other").totals.tokens  # type: ignore[union-attr]


# --- the folder


def test_the_same_call_again_is_done_already(tmp_path: Path) -> None:
    path = save_jsonl(tmp_path / "a.jsonl", TEXTS)
    first = run(tmp_path, path)
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    second = run(tmp_path, path, workers=2)
    assert second.already_done
    assert not first.already_done
    assert (second.tokens, second.shards, second.val_tokens) == (first.tokens, first.shards, first.val_tokens)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == times


@pytest.mark.parametrize(
    ("options", "named"),
    [({"shard_size": 7}, "--shard-size 100000000 .now 7."), ({"val_tokens": 3}, "--val-tokens default"),
     ({"separator": "x"}, "--separator"), ({"text_column": "other"}, "--text-column 'text'")],
)  # fmt: skip
def test_another_option_is_refused_by_name(tmp_path: Path, options: dict[str, Any], named: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text("some text")
    run(tmp_path, path)
    with pytest.raises(UsageError, match=named) as caught:
        run(tmp_path, path, **options)
    assert "--fresh" in caught.value.faults[0].hint


def test_other_sources_are_refused_and_fresh_moves_the_old_tokens_aside(tmp_path: Path) -> None:
    run(tmp_path, save_jsonl(tmp_path / "a.jsonl", TEXTS))
    old = all_files(tmp_path / "out")
    (tmp_path / "out" / "notes.rst").write_text("mine")
    b = save_jsonl(tmp_path / "b.jsonl", TEXTS[::-1])
    with pytest.raises(UsageError, match=r"another content of .*b\.jsonl"):
        run(tmp_path, b)
    summary = run(tmp_path, b, fresh=True)
    assert summary.moved_to == tmp_path / "out.old-1"
    assert all_files(tmp_path / "out.old-1") == old
    assert verify(tmp_path / "out.old-1").shards == len(old) - 1
    assert (tmp_path / "out" / "notes.rst").read_text() == "mine"
    assert run(tmp_path, b, fresh=True).moved_to == tmp_path / "out.old-2"


def test_shards_of_a_stranger_are_refused_and_moved_by_fresh(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    np.save(tmp_path / "out" / "train_000001.npy", np.zeros(3, dtype=np.uint16))
    path = save_jsonl(tmp_path / "a.jsonl", TEXTS)
    with pytest.raises(UsageError, match="no manifest, such as train_000001"):
        run(tmp_path, path)
    assert list(all_files(tmp_path / "out")) == ["train_000001.npy"]
    run(tmp_path, path, fresh=True)
    assert np.load(tmp_path / "out.old-1" / "train_000001.npy").tolist() == [0, 0, 0]


def test_a_finished_folder_that_lost_a_shard_is_not_taken_for_done(tmp_path: Path) -> None:
    path = save_jsonl(tmp_path / "a.jsonl", TEXTS)
    run(tmp_path, path)
    (tmp_path / "out" / "train_000001.npy").unlink()
    with pytest.raises(UserError, match="train_000001"):
        run(tmp_path, path)


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    with FolderLock(tmp_path / "out"), pytest.raises(UserError, match=f"process {os.getpid()}"):
        run(tmp_path, save_jsonl(tmp_path / "a.jsonl", TEXTS))


def test_a_bad_line_before_the_first_whole_shard_leaves_nothing(tmp_path: Path) -> None:
    path = save_jsonl(tmp_path / "a.jsonl", ["word " * 1000] * 3000)
    path.write_text(path.read_text() + "not json\n")
    with pytest.raises(UserError, match="line 3,001") as caught:
        run(tmp_path, path)
    assert "--on-error skip" in caught.value.faults[0].hint
    assert not (tmp_path / "out").exists()


def test_after_a_bad_line_the_call_goes_on_with_on_error_skip(tmp_path: Path) -> None:
    path = save_jsonl(tmp_path / "a.jsonl", ["word " * 1000] * 3000)
    path.write_text(path.read_text() + "not json\n" + json.dumps({"text": "the end"}))
    with pytest.raises(UserError, match="line 3,001"):
        run(tmp_path, path, shard_size=100_000)
    with pytest.raises(UsageError, match="has not finished"):
        open_shards(tmp_path / "out")
    summary = run(tmp_path, path, shard_size=100_000, on_error="skip")
    assert summary.continued > 0
    assert (summary.skipped, summary.documents) == (1, 3001)
    assert [str(problem) for problem in summary.problems] == [f"{path}, line 3,001: no valid JSON (Expecting value)"]
    run(tmp_path, path, out="other", shard_size=100_000, on_error="skip")
    assert all_files(tmp_path / "out") == all_files(tmp_path / "other")


def test_bytes_that_are_no_utf8_are_replaced_counted_and_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9 one|fine|\xff\n|x\ny \xfe")
    summary = run(tmp_path, tmp_path / "a.txt", separator="|", val_tokens=0)
    assert shard_contents(tmp_path / "out")["train_000001.npy"] == tokens_of(
        ["caf\ufffd one", "fine", "\ufffd\n", "x\ny \ufffd"]
    )
    assert (summary.replaced, summary.skipped) == (3, 0)
    assert [problem.number for problem in summary.problems] == [1, 1, 3]
    again = run(tmp_path, tmp_path / "a.txt", separator="|", val_tokens=0)
    assert (again.already_done, again.replaced) == (True, 3)
    with pytest.raises(UserError, match=r"a\.txt, line 1"):
        run(tmp_path, tmp_path / "a.txt", separator="|", out="stopped", on_error="stop")
    left_out = run(tmp_path, tmp_path / "a.txt", separator="|", out="skipped", on_error="skip", val_tokens=0)
    assert shard_contents(tmp_path / "skipped")["train_000001.npy"] == tokens_of(["fine"])
    assert (left_out.skipped, left_out.replaced) == (3, 0)


@pytest.mark.usefixtures("small_slices")
def test_problems_are_numbered_through_the_whole_file_and_in_each_file(tmp_path: Path) -> None:
    for name in "ab":
        lines = [json.dumps({"text": f"{number} word word word"}) for number in range(1, 301)]
        lines[249] = "{}"
        lines[3] = '{"text": null}'
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    summary = run(tmp_path, tmp_path / "a.jsonl", tmp_path / "b.jsonl", on_error="skip")
    found = [(Path(problem.file).name, problem.number) for problem in summary.problems]
    assert found == [("a.jsonl", 4), ("a.jsonl", 250), ("b.jsonl", 4), ("b.jsonl", 250)]
    assert summary.documents == 2 * 298


# --- limits


@pytest.mark.usefixtures("small_slices")
@pytest.mark.parametrize("documents", [1, 2, 7, 40, 99, 100, 1000])
def test_so_many_documents_are_taken_from_the_front(tmp_path: Path, documents: int) -> None:
    texts = [f"{number} words and words {'in a row ' * (number % 40)}" for number in range(100)]
    path = save_jsonl(tmp_path / "a.jsonl", texts)
    summary = run(tmp_path, path, limit_documents=documents, val_tokens=0)
    assert shard_contents(tmp_path / "out")["train_000001.npy"] == tokens_of(texts[:documents])
    assert summary.documents == min(documents, 100)
    assert summary.bytes == sum(len(text.encode()) for text in texts[:documents])


@pytest.mark.usefixtures("small_slices")
@pytest.mark.parametrize("tokens", [2, 3, 50, 1000, 1001, 10**6])
def test_so_many_tokens_are_taken_from_the_front(tmp_path: Path, tokens: int) -> None:
    texts = [f"{number} words and words {'in a row ' * (number % 40)}" for number in range(100)]
    path = save_jsonl(tmp_path / "a.jsonl", texts)
    summary = run(tmp_path, path, limit_tokens=tokens, val_tokens=0)
    expected = tokens_of(texts)[:tokens]
    assert shard_contents(tmp_path / "out")["train_000001.npy"] == expected
    assert summary.documents == expected.count(50256)
    kept = get_tokenizer("gpt2").decode_bytes([token for token in expected if token != 50256])
    assert summary.bytes == len(kept)


@pytest.mark.usefixtures("small_slices")
@pytest.mark.parametrize("limit", [{"limit_tokens": 1500}, {"limit_documents": 1}, {"limit_documents": 2}])
def test_limits_hold_within_one_long_document(tmp_path: Path, limit: dict[str, int]) -> None:
    long = "some words and more words " * 1000
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(long)
    summary = run(tmp_path, tmp_path / "a.txt", tmp_path / "b.txt", val_tokens=0, **limit)
    tokens = tokens_of([long, long])[: limit.get("limit_tokens")]
    if limit.get("limit_documents") == 1:
        tokens = tokens_of([long])
    assert shard_contents(tmp_path / "out")["train_000001.npy"] == tokens
    assert summary.documents == tokens.count(50256)


# --- tokenizers of other kinds


def test_bytes_are_their_own_tokens(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("naïve\n".encode())
    run(tmp_path, tmp_path / "a.txt", tokenizer_model="bytes", val_tokens=0)
    assert shard_contents(tmp_path / "out") == {"train_000001.npy": [256, *"naïve\n".encode()]}
    shards = open_shards(tmp_path / "out")
    assert (shards.vocab_size, shards.eot) == (257, 256)


@pytest.mark.usefixtures("always_pool")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_character_tokenizer_is_made_from_the_sources(tmp_path: Path, workers: int) -> None:
    texts = ["hello, wörld\n" * 500, "", "日本 hello" * 300]
    path = save_jsonl(tmp_path / "a.jsonl", texts)
    run(tmp_path, path, tokenizer_model="chars", val_tokens=0, workers=workers)
    characters = sorted(set("".join(texts)))
    expected = [token for text in texts for token in [len(characters), *map(characters.index, text)]]
    assert shard_contents(tmp_path / "out")["train_000001.npy"] == expected
    tokenizer = open_shards(tmp_path / "out").tokenizer()
    assert tokenizer is not None
    assert tokenizer.decode(expected[1:20]) == texts[0][:19]
    assert run(tmp_path, path, tokenizer_model="chars", val_tokens=0).already_done


def test_a_character_tokenizer_knows_the_part_that_is_taken(tmp_path: Path) -> None:
    path = save_jsonl(tmp_path / "a.jsonl", ["abc", "def"])
    summary = run(tmp_path, path, tokenizer_model="chars", limit_documents=1, val_tokens=0)
    assert summary.tokens == 4


def test_a_tokenizer_file_is_kept_beside_the_shards_and_another_is_refused(tmp_path: Path) -> None:
    gpt2 = get_tokenizer("gpt2")
    (tmp_path / "mine.json").write_text(gpt2.to_json(), encoding="utf-8")
    path = save_jsonl(tmp_path / "a.jsonl", TEXTS)
    summary = run(tmp_path, path, tokenizer_model=str(tmp_path / "mine.json"), val_tokens=0)
    assert shard_contents(tmp_path / "out")["train_000001.npy"] == tokens_of(TEXTS)
    assert summary.engine in ("gigatoken", "tokenizers", "tiktoken")
    with pytest.raises(UsageError, match="made with the tokenizer"):
        run(tmp_path, path, tokenizer_model="bytes", val_tokens=0)


# --- standard input


def piped(tmp_path: Path, content: bytes, **options: Any) -> Summary:
    settings = TokenizeSettings(sources=("-",), local_dir=str(tmp_path / "out"), **options)
    return tokenize(settings, stdin=io.BytesIO(content))


def test_lines_of_standard_input_are_documents(tmp_path: Path) -> None:
    summary = piped(tmp_path, b"one line\n\nanother", val_tokens=0)
    assert shard_contents(tmp_path / "out")["train_000001.npy"] == tokens_of(["one line", "", "another"])
    assert summary.documents == 3
    assert not (tmp_path / "out" / ".sources").exists()
    assert piped(tmp_path, b"one line\n\nanother", val_tokens=0).already_done
    with pytest.raises(UsageError, match="another content of standard input"):
        piped(tmp_path, b"one line\n\nanothen", val_tokens=0)


@pytest.mark.parametrize("limit", [{"limit_tokens": 50}, {"limit_documents": 7}])
@pytest.mark.parametrize("separator", [None, "aa"])
def test_standard_input_is_read_no_further_than_it_is_needed(
    tmp_path: Path, limit: dict[str, int], separator: str | None
) -> None:
    class Endless(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            piece = b"baaac\n" * 1000
            buffer[: len(piece)] = piece
            return len(piece)

    stdin = io.BufferedReader(Endless(), 2**13)
    settings = TokenizeSettings(
        sources=("-",), local_dir=str(tmp_path / "out"), val_tokens=0, separator=separator, **limit
    )
    summary = tokenize(settings, stdin=stdin)
    assert summary.tokens == limit.get("limit_tokens", summary.tokens)
    assert summary.documents == limit.get("limit_documents", summary.documents)
    again = tokenize(settings, stdin=io.BufferedReader(Endless(), 2**13))
    assert again.already_done


def test_a_source_that_changes_while_it_is_read_is_told(tmp_path: Path) -> None:
    path = save_jsonl(tmp_path / "a.jsonl", TEXTS)

    def change(at: Progress) -> None:
        path.write_text(path.read_text() + '{"text": "more"}\n')

    with pytest.raises(UserError, match="changed while it was read"):
        tokenize(TokenizeSettings(sources=(str(path),), local_dir=str(tmp_path / "out")), change)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("fresh", [False, True])
def test_a_tokenizer_of_the_users_own_stays_where_it_is(tmp_path: Path, fresh: bool) -> None:
    mine = tmp_path / "out" / "tokenizer.json"
    mine.parent.mkdir()
    mine.write_text("{}")
    (tmp_path / "bad.jsonl").write_text("no json")
    with pytest.raises(UserError, match="line 1"):
        run(tmp_path, tmp_path / "bad.jsonl", fresh=fresh)
    path = save_jsonl(tmp_path / "a.jsonl", TEXTS)
    with pytest.raises(UsageError, match=r"holds a tokenizer\.json of its own"):
        run(tmp_path, path, tokenizer_model="chars", fresh=fresh)
    run(tmp_path, path, fresh=fresh)
    assert mine.read_text() == "{}"


def test_a_tokenizer_may_lie_where_the_shards_are_put(tmp_path: Path) -> None:
    mine = tmp_path / "out" / "tokenizer.json"
    mine.parent.mkdir()
    mine.write_text(get_tokenizer("gpt2").to_json(), encoding="utf-8")
    path = save_jsonl(tmp_path / "a.jsonl", TEXTS)
    assert run(tmp_path, path, tokenizer_model=str(mine)).tokens == len(tokens_of(TEXTS))
    assert run(tmp_path, path, tokenizer_model=str(mine)).already_done


def test_where_all_is_left_out_the_first_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{}\n{}\n")
    with pytest.raises(UsageError, match=r"2 left out, the first being .*a\.jsonl, line 1: no key 'text'"):
        run(tmp_path, tmp_path / "a.jsonl", on_error="skip")


def test_standard_input_is_cut_at_the_separator(tmp_path: Path) -> None:
    piped(tmp_path, b"one\nline||two", separator="||", val_tokens=0)
    assert shard_contents(tmp_path / "out")["train_000001.npy"] == tokens_of(["one\nline", "two"])


@pytest.mark.usefixtures("small_slices")
@pytest.mark.parametrize("again", [b"", None])
@pytest.mark.parametrize("whole_shards", [True, False])
def test_an_interrupted_call_on_standard_input_goes_on_without_it(
    tmp_path: Path, again: bytes | None, whole_shards: bool
) -> None:
    content = b"".join(b"%d words of a line\n" % number for number in range(5000))
    shard_size = 1000 if whole_shards else 10**6

    def interrupt(at: Progress) -> None:
        if at.tally.tokens > 12_000:
            raise KeyboardInterrupt

    settings = TokenizeSettings(sources=("-",), local_dir=str(tmp_path / "out"), shard_size=shard_size)
    with pytest.raises(KeyboardInterrupt):
        tokenize(settings, interrupt, stdin=io.BytesIO(content))
    if whole_shards:
        with pytest.raises(UsageError, match="another content of standard input"):
            piped(tmp_path, b"other", shard_size=shard_size)
    summary = piped(tmp_path, content if again is None else again, shard_size=shard_size)
    assert summary.documents == 5000
    assert (summary.continued > 0) == whole_shards
    (tmp_path / "in.txt").write_bytes(content)
    run(tmp_path, tmp_path / "in.txt", separator="\\n", out="other", shard_size=shard_size)
    assert shard_contents(tmp_path / "out") == shard_contents(tmp_path / "other")


# --- never twice, never half


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="starts processes by fork, to be quick")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_killed_at_twenty_random_moments_it_ends_with_the_bytes_of_an_uninterrupted_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "SLICE_BYTES", 2000)
    path = save_jsonl(tmp_path / "a.jsonl", [f"{number} words " * (number % 90) for number in range(1500)])
    (tmp_path / "b.txt").write_text("a long document of words " * 4000)
    began = time.monotonic()
    run(tmp_path, path, tmp_path / "b.txt", out="whole", shard_size=4000, workers=1)
    seconds = time.monotonic() - began
    expected = all_files(tmp_path / "whole")
    assert len(expected) > 20
    chance = random.Random(5)
    killed, finished, continued = 0, 0, 0
    while killed < 20:
        child = os.fork()
        if child == 0:
            try:
                run(tmp_path, path, tmp_path / "b.txt", shard_size=4000, workers=1)
            finally:
                os._exit(0)
        time.sleep(chance.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        killed += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) < 0
        if (tmp_path / "out" / "manifest.json").exists():
            assert all_files(tmp_path / "out") == expected
            shutil.rmtree(tmp_path / "out")
            finished += 1
    continued = run(tmp_path, path, tmp_path / "b.txt", shard_size=4000).continued
    assert all_files(tmp_path / "out") == expected
    assert finished or continued


@pytest.mark.parametrize("shard_size", [2000, 40_000])  # the shards as they come; and pieces that are cut anew
@pytest.mark.parametrize("method", ["unlink", "write", "finish"])
def test_a_call_that_is_cut_off_at_its_very_end_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_size: int, method: str
) -> None:
    path = save_jsonl(tmp_path / "a.jsonl", [f"{number} words " * 90 for number in range(500)])
    run(tmp_path, path, out="whole", shard_size=shard_size)
    owner = {"unlink": Path, "write": Manifest, "finish": output}[method]

    def cut_off(*_: object, **__: object) -> None:
        raise SystemExit  # no Exception: as if the process ended here

    with monkeypatch.context() as patch:
        patch.setattr(owner, method, cut_off)
        patch.setattr(pipeline, "_leave", lambda *_: None)
        with pytest.raises(SystemExit):
            run(tmp_path, path, shard_size=shard_size)
    again = run(tmp_path, path, shard_size=shard_size)
    assert again.already_done == (method != "write")
    assert all_files(tmp_path / "out") == all_files(tmp_path / "whole")


def interrupted(tmp_path: Path, path: Path, after_tokens: int, **options: Any) -> None:
    def interrupt(at: Progress) -> None:
        if at.tally.tokens >= after_tokens:
            raise KeyboardInterrupt

    settings = TokenizeSettings(sources=(str(path),), local_dir=str(tmp_path / "out"), **options)
    with pytest.raises(KeyboardInterrupt):
        tokenize(settings, interrupt)


@pytest.mark.usefixtures("small_slices")
def test_a_mistaken_option_costs_no_shard(tmp_path: Path) -> None:
    path = save_jsonl(tmp_path / "a.jsonl", ["word " * 1000] * 30)
    interrupted(tmp_path, path, 9000, shard_size=1000, tokenizer_model="bytes")
    before = all_files(tmp_path / "out")
    with pytest.raises(UsageError, match="--engine tiktoken can't read"):
        run(tmp_path, path, shard_size=1000, tokenizer_model="bytes", engine="tiktoken")
    assert all_files(tmp_path / "out") == before
    assert run(tmp_path, path, shard_size=1000, tokenizer_model="bytes").continued >= 9000


@pytest.mark.usefixtures("small_slices")
def test_of_a_long_text_that_may_have_to_be_skipped_no_half_is_kept(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"some words " * 5000 + b"\xff|the second")
    interrupted(tmp_path, tmp_path / "a.txt", 3000, shard_size=1000, separator="|")
    with pytest.raises(UsageError, match=r"--on-error default \(now 'skip'\)"):
        run(tmp_path, tmp_path / "a.txt", shard_size=1000, separator="|", on_error="skip")


@pytest.mark.usefixtures("small_slices")
def test_shards_of_an_engine_that_erred_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_jsonl(tmp_path / "a.jsonl", [f"{number} word " * 100 for number in range(100)])
    calls = monkeypatch_gigatoken(monkeypatch, after=8)
    with pytest.raises(MismatchError):
        run(tmp_path, path, shard_size=100)
    assert len(calls) == 9
    assert not (tmp_path / "out").exists()


def test_the_place_of_a_tokenizer_file_does_not_count(tmp_path: Path) -> None:
    path = save_jsonl(tmp_path / "a.jsonl", TEXTS)
    for name in ("one.json", "two.json"):
        (tmp_path / name).write_text(get_tokenizer("gpt2").to_json(), encoding="utf-8")
    run(tmp_path, path, tokenizer_model=str(tmp_path / "one.json"))
    assert run(tmp_path, path, tokenizer_model=str(tmp_path / "two.json")).already_done


@pytest.mark.parametrize("change", ["content", "option", "tokenizer"])
def test_an_unfinished_folder_is_gone_on_with_only_from_the_same(tmp_path: Path, change: str) -> None:
    path = save_jsonl(tmp_path / "a.jsonl", ["word " * 1000] * 300)

    def interrupt(at: Progress) -> None:
        raise KeyboardInterrupt

    settings = TokenizeSettings(sources=(str(path),), local_dir=str(tmp_path / "out"), shard_size=1000)
    with pytest.raises(KeyboardInterrupt):
        tokenize(settings, interrupt)
    options: dict[str, Any] = {"shard_size": 1000}
    if change == "content":
        path.write_text(path.read_text().replace("word", "ward", 1))
    elif change == "option":
        options["val_tokens"] = 7
    else:
        options["tokenizer_model"] = "bytes"
    before = all_files(tmp_path / "out")
    named = {"content": "another content of .*a.jsonl", "option": "--val-tokens", "tokenizer": "now 'bytes'"}
    with pytest.raises(UsageError, match=f"holds unfinished tokens, made with .*{named[change]}"):
        run(tmp_path, path, **options)
    assert all_files(tmp_path / "out") == before
    summary = run(tmp_path, path, fresh=True, **options)
    assert (summary.continued, summary.moved_to) == (0, None)
    run(tmp_path, path, out="other", **options)
    assert all_files(tmp_path / "out") == all_files(tmp_path / "other")


def test_a_disk_without_room_for_the_next_shard_is_told_before_it_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_jsonl(tmp_path / "a.jsonl", ["word " * 1000] * 2000)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=5_000))
    with pytest.raises(UserError, match=r"has 0.0 MB left; the next shard needs"):
        run(tmp_path, path)
    assert not (tmp_path / "out").exists()


def test_an_error_after_fresh_puts_the_old_tokens_back(tmp_path: Path) -> None:
    run(tmp_path, save_jsonl(tmp_path / "a.jsonl", TEXTS))
    old = all_files(tmp_path / "out")
    (tmp_path / "b.jsonl").write_text("not json")
    with pytest.raises(UserError, match="line 1"):
        run(tmp_path, tmp_path / "b.jsonl", fresh=True)
    assert all_files(tmp_path / "out") == old
    assert not (tmp_path / "out.old-1").exists()


def test_a_full_disk_is_told_with_what_is_needed_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = save_jsonl(tmp_path / "a.jsonl", ["word " * 1000] * 1000)
    monkeypatch.setattr(_ShardFile, "publish", full)
    with pytest.raises(UserError, match=r"The disk of .*out is full; .* all need about 2\.\d MB"):
        run(tmp_path, path, shard_size=1000)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("texts", [[], [""], ["", ""]])
def test_sources_without_text_are_refused(tmp_path: Path, texts: list[str]) -> None:
    with pytest.raises(UsageError, match="hold no text"):
        run(tmp_path, save_jsonl(tmp_path / "a.jsonl", texts))
    assert not (tmp_path / "out").exists()


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(UsageError, match="hold no text"):
        run(tmp_path, tmp_path / "a.txt")


def test_validation_that_takes_everything_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="leave nothing to train on"):
        run(tmp_path, save_jsonl(tmp_path / "a.jsonl", ["a b c"]), val_tokens=4)
    assert not (tmp_path / "out").exists()


def test_the_smallest_corpus_has_a_token_of_each_split(tmp_path: Path) -> None:
    summary = run(tmp_path, save_jsonl(tmp_path / "a.jsonl", ["a"]))
    assert (summary.val_tokens, summary.train_tokens) == (1, 1)


def test_verify_names_every_damaged_shard(tmp_path: Path) -> None:
    run(tmp_path, save_jsonl(tmp_path / "a.jsonl", TEXTS), shard_size=40)
    for name in ("train_000002.npy", "val_000000.npy"):
        content = bytearray((tmp_path / "out" / name).read_bytes())
        content[-1] ^= 1
        (tmp_path / "out" / name).write_bytes(content)
    open_shards(tmp_path / "out")  # headers and sizes are right
    with pytest.raises(UserError) as caught:
        verify(tmp_path / "out")
    assert [name in str(caught.value) for name in ("train_000002", "val_000000", "train_000001")] == [True, True, False]


def test_a_local_dataset_makes_the_same_tokens_as_its_files(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    parquet.write_table(pa.table({"text": TEXTS}), tmp_path / "set" / "train-00000.parquet")
    tokenize(TokenizeSettings(dataset_path=str(tmp_path / "set"), local_dir=str(tmp_path / "a")))
    run(tmp_path, tmp_path / "set", out="b")
    assert shard_contents(tmp_path / "a") == shard_contents(tmp_path / "b")
    assert tokenize(TokenizeSettings(dataset_path=str(tmp_path / "set"), local_dir=str(tmp_path / "a"))).already_done


@pytest.mark.skipif(not BOOKS.exists(), reason="needs ../shared/data/books.parquet")
def test_real_prose_has_the_reference_ids(tmp_path: Path) -> None:
    texts = parquet.read_table(BOOKS, columns=["text"])["text"].to_pylist()[::50]
    parquet.write_table(pa.table({"text": texts}), tmp_path / "books.parquet")
    run(tmp_path, tmp_path / "books.parquet", val_tokens=0)
    assert shard_contents(tmp_path / "out")["train_000001.npy"] == tokens_of(texts)
