from __future__ import annotations

import errno
import gc
import os
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gptcli.data import token_stream
from gptcli.data.batches import WindowReader
from gptcli.data.manifest import Manifest, ShardRecord, TokenizerRecord, Totals
from gptcli.data.shards import open_shards
from gptcli.errors import UsageError, UserError

needs_pread = pytest.mark.skipif(not hasattr(os, "pread"), reason="without positioned reads no file stays open")


def write_bin(path: Path, tokens: npt.NDArray[np.integer], magic: int = 20240520, version: int = 1) -> None:
    """A shard as llm.c and modded-nanogpt write them."""
    header = np.zeros(256, dtype=np.int32)
    header[:3] = magic, version, len(tokens)
    path.write_bytes(header.tobytes() + tokens.tobytes())


def save_shards(folder: Path, sizes: list[int], dtype: str = "uint16") -> npt.NDArray[np.int64]:
    """Training shards of these sizes, named as the original names them, and a validation shard; all training tokens."""
    tokens = np.random.default_rng(0).integers(0, 50_000, sum(sizes))
    np.save(folder / "edufineweb_val_000000.npy", np.arange(7, dtype=dtype))
    for number, part in enumerate(np.split(tokens, np.cumsum(sizes)[:-1]), start=1):
        np.save(folder / f"edufineweb_train_{number:06d}.npy", part.astype(dtype))
    return tokens


