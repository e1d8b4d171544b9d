"""A corpus past one machine: 15 T tokens in 150,000 shards, read by 4,096 processes; and one larger than the memory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gptcli.data.batches import WindowReader
from gptcli.data.manifest import Manifest, ShardRecord, TokenizerRecord, Totals
from gptcli.data.order import Permutation, n_windows, samples_of, window_of
from gptcli.data.shard_format import npy_header
from gptcli.data.shards import open_shards
from gptcli.errors import UserError

SHARDS, TOKENS = 150_000, 100_000_000
LENGTH, RANKS, N_BATCHES, ACCUMULATION = 1024, 4096, 8, 2
PER_STEP = RANKS * N_BATCHES * ACCUMULATION
WINDOWS = n_windows((SHARDS - 1) * TOKENS, LENGTH)

on_posix = pytest.mark.skipif(os.name != "posix", reason="files are sparse only when asked for on Windows")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is limited and read back as Linux does it")


def sparse_shard(path: Path, tokens: int) -> None:
    header = npy_header(tokens, "uint32")
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + tokens * 4)


def write_manifest(folder: Path, names: list[str], tokens: int) -> None:
    records = (
        ShardRecord(name=name, split="train" if number else "val", tokens=tokens, sha256=f"{number:064x}")
        for number, name in enumerate(names)
    )
    Manifest(
        tokenizer=TokenizerRecord(name="gpt2", vocab_size=50257, eot=50256, sha256="1" * 64),
        dtype="uint32",
        shards=tuple(records),
        totals=Totals(documents=1, tokens=tokens * len(names), bytes=1),
        sources=(),
        options={},
    ).write(folder)


def names_of(n: int) -> list[str]:
    return ["val_000000.npy", *(f"train_{number:06d}.npy" for number in range(1, n))]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A manifest of 15 T tokens and its 150,000 files: names of a few sparse ones, which is quicker to make and to
    remove and the same to whoever opens them by name."""
    folder = tmp_path_factory.mktemp("fifteen_trillion")
    names = names_of(SHARDS)
    original = folder / names[0]
    sparse_shard(original, TOKENS)
    for name in names[1:]:
        try:
            os.link(original, folder / name)
        except OSError:  # it has as many names as the file system allows
            original = folder / name
            sparse_shard(original, TOKENS)
    write_manifest(folder, names, TOKENS)
    yield folder
    shutil.rmtree(folder)


# Prints how many files a process of a run opens to be ready, and for its first windows; and by how much it grows.
START = """
import json, resource, sys
from pathlib import Path
import numpy as np
from gptcli.data.batches import WindowReader
from gptcli.data.order import window_of
from gptcli.data.shards import open_shards

opened = []
sys.addaudithook(lambda event, arguments: opened.append(arguments[0]) if event == "open" else None)

def most_resident():
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM:"))

before = most_resident()
shards = open_shards(Path(sys.argv[1]), check=sys.argv[2] == "first")
shards.fingerprint
to_start = len(opened)
stream = shards.split("train")
reader = WindowReader(stream, 1024, 50_257)
x, y = reader.read(window_of(np.arange(len(reader) - 100, len(reader)), len(reader), seed=1))
to_read = len(opened) - to_start
grown = most_resident() - before
print(json.dumps({"to_start": to_start, "to_read": to_read, "grown": grown, "windows": len(reader)}))
"""


def start(folder: Path, who: str) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, "-c", START, str(folder), who], check=True, capture_output=True, text=True, timeout=200
    )
    report: dict[str, int] = json.loads(done.stdout)
    return report


@on_posix
def test_only_the_first_process_opens_all_of_150000_shards(corpus: Path) -> None:
    first, other = start(corpus, "first"), start(corpus, "other")
    assert first["windows"] == other["windows"] == WINDOWS
    assert SHARDS <= first["to_start"] <= SHARDS + 20
    assert other["to_start"] <= 20  # the manifest
    assert 99 <= other["to_read"] <= 220  # a window lies in one shard or two
    assert max(first["grown"], other["grown"]) < 200 * 2**20


@on_posix
def test_one_damaged_shard_of_150000_is_found_before_the_run_or_at_the_first_read(corpus: Path) -> None:
    damaged, missing = corpus / "train_077777.npy", corpus / "train_149999.npy"
    for path in (damaged, missing):
        path.rename(corpus / f".{path.name}")
    sparse_shard(damaged, TOKENS - 1)
    try:
        with pytest.raises(UserError) as caught:
            open_shards(corpus)
        messages = [fault.message for fault in caught.value.faults]
        assert len(messages) == 2
        assert damaged.name in messages[0]
        assert missing.name in messages[1]
        stream = open_shards(corpus, check=False).split("train")
        stream.read(77_776 * TOKENS - 8, 8)  # the shard before
        with pytest.raises(UserError, match=r"train_077777\.npy has 99,999,999 tokens; the manifest says 100,000,000"):
            stream.read(77_776 * TOKENS - 8, 9)
        with pytest.raises(UserError, match=r"train_149999\.npy can't be read"):
            stream.read(len(stream) - 1, 1)
    finally:
        for path in (damaged, missing):
            (corpus / f".{path.name}").replace(path)


