"""Where the run is written, and what it reads."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from gptcli.data.manifest import Manifest
from gptcli.data.shards import open_shards
from gptcli.distributed.runtime import cache_dir
from gptcli.doctor.finding import Finding, fault, ok, warning
from gptcli.errors import UserError
from gptcli.model.config import GPTConfig
from gptcli.settings import DoctorSettings, data_folder
from gptcli.training.checkpoint import size
from gptcli.training.retention import free_bytes

GPT2_PARAMETERS = 124_373_760  # of the default model
_PROBE_BYTES = 16 * 2**20
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "lustre", "beegfs", "gpfs", "ceph", "fuse.sshfs", "9p", "fuse.gcsfuse"}
_LARGEST_HASHED = 2**30


def check_disk(settings: DoctorSettings) -> Iterator[Finding]:
    """Whether --log-dir can be written, how fast, and how many checkpoints it has room for."""
    run = Path(settings.log_dir)
    folder = next((path for path in (run, *run.resolve().parents) if path.is_dir()), Path())
    try:
        seconds = _write(folder)
    except OSError as error:
        yield fault("disk", f"{folder} can't be written: {error.strerror or error}", "Choose another --log-dir.")
        return
    checkpoint = size(GPTConfig(), GPT2_PARAMETERS)
    free = free_bytes(folder)
    kind = _file_system(folder)
    found = (
        f"{free / 1e9:,.1f} GB free for {settings.log_dir}: {free // checkpoint:,} checkpoints of a GPT-2 124M; "
        f"{_PROBE_BYTES / seconds / 1e6:,.0f} MB/s{f', {kind}' if kind else ''}"
    )
    if free < 5 * checkpoint:
        yield warning("disk", found, "The default keeps five at most (--keep-last 3): make room, or keep fewer.")
    else:
        yield ok("disk", found)


def _write(folder: Path) -> float:
    """Write, flush and rename a file as checkpoints are; seconds that it took. Raises OSError."""
    trial, renamed = folder / f".gpt-doctor-{os.getpid()}", folder / f".gpt-doctor-{os.getpid()}.renamed"
    began = time.perf_counter()
    try:
        with trial.open("wb") as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
        trial.rename(renamed)
    finally:
        trial.unlink(missing_ok=True)
        renamed.unlink(missing_ok=True)
    return time.perf_counter() - began


def _file_system(folder: Path) -> str:
    """The kind of a network file system; empty for a local one, and where only Linux would tell."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return ""
    best, kind = "", ""
    whole = str(folder.resolve())
    for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
        _, where, its_kind, *_ = line.split(" ")
        inside = whole == where or whole.startswith(where.rstrip("/") + "/")
        if inside and len(where) >= len(best):
            best, kind = where, its_kind
    return f"a network file system ({kind})" if kind in _NETWORK else ""


def check_cache(settings: DoctorSettings) -> Iterator[Finding]:
    """The user's cache folder, where what is fetched stays."""
    folder = cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial = folder / f".gpt-doctor-{os.getpid()}"
        trial.touch()
        trial.unlink()
    except OSError as error:
        mend = "Choose another: export XDG_CACHE_HOME=FOLDER"
        yield warning("cache", f"{folder} can't be written: {error.strerror or error}", mend)
        return
    yield ok("cache", str(folder))


def check_data(settings: DoctorSettings) -> Iterator[Finding]:
    """The data folder: headers and sizes of all shards, and the checksum of one in each split."""
    folder = data_folder(settings.data_root)
    if not folder.is_dir():
        yield warning("data", f"there is no folder {folder}", f"Make it: gpt tokenize ... --local-dir {folder.name}")
        return
    try:
        shards = open_shards(folder)
        shards.tokenizer()
    except UserError as error:
        for each in error.faults:
            yield fault("data", each.message, each.hint)
        return
    tokens = ", ".join(f"{len(stream):,} tokens ({split})" for split, stream in shards.splits.items())
    if shards.manifest is None:
        yield ok("data", f"{folder}: {tokens}; no manifest to hold its contents against")
        return
    damaged = [name for name, sha256 in _samples(shards.manifest) if _sha256(folder / name) != sha256]
    mend = f"See which: gpt tokenize --verify {settings.data_root}. Copy them again, or tokenize again with --fresh."
    if damaged:
        yield fault("data", f"{folder}: the contents of {', '.join(damaged)} have changed", mend)
    else:
        yield ok("data", f"{folder}: {tokens}; checksums hold of a sample (all: gpt tokenize --verify)")


def _samples(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """The first shard of each split, small enough to be read quickly."""
    seen: set[str] = set()
    for shard in manifest.shards:
        if shard.split not in seen and shard.tokens * 4 <= _LARGEST_HASHED:
            seen.add(shard.split)
            yield shard.name, shard.sha256


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
