from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
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
from tiktoken.load import load_tiktoken_bpe

from gptcli.data import encoder as encoder_module
from gptcli.data import workers
from gptcli.data.encoder import BulkEncoder
from gptcli.data.locks import FolderLock
from gptcli.data.manifest import Manifest
from gptcli.data.pipeline import Progress, Summary, tokenize, verify
from gptcli.data.shards import open_shards
from gptcli.data.workers import encode_all
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


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(
    total=st.integers(2, 150), shard_size=st.integers(1, 60), val_tokens=st.none() | st.integers(0, 50), data=st.data()
)
def test_shards_are_cut_as_promised_however_the_tokens_come(
    tmp_path_factory: pytest.TempPathFactory, total: int, shard_size: int, val_tokens: int | None, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    ids = np.arange(total, dtype=np.uint16)
    writer = ShardWriter(folder, "uint16", shard_size, val_tokens)
    for part in np.split(ids, sorted(data.draw(st.lists(st.integers(0, total), max_size=5)))):
        writer.append(part)
    val = min(shard_size, -(-total // 10)) if val_tokens is None else val_tokens
    if val >= total:
        with pytest.raises(UsageError, match="leave nothing to train on"):
            writer.finish()
        writer.close()
        return
    records = writer.finish()
    parts = {"val_000000.npy": ids[:val]} if val else {}
    for number, start in enumerate(range(val, total, shard_size), start=1):
        parts[f"train_{number:06d}.npy"] = ids[start : start + shard_size]
    assert [record.name for record in records] == list(parts)
    assert {path.name for path in folder.iterdir()} == set(parts)
    for record in records:
        array = np.load(folder / record.name)
        assert array.dtype == np.uint16
        assert np.array_equal(array, parts[record.name])
        assert record.tokens == len(array)
        assert record.sha256 == hashlib.sha256((folder / record.name).read_bytes()).hexdigest()


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
    assert manifest.sources == {"files": [{"path": path.as_posix(), "bytes": path.stat().st_size}]}
    assert manifest.options == {
        "tokenizer_model": "gpt2",
        "shard_size": 100_000_000,
        "val_tokens": None,
        "text_column": "text",
        "separator": "\n",
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
    monkeypatch.setattr(encoder_module, "get_tokenizer", lambda name: wide)
    run(tmp_path, save_jsonl(tmp_path / "a.jsonl", TEXTS), tokenizer_model="wide", val_tokens=0)
    array = np.load(tmp_path / "out" / "train_000001.npy")
    assert array.dtype == np.uint32
    assert array.tolist() == [70_000 if token == 50_256 else token for token in tokens_of(TEXTS)]
    assert load_tiktoken_bpe(str(tmp_path / "out" / "tokenizer.tiktoken")) == gpt2.ranks


def test_the_fingerprint_is_of_the_tokens_not_of_where_they_came_from(tmp_path: Path) -> None:
    for name, texts in (("a", TEXTS), ("b", TEXTS), ("c", TEXTS[::-1])):
        run(tmp_path, save_jsonl(tmp_path / f"{name}.jsonl", texts), out=name)
    a, b, c = (open_shards(tmp_path / name).fingerprint for name in "abc")
    assert a == b
    assert a != c


def test_progress_ends_at_the_summary(tmp_path: Path) -> None:
    seen: list[Progress] = []
    path = save_jsonl(tmp_path / "a.jsonl", ["word " * 100_000] * 6)
    summary = tokenize(TokenizeSettings(sources=(str(path),), local_dir=str(tmp_path / "out")), seen.append)
    assert len(seen) > 1
    assert [at.tokens for at in seen] == sorted(at.tokens for at in seen)
    assert (seen[-1].documents, seen[-1].bytes, seen[-1].tokens) == (summary.documents, summary.bytes, summary.tokens)
    assert seen[-1].total_bytes == pytest.approx(summary.bytes, rel=0.01)


# --- encoding


@hypothesis_settings(max_examples=150, deadline=None)
@given(texts=st.lists(st.text() | st.text(alphabet=" \n\t\r\x85\u3000ab1'😀!\u0301"), min_size=1, max_size=5))
def test_both_engines_give_the_reference_ids(texts: list[str]) -> None:
    expected = tokens_of(texts)
    for engine in ("gigatoken", "tiktoken"):
        ids, size = engine_of(engine).encode(texts)
        assert ids.dtype == np.uint16
        assert ids.tolist() == expected
        assert size == sum(len(text.encode()) for text in texts)


ENGINES: dict[str, BulkEncoder] = {}


def engine_of(name: Any) -> BulkEncoder:
    if name not in ENGINES:
        ENGINES[name] = BulkEncoder("gpt2", name)
        assert ENGINES[name].engine == name
    return ENGINES[name]


def test_gigatoken_is_taken_where_it_agrees_and_left_where_it_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert BulkEncoder("gpt2").engine == "gigatoken"
    monkeypatch.setitem(encoder_module._SCHEMES, "gpt2", "gpt4")  # another way of cutting
    assert BulkEncoder("gpt2").engine == "tiktoken"


@pytest.mark.parametrize("character", ["a", " ", "\n", "!", "é"])
def test_a_million_equal_characters_are_encoded_by_both_engines_alike(character: str) -> None:
    texts = [character * 1_000_000, character * 1_000_000 + "a b", "x" + character * 60_000 + "\u3000\nb"]
    by_tiktoken, _ = engine_of("tiktoken").encode(texts)
    by_gigatoken, _ = engine_of("gigatoken").encode(texts)
    assert np.array_equal(by_tiktoken, by_gigatoken)
    assert by_tiktoken.tolist()[-50:] == tokens_of(texts[2:])[-50:]


def test_lone_surrogates_become_replacement_characters(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a\\ud800b"}\n')
    summary = run(tmp_path, tmp_path / "a.jsonl", val_tokens=0)
    assert shard_contents(tmp_path / "out")["train_000001.npy"] == tokens_of(["a\ufffdb"])
    assert summary.bytes == len("a\ufffdb".encode())


def test_a_renewed_encoder_gives_the_same_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_module, "_TOKENS_UNTIL_RENEWAL", 10)
    encoder = BulkEncoder("gpt2", "gigatoken")
    first = encoder._gigatoken
    for _ in range(3):
        assert encoder.encode(TEXTS)[0].tolist() == tokens_of(TEXTS)
    assert encoder._gigatoken is not first


def test_a_panic_of_the_tokenizer_is_told_as_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        pass

    class Panicking:
        def encode_ordinary(self, text: str) -> list[int]:
            raise PanicException("stack overflow")

    encoder = BulkEncoder("gpt2", "tiktoken")
    monkeypatch.setattr(encoder.tokenizer, "_encoding", Panicking())
    with pytest.raises(UserError, match="fails on the text that begins 'long"):
        encoder.encode(["long long document"])


# --- processes


@pytest.fixture
def always_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "ALONE_BYTES", dict.fromkeys(workers.ALONE_BYTES, 0))
    monkeypatch.setattr(workers, "BATCH_BYTES", 3000)


@pytest.mark.usefixtures("always_pool")
def test_the_bytes_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    path = save_jsonl(tmp_path / "a.jsonl", [f"{number} {text}" for number in range(50) for text in TEXTS])
    for count in (1, 2, 3):
        run(tmp_path, path, out=f"out{count}", workers=count, shard_size=700)
    one = all_files(tmp_path / "out1")
    assert len(one) > 20
    assert all_files(tmp_path / "out2") == one
    assert all_files(tmp_path / "out3") == one


@pytest.mark.usefixtures("always_pool")
def test_only_so_many_batches_are_read_ahead() -> None:
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield "word " * 1000

    encoded = encode_all(endless(), engine_of("gigatoken"), 2)
    for count in range(1, 20):
        assert next(encoded).documents == 1
        assert taken - count <= 2 * workers._BATCHES_PER_WORKER + 1
    encoded.close()


def _die(_: list[str]) -> None:
    os._exit(1)


@pytest.mark.usefixtures("always_pool")
def test_a_worker_that_dies_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_encode", _die)
    with pytest.raises(UserError, match="A process that was encoding died"):
        run(tmp_path, save_jsonl(tmp_path / "a.jsonl", TEXTS), workers=2)
    assert not (tmp_path / "out").exists()


INTERRUPTIBLE = """
import sys
import time
from gptcli.data import workers
from gptcli.data.pipeline import tokenize
from gptcli.settings import TokenizeSettings

if __name__ == "__main__":
    workers.ALONE_BYTES = dict.fromkeys(workers.ALONE_BYTES, 0)
    settings = TokenizeSettings(sources=(sys.argv[1],), local_dir=sys.argv[2], workers=2, shard_size=1000)
    tokenize(settings, lambda at: (print("working", flush=True), time.sleep(0.2)))
"""


def start_tokenizing(tmp_path: Path) -> subprocess.Popen[str]:
    """Tokenize something long in a process group of its own, and return once it works."""
    save_jsonl(tmp_path / "a.jsonl", ["some words of text " * 2000] * 1000)
    (tmp_path / "script.py").write_text(INTERRUPTIBLE)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "a.jsonl"), str(tmp_path / "out")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    return process


def group_is_gone(group: int) -> bool:
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.skipif(os.name != "posix", reason="process groups are POSIX")
def test_ctrl_c_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    process = start_tokenizing(tmp_path)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    _, stderr = process.communicate(timeout=60)
    assert group_is_gone(process.pid)
    assert not (tmp_path / "out").exists()
    assert stderr.count("Traceback") == 1, stderr  # this process's own KeyboardInterrupt, none of the workers'


@pytest.mark.skipif(os.name != "posix", reason="process groups are POSIX")
def test_a_killed_call_leaves_no_process_and_the_next_one_starts_over(tmp_path: Path) -> None:
    process = start_tokenizing(tmp_path)
    process.kill()
    process.communicate(timeout=60)
    assert group_is_gone(process.pid)
    with pytest.raises(UsageError, match="has not finished"):
        open_shards(tmp_path / "out")
    run(tmp_path, save_jsonl(tmp_path / "a.jsonl", TEXTS))
    run(tmp_path, tmp_path / "a.jsonl", out="other")
    assert all_files(tmp_path / "out") == all_files(tmp_path / "other")


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
    with pytest.raises(UsageError, match="other sources"):
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
    with pytest.raises(UsageError, match="train_000001"):
        run(tmp_path, path)


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    with FolderLock(tmp_path / "out"), pytest.raises(UserError, match=f"process {os.getpid()}"):
        run(tmp_path, save_jsonl(tmp_path / "a.jsonl", TEXTS))


def test_a_bad_line_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    path = save_jsonl(tmp_path / "a.jsonl", ["word " * 1000] * 3000)
    path.write_text(path.read_text() + "not json\n")
    with pytest.raises(UserError, match="line 3,001"):
        run(tmp_path, path, shard_size=100_000)
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
