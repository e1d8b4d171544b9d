from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gptcli.data.batches import WindowReader
from gptcli.data.manifest import Manifest, ShardRecord, TokenizerRecord, Totals
from gptcli.data.shards import open_shards
from gptcli.errors import UsageError, UserError


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


def test_a_shard_that_shrinks_while_it_is_read_is_told(tmp_path: Path) -> None:
    save_shards(tmp_path, [10])
    stream = open_shards(tmp_path).split("train")
    path = tmp_path / "edufineweb_train_000001.npy"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UserError, match="shorter"):
        stream.read(0, 10)
    path.unlink()
    with pytest.raises(UserError, match="can't be read any more"):
        stream.read(0, 10)


def test_a_stream_pickles_to_its_file_names(tmp_path: Path) -> None:
    tokens = save_shards(tmp_path, [100_000])
    data = pickle.dumps(open_shards(tmp_path).split("train"))
    assert len(data) < 2000
    assert np.array_equal(pickle.loads(data).read(99_990, 10), tokens[99_990:])  # noqa: S301 (made a line above)
