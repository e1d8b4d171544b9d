"""Tokens into shard files, as they come."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from gptcli.data.durable import publish, temporary_name
from gptcli.data.manifest import ShardRecord, Split
from gptcli.data.output import SPOOL_FILE
from gptcli.data.shard_format import Ids, npy_header
from gptcli.errors import UsageError

_BLOCK = 2**20  # tokens read back from the spool at a time
_BUFFER = 2**20  # bytes


class ShardWriter:
    """Cuts a stream of tokens into val_000000.npy, train_000001.npy, …

    With T tokens in all, validation gets the first `val_tokens`, or min(shard_size, ceil(T / 10)) where that is None.
    The latter is known to be a whole shard only once more than 10 × (shard_size − 1) tokens have come; up to there they
    are kept in a hidden file. Files left by a writer that was not finished are for `output.clear`.
    """

    def __init__(self, folder: Path, dtype: npt.DTypeLike, shard_size: int, val_tokens: int | None) -> None:
        self.tokens = 0
        self.records: list[ShardRecord] = []
        self._folder = folder
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._shard_size = shard_size
        self._val_tokens = val_tokens
        self._spool: BinaryIO | None = None
        self._shard: _ShardFile | None = None
        if val_tokens is None:
            self._spool = (folder / SPOOL_FILE).open("w+b", buffering=_BUFFER)

    @property
    def shard_name(self) -> str:
        """The shard being written, empty between two of them."""
        return self._shard.path.name if self._shard else ""

    def append(self, ids: Ids) -> None:
        """Take the next tokens."""
        self.tokens += ids.size
        if self._spool is None:
            self._distribute(ids)
            return
        self._spool.write(ids.astype(self._dtype, copy=False).data)
        if self.tokens > 10 * (self._shard_size - 1):
            self._settle(self._spool, self._shard_size)

    def finish(self) -> tuple[ShardRecord, ...]:
        """Complete the last shard. Raises UsageError where validation would leave nothing to train on."""
        if self._spool is not None:
            self._settle(self._spool, min(self._shard_size, -(-self.tokens // 10)))
        if self._val_tokens is not None and self._val_tokens >= self.tokens:
            raise UsageError(
                f"{self._val_tokens:,} tokens for validation leave nothing to train on: there are {self.tokens:,}.",
                "Give more text, or fewer --val-tokens.",
            )
        if self._shard:
            self._close_shard(self._shard)
        return tuple(self.records)

    def close(self) -> None:
        """Let go of the files, whole or not."""
        for file in (self._spool, self._shard.file if self._shard else None):
            if file is not None:
                file.close()

    def _settle(self, spool: BinaryIO, val_tokens: int) -> None:
        """The size of validation is known: cut what was kept, and keep no more."""
        self._val_tokens = val_tokens
        self._spool = None
        with spool:
            spool.seek(0)
            while block := spool.read(_BLOCK * self._dtype.itemsize):
                self._distribute(np.frombuffer(block, dtype=self._dtype))
        (self._folder / SPOOL_FILE).unlink()

    def _distribute(self, ids: Ids) -> None:
        while ids.size:
            shard = self._shard or self._open_shard()
            taken = ids[: shard.room]
            shard.write(taken.astype(self._dtype, copy=False))
            ids = ids[taken.size :]
            if not shard.room:
                self._close_shard(shard)

    def _open_shard(self) -> _ShardFile:
        number = sum(record.split == "train" for record in self.records) + 1
        if self._val_tokens and not self.records:
            self._shard = _ShardFile(self._folder / "val_000000.npy", "val", self._val_tokens, self._dtype)
        else:
            self._shard = _ShardFile(self._folder / f"train_{number:06d}.npy", "train", self._shard_size, self._dtype)
        return self._shard

    def _close_shard(self, shard: _ShardFile) -> None:
        self.records.append(shard.publish())
        self._shard = None


class _ShardFile:
    """One .npy file under its hidden name, begun as if it would become full."""

    def __init__(self, path: Path, split: Split, capacity: int, dtype: npt.DTypeLike) -> None:
        self.path = path
        self.room = capacity
        self._split = split
        self._capacity = capacity
        self._dtype = dtype
        self.file = temporary_name(path).open("w+b", buffering=_BUFFER)
        header = npy_header(capacity, dtype)
        self.file.write(header)
        self._digest = hashlib.sha256(header)

    def write(self, ids: Ids) -> None:
        self.file.write(ids.data)
        self._digest.update(ids.data)
        self.room -= ids.size

    def publish(self) -> ShardRecord:
        tokens = self._capacity - self.room
        if self.room:  # the last one: its header becomes true, and the digest begins anew
            self.file.seek(0)
            self.file.write(npy_header(tokens, self._dtype))
            self.file.seek(0)
            self._digest = hashlib.sha256()
            while block := self.file.read(_BUFFER):
                self._digest.update(block)
        publish(self.file, self.path)
        return ShardRecord(name=self.path.name, split=self._split, tokens=tokens, sha256=self._digest.hexdigest())