def manifest_of(names: dict[str, int]) -> Manifest:
    records = [ShardRecord(name=name, split="train", tokens=size, sha256="0" * 64) for name, size in names.items()]
    return Manifest(
        tokenizer=TokenizerRecord(name="gpt2", vocab_size=50257, eot=50256, sha256="1" * 64),
        dtype="uint16",
        shards=tuple(records),
        totals=Totals(documents=1, tokens=sum(names.values()), bytes=1),
        sources={},
        options={},
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(sizes=st.lists(st.integers(0, 40), min_size=1, max_size=6), data=st.data())
def test_a_read_is_a_slice_of_all_shards_in_a_row(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    tokens = save_shards(folder, sizes)
    stream = open_shards(folder).split("train")
    assert len(stream) == len(tokens)
    start = data.draw(st.integers(0, len(tokens)))
    count = data.draw(st.integers(0, len(tokens) - start))
    read = stream.read(start, count)
    assert read.dtype == np.int64
    assert np.array_equal(read, tokens[start : start + count])


@pytest.mark.parametrize(("start", "count"), [(0, 31), (30, 1), (-1, 2), (31, 0 + 1)])
def test_a_read_past_the_end_is_an_error(tmp_path: Path, start: int, count: int) -> None:
    save_shards(tmp_path, [10, 20])
    with pytest.raises(IndexError):
        open_shards(tmp_path).split("train").read(start, count)


def test_windows_run_across_the_borders_of_shards(tmp_path: Path) -> None:
    tokens = save_shards(tmp_path, [10, 3, 1, 20])
    windows = WindowReader(open_shards(tmp_path).split("train"), 4, 50_257)
    assert len(windows) == 8
    x, y = windows.read(np.array([7, 0, 2, 3]))
    assert x.shape == y.shape == (4, 4)
    assert x.dtype == y.dtype == np.int64
    for row, window in enumerate([7, 0, 2, 3]):
        assert np.array_equal(x[row], tokens[window * 4 : window * 4 + 4])
        assert np.array_equal(y[row], tokens[window * 4 + 1 : window * 4 + 5])


def test_what_is_read_does_not_change_with_what_the_reader_writes_into_it(tmp_path: Path) -> None:
    tokens = save_shards(tmp_path, [10])
    stream = open_shards(tmp_path).split("train")
    stream.read(0, 5)[:] = 0
    assert np.array_equal(stream.read(0, 5), tokens[:5])


def test_a_folder_without_a_manifest_has_its_splits_by_name(tmp_path: Path) -> None:
    save_shards(tmp_path, [10, 20])
    np.save(tmp_path / "notes.npy", np.zeros((3, 3)))
    np.save(tmp_path / "training_times.npy", np.zeros(3))
    shards = open_shards(tmp_path)
    assert shards.tokenizer_name is shards.vocab_size is shards.eot is shards.manifest is None
    assert len(shards.split("train")) == 30
    assert shards.split("val").read(0, 7).tolist() == list(range(7))


def test_shards_are_in_the_order_of_their_numbers_padded_or_not(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        np.save(tmp_path / f"train_{number}.npy", np.full(2, number, dtype=np.uint16))
    assert open_shards(tmp_path).split("train").read(0, 6).tolist() == [1, 1, 2, 2, 10, 10]


@pytest.mark.parametrize(
    ("dtype", "magic", "version", "top"), [("uint16", 20240520, 1, 65_535), ("uint32", 20240801, 7, 128_255)]
)
def test_shards_of_llm_c_and_modded_nanogpt_are_read(
    tmp_path: Path, dtype: str, magic: int, version: int, top: int
) -> None:
    write_bin(tmp_path / "fineweb_train_000001.bin", np.array([1, 2, top], dtype=dtype), magic, version)
    write_bin(tmp_path / "fineweb_train_000002.bin", np.array([4], dtype=dtype), magic, version)
    write_bin(tmp_path / "fineweb_val_000000.bin", np.array([9, 8], dtype=dtype), magic, version)
    shards = open_shards(tmp_path)
    assert shards.split("train").read(0, 4).tolist() == [1, 2, top, 4]
    assert shards.split("val").read(0, 2).tolist() == [9, 8]


def test_ids_over_65535_are_read_as_they_are(tmp_path: Path) -> None:
    np.save(tmp_path / "train_000001.npy", np.array([70_000, 5], dtype=np.uint32))
    assert open_shards(tmp_path).split("train").read(0, 2).tolist() == [70_000, 5]


def test_all_damaged_shards_are_told_at_once(tmp_path: Path) -> None:
    save_shards(tmp_path, [10, 10, 10])
    cut = tmp_path / "edufineweb_train_000001.npy"
    cut.write_bytes(cut.read_bytes()[:-2])
    (tmp_path / "edufineweb_train_000002.npy").write_bytes(b"not an array")
    np.save(tmp_path / "edufineweb_train_000003.npy", np.zeros((2, 5), dtype=np.uint16))
    np.save(tmp_path / "train_000004.npy", np.zeros(5))
    np.save(tmp_path / "train_000005.npy", np.array([{"a": 1}]), allow_pickle=True)
    (tmp_path / "train_000006.bin").write_bytes(bytes(3000))
    (tmp_path / "train_000007.npy").write_bytes(b"")
    with pytest.raises(UserError) as caught:
        open_shards(tmp_path)
    messages = [fault.message for fault in caught.value.faults]
    assert len(messages) == 7
    assert "000001.npy is cut off" in "".join(messages)
    assert all(fault.hint for fault in caught.value.faults)


def test_a_manifest_is_held_against_the_files(tmp_path: Path) -> None:
    np.save(tmp_path / "train_000001.npy", np.zeros(10, dtype=np.uint16))
    np.save(tmp_path / "train_000009.npy", np.zeros(10, dtype=np.uint16))  # not in the manifest: not read
    manifest_of({"train_000001.npy": 11, "train_000002.npy": 5}).write(tmp_path)
    with pytest.raises(UserError) as caught:
        open_shards(tmp_path)
    assert len(caught.value.faults) == 2
    manifest_of({"train_000001.npy": 10}).write(tmp_path)
    shards = open_shards(tmp_path)
    assert len(shards.split("train")) == 10
    assert (shards.tokenizer_name, shards.vocab_size, shards.eot) == ("gpt2", 50257, 50256)
    with pytest.raises(UserError, match="no val shards"):
        shards.split("val")


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"format_version": 1}', b"\xff\xfe", '{"format_version": "1"}'],
)
def test_a_damaged_manifest_is_told(tmp_path: Path, content: str | bytes) -> None:
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "manifest.json").write_bytes(data)
    with pytest.raises(UserError, match="is damaged") as caught:
        open_shards(tmp_path)
    assert caught.value.faults[0].hint


def test_a_manifest_can_not_name_a_file_outside_its_folder(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    np.save(tmp_path / "train_000001.npy", np.zeros(10, dtype=np.uint16))
    manifest_of({"train_000001.npy": 10}).write(tmp_path / "data")
    path = tmp_path / "data" / "manifest.json"
    path.write_text(path.read_text().replace("train_000001.npy", "../train_000001.npy"))
    with pytest.raises(UserError, match="is damaged"):
        open_shards(tmp_path / "data")


def test_a_manifest_of_a_later_version_asks_for_an_update(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"format_version": 2}')
    with pytest.raises(UserError, match="format version 2"):
        open_shards(tmp_path)


def test_a_folder_that_is_being_tokenized_is_refused(tmp_path: Path) -> None:
    save_shards(tmp_path, [10])
    (tmp_path / ".unfinished.json").write_text("{}")
    with pytest.raises(UsageError, match="has not finished"):
        open_shards(tmp_path)


def test_a_missing_folder_suggests_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "shakespeare").mkdir()
    with pytest.raises(UsageError) as caught:
        open_shards(tmp_path / "shakespear")
    assert "shakespeare" in caught.value.faults[0].hint
    with pytest.raises(UsageError, match="no token shards"):
        open_shards(tmp_path / "shakespeare")