def step_of_all(step: int) -> np.ndarray:
    """The windows of one step, by process: (ranks, accumulation × micro-batch), each computed as its process does."""
    return np.array(
        [
            [
                window_of(samples_of(step, micro, rank, RANKS, N_BATCHES, PER_STEP), WINDOWS, seed=1337)
                for micro in range(ACCUMULATION)
            ]
            for rank in range(RANKS)
        ]
    ).reshape(RANKS, -1)


@pytest.mark.parametrize("step", [0, WINDOWS // PER_STEP // 2, 3 * WINDOWS // PER_STEP - 1])
def test_no_two_of_4096_processes_read_the_same_window(step: int) -> None:
    windows = step_of_all(step)
    assert windows.shape == (RANKS, N_BATCHES * ACCUMULATION)
    assert np.unique(windows).size == PER_STEP
    assert windows.min() >= 0
    assert windows.max() < WINDOWS
    assert windows.max() > 0.99 * WINDOWS  # from all over the corpus


def test_the_step_at_the_border_of_two_epochs_takes_the_rest_of_one_and_the_beginning_of_the_next() -> None:
    border = WINDOWS // PER_STEP
    rest = WINDOWS - border * PER_STEP
    assert 0 < rest < PER_STEP
    in_order = step_of_all(border).reshape(RANKS, ACCUMULATION, N_BATCHES).swapaxes(0, 1).reshape(-1)
    last, first = Permutation(WINDOWS, 1337, 0), Permutation(WINDOWS, 1337, 1)
    assert np.array_equal(in_order[:rest], last.indices(np.arange(WINDOWS - rest, WINDOWS)))
    assert np.array_equal(in_order[rest:], first.indices(np.arange(PER_STEP - rest)))


def test_two_million_samples_of_an_epoch_of_fifteen_billion_are_all_different() -> None:
    positions = np.concatenate([np.arange(at, at + 250_000) for at in np.linspace(0, WINDOWS - 250_000, 8).astype(int)])
    # Of as many independent draws about 130 pairs would be equal.
    assert np.unique(Permutation(WINDOWS, 1337, 0).indices(positions)).size == positions.size


# Reads windows in shuffled order with 48 MiB of address space more than the process has before the first.
LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from gptcli.data.batches import WindowReader
from gptcli.data.order import window_of
from gptcli.data.shards import open_shards

def status(name):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name + ":"))

stream = open_shards(Path(sys.argv[1])).split("train")
limit = status("VmSize") + 48 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
before = status("VmHWM")
if sys.argv[2] == "map":
    maps = [np.load(path, mmap_mode="r") for path, _ in stream.files]
reader = WindowReader(stream, 1024, 50_257)
for start in range(0, 8192, 16):
    x, y = reader.read(window_of(np.arange(start, start + 16), len(reader), seed=1))
assert stream.read(len(stream) // 2 - 2, 4).tolist() == [7, 8, 1, 2]
print(status("VmHWM") - before)
"""


@on_linux
def test_reading_a_corpus_of_30_gb_in_shuffled_order_takes_no_memory(tmp_path: Path) -> None:
    names = names_of(77)
    for name in names:
        sparse_shard(tmp_path / name, TOKENS)
        with (tmp_path / name).open("r+b") as file:  # so that what is read is known at the borders
            file.seek(128)
            file.write(np.array([1, 2], dtype=np.uint32).tobytes())
            file.seek(-8, os.SEEK_END)
            file.write(np.array([7, 8], dtype=np.uint32).tobytes())
    write_manifest(tmp_path, names, TOKENS)
    assert sum((tmp_path / name).stat().st_size for name in names[1:]) > 30e9
    command = [sys.executable, "-c", LIMITED, str(tmp_path)]
    done = subprocess.run([*command, "read"], check=False, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 16 * 2**20
    mapped = subprocess.run([*command, "map"], check=False, capture_output=True, text=True, timeout=200)
    assert mapped.returncode != 0, "the limit does not limit"
    assert "Cannot allocate memory" in mapped.stderr


@on_posix
def test_windows_of_a_corpus_of_fifteen_trillion_tokens_are_read_across_its_shards(corpus: Path) -> None:
    reader = WindowReader(open_shards(corpus, check=False).split("train"), LENGTH, 50_257)
    across = TOKENS // LENGTH  # from the first shard into the second
    assert across * LENGTH < TOKENS < (across + 1) * LENGTH
    x, y = reader.read(np.array([across, len(reader) - 1]))
    assert x.shape == y.shape == (2, LENGTH)
    assert not x.any()
    with pytest.raises(IndexError):
        reader.read(np.array([len(reader)]))