def test_the_fingerprint_follows_the_shards(tmp_path: Path) -> None:
    save_shards(tmp_path, [10, 20])
    before = open_shards(tmp_path).fingerprint
    assert open_shards(tmp_path).fingerprint == before
    np.save(tmp_path / "edufineweb_train_000002.npy", np.zeros(19, dtype=np.uint16))
    assert open_shards(tmp_path).fingerprint != before


def written_shards(folder: Path, n: int, tokens: int = 10) -> npt.NDArray[np.int64]:
    """Training shards with a manifest, and all their tokens."""
    names = {f"train_{number:06d}.npy": tokens for number in range(1, n + 1)}
    for number, name in enumerate(names):
        np.save(folder / name, np.arange(number * tokens, (number + 1) * tokens, dtype=np.uint16))
    manifest_of(names).write(folder)
    return np.arange(n * tokens)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(start=st.integers(0, 50), check=st.booleans(), data=st.data())
def test_a_read_of_shards_with_a_manifest_is_a_slice_checked_before_or_then(
    tmp_path_factory: pytest.TempPathFactory, start: int, check: bool, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    tokens = written_shards(folder, 5)
    count = data.draw(st.integers(0, 50 - start))
    stream = open_shards(folder, check=check).split("train")
    for _ in range(2):
        assert np.array_equal(stream.read(start, count), tokens[start : start + count])


def test_the_files_of_a_stream_are_the_same_whoever_checks_them(tmp_path: Path) -> None:
    written_shards(tmp_path, 3)
    first, other = (list(open_shards(tmp_path, check=check).split("train").files) for check in (True, False))
    (tmp_path / "manifest.json").unlink()
    assert first == other == list(open_shards(tmp_path).split("train").files)


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        (np.arange(9, dtype=np.uint16), "has 9 tokens; the manifest says 10"),
        (np.arange(10, dtype=np.uint32), "holds uint32; the manifest says uint16"),
        (np.arange(10, dtype=">u2"), "holds >u2; the manifest says uint16"),
        (np.arange(5, dtype=np.uint32), "has 5 tokens; the manifest says 10"),  # as many bytes
        (b"\x93NUMPX", "has a damaged header"),
        (b"", "has a damaged header"),
        (None, "can't be read: No such file"),
    ],
)
def test_a_damaged_shard_is_told_alike_before_a_run_and_when_it_is_first_read(
    tmp_path: Path, damaged: npt.NDArray[np.integer] | bytes | None, message: str
) -> None:
    written_shards(tmp_path, 3)
    path = tmp_path / "train_000002.npy"
    if damaged is None:
        path.unlink()
    elif isinstance(damaged, bytes):
        path.write_bytes(damaged + path.read_bytes()[len(damaged) :] if damaged else b"")
    else:
        np.save(path, damaged)
    with pytest.raises(UserError) as before:
        open_shards(tmp_path)
    stream = open_shards(tmp_path, check=False).split("train")
    assert stream.read(0, 10).tolist() == list(range(10))
    with pytest.raises(UserError) as then:
        stream.read(5, 10)
    for caught in (before, then):
        assert len(caught.value.faults) == 1
        assert f"train_000002.npy {message}" in caught.value.faults[0].message
        assert caught.value.faults[0].hint


def test_of_many_damaged_shards_the_first_are_named_and_the_others_counted(tmp_path: Path) -> None:
    written_shards(tmp_path, 130)
    for number in range(1, 120):
        (tmp_path / f"train_{number:06d}.npy").unlink()
    with pytest.raises(UserError) as caught:
        open_shards(tmp_path)
    assert "train_000001.npy" in caught.value.faults[0].message
    assert caught.value.faults[-1].message == "99 more shards are damaged or missing."
    assert len(caught.value.faults) == 21


def replaced(path: Path, content: bytes) -> None:
    other = path.with_suffix(".new")
    other.write_bytes(content)
    other.replace(path)


@pytest.mark.parametrize("read_before", [True, False])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-4]), "has become shorter"),
        (lambda path: path.write_bytes(path.read_bytes() + bytes(4)), "has become longer"),
        (lambda path: replaced(path, path.read_bytes()[:-4]), "has become shorter"),
        (lambda path: replaced(path, path.read_bytes() + bytes(4)), "has become longer"),
        (lambda path: path.unlink(), "can't be read: No such file"),
    ],
    ids=["cut", "extended", "replaced by a shorter", "replaced by a longer", "removed"],
)
def test_a_shard_that_changes_its_size_during_a_run_is_told(
    tmp_path: Path, change: Callable[[Path], object], message: str, read_before: bool
) -> None:
    written_shards(tmp_path, 2)
    stream = open_shards(tmp_path).split("train")
    if read_before:
        stream.read(0, 20)
    change(tmp_path / "train_000001.npy")
    assert stream.read(10, 10).tolist() == list(range(10, 20))
    with pytest.raises(UserError, match=message) as caught:
        stream.read(0, 3)
    assert "train_000001.npy" in caught.value.faults[0].message
    assert caught.value.faults[0].hint


def test_a_shard_that_is_replaced_by_one_of_its_size_is_read_as_it_is_now(tmp_path: Path) -> None:
    written_shards(tmp_path, 1)
    stream = open_shards(tmp_path).split("train")
    stream.read(0, 10)
    content = (tmp_path / "train_000001.npy").read_bytes()
    replaced(tmp_path / "train_000001.npy", content[:-2] + b"\x07\x00")
    assert stream.read(8, 2).tolist() == [8, 7]


@needs_pread
def test_a_file_that_the_network_lost_is_opened_again_and_a_failing_disk_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = written_shards(tmp_path, 2)
    stream = open_shards(tmp_path).split("train")
    stream.read(0, 20)
    right, failures = os.pread, [1]

    def failing(descriptor: int, count: int, position: int) -> bytes:
        if failures[0]:
            failures[0] -= 1
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return right(descriptor, count, position)

    monkeypatch.setattr(os, "pread", failing)
    assert np.array_equal(stream.read(0, 20), tokens)
    failures[0] = 2
    with pytest.raises(UserError, match=r"train_000002\.npy can't be read"):
        stream.read(12, 2)
    assert stream.read(12, 2).tolist() == [12, 13]


@needs_pread
def test_a_read_that_comes_in_pieces_is_put_together_and_one_that_ends_too_soon_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = written_shards(tmp_path, 3)
    stream = open_shards(tmp_path).split("train")
    right = os.pread
    monkeypatch.setattr(os, "pread", lambda descriptor, count, position: right(descriptor, min(count, 3), position))
    assert np.array_equal(stream.read(3, 24), tokens[3:27])
    monkeypatch.setattr(os, "pread", lambda *_: b"")
    with pytest.raises(UserError, match=r"train_000001\.npy became shorter"):
        stream.read(3, 24)


def test_reads_are_the_same_where_they_can_not_be_positioned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = written_shards(tmp_path, 3)
    monkeypatch.delattr(os, "pread", raising=False)
    monkeypatch.setattr(token_stream, "MOST_OPEN", 0)
    stream = open_shards(tmp_path, check=False).split("train")
    for start in (25, 0, 7, 7, 12):
        assert np.array_equal(stream.read(start, 5), tokens[start : start + 5])


def descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))


@needs_pread
def test_a_bounded_number_of_files_stays_open_and_none_after_the_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = written_shards(tmp_path, 40)
    monkeypatch.setattr(token_stream, "MOST_OPEN", 5)
    gc.collect()  # what other tests have left open
    before = descriptors()
    stream = open_shards(tmp_path).split("train")
    for start in np.random.default_rng(0).integers(0, 395, 200).tolist():
        assert np.array_equal(stream.read(start, 5), tokens[start : start + 5])
        assert descriptors() <= before + 5
    assert descriptors() == before + 5
    copied = pickle.loads(pickle.dumps(stream))  # noqa: S301 (made in this line)
    assert np.array_equal(copied.read(0, 400), tokens)
    del stream, copied
    assert descriptors() == before


@needs_pread
def test_where_a_process_may_have_few_files_open_it_makes_do(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    tokens = written_shards(tmp_path, 60)
    stream = open_shards(tmp_path).split("train")
    free = os.dup(0)
    os.close(free)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 5, limits[1]))
    try:
        assert np.array_equal(stream.read(0, 600), tokens)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_threads_may_share_a_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = written_shards(tmp_path, 20)
    monkeypatch.setattr(token_stream, "MOST_OPEN", min(2, token_stream.MOST_OPEN))
    stream = open_shards(tmp_path, check=False).split("train")

    def is_right(start: int) -> bool:
        return np.array_equal(stream.read(start, 25), tokens[start : start + 25])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(is_right, np.random.default_rng(0).integers(0, 175, 3000).tolist()))


def test_a_stream_pickles_to_its_file_names(tmp_path: Path) -> None:
    tokens = save_shards(tmp_path, [100_000])
    data = pickle.dumps(open_shards(tmp_path).split("train"))
    assert len(data) < 2000
    assert np.array_equal(pickle.loads(data).read(99_990, 10), tokens[99_990:])  # noqa: S301 (made a line above)
