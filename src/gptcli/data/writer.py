"""Tokens into shard files, as they come."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from gptcli.data.durable import publish, temporary_name
from gptcli.data.manifest import ShardRecord, Split
from gptcli.data.output import is_shard
from gptcli.data.shard_format import Ids, ShardError, npy_header, read_header
from gptcli.errors import UsageError, UserError

_BLOCK = 2**20  # tokens, or bytes, at a time


class NothingToTrainOnError(UsageError):
    """The sources are exhausted, and hold too little."""


class Part(NamedTuple):
    """A whole piece of the stream that lies in the folder: its tokens, and its checksum where it was taken already."""

    tokens: int
    sha256: str


class ShardWriter:
    """Cuts a stream of tokens into val_000000.npy, train_000001.npy, …

    With T tokens in all, validation gets the first `val_tokens`, or min(shard_size, ceil(T / 10)) where that is None.
    The latter is a whole shard once more than 10 × (shard_size − 1) tokens have come. Up to there the pieces, all of
    shard_size, have hidden names; then they get their own. Where so many never come they are cut anew at the end.

    `done`: the pieces that an earlier writer left whole; the stream goes on after them. Raises UserError where they are
    not there any more. `room` is told how many bytes a piece may come to before it is begun.
    """

    def __init__(
        self,
        folder: Path,
        dtype: npt.DTypeLike,
        shard_size: int,
        val_tokens: int | None,
        done: Sequence[Part] = (),
        room: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.parts: list[Part] = list(done)
        self.tokens = sum(part.tokens for part in done)
        self._folder = folder
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._shard_size = shard_size
        self._val_tokens = val_tokens
        self._room = room
        self._file: _ShardFile | None = None
        self._settled = val_tokens is not None
        if done:
            self._go_on()

    @property
    def shard_name(self) -> str:
        """The shard being written."""
        return self._final_name(len(self.parts))

    def append(self, ids: Ids) -> None:
        """Take the next tokens. Raises UserError where there is no room for a shard."""
        self.tokens += ids.size
        while ids.size:
            file = self._file or self._open()
            taken = ids[: file.room]
            file.write(taken.astype(self._dtype, copy=False))
            ids = ids[taken.size :]
            if not file.room:
                self._close_part(file)
        self._settle_if_known()

    def finish(self) -> tuple[ShardRecord, ...]:
        """Complete the last shard. Raises UsageError where validation would leave nothing to train on."""
        if self._val_tokens is not None and self._val_tokens >= self.tokens:
            raise NothingToTrainOnError(
                f"{self._val_tokens:,} tokens for validation leave nothing to train on: there are {self.tokens:,}.",
                "Give more text, or fewer --val-tokens.",
            )
        if self._file:
            self._close_part(self._file)
        if not self._settled:
            return self._cut_anew(-(-self.tokens // 10))
        return tuple(
            ShardRecord(
                name=self._final_name(number), split=self._split(number), tokens=part.tokens, sha256=part.sha256
            )
            for number, part in enumerate(self.parts)
        )

    def close(self) -> None:
        """Let go of the file being written, and remove it: it is not whole."""
        if self._file is not None:
            self._file.file.close()
            temporary_name(self._file.path).unlink(missing_ok=True)

    def _go_on(self) -> None:
        """Check what is there already, and remove what was begun after it."""
        paths = [self._path_of(number) for number in range(len(self.parts))]
        for path, part in zip(paths, self.parts, strict=True):
            _check_whole(path, part)
        whole = set(paths)
        for path in self._folder.iterdir():
            if is_shard(path.name) and path not in whole:
                path.unlink()
        self._settle_if_known()

    def _open(self) -> _ShardFile:
        first_is_val = bool(self._val_tokens) and not self.parts
        capacity = self._val_tokens if first_is_val and self._val_tokens else self._shard_size
        # The pieces that are cut anew at the end lie beside the new ones for a while.
        self._room(capacity * self._dtype.itemsize * (1 if self._settled else 2))
        number = len(self.parts)
        path = self._folder / self._final_name(number) if self._settled else self._hidden(number)
        self._file = _ShardFile(path, capacity, self._dtype)
        return self._file

    def _close_part(self, file: _ShardFile) -> None:
        tokens = file.publish()
        number = len(self.parts)
        self._file = None
        self.parts.append(Part(tokens, self._named(file.path, number) if self._settled else ""))

    def _settle_if_known(self) -> None:
        """Once validation is known to be a whole shard, the pieces are the shards."""
        if self._settled or self.tokens <= 10 * (self._shard_size - 1):
            return
        self._settled = True
        self.parts = [
            part._replace(sha256=part.sha256 or self._named(self._path_of(number), number))
            for number, part in enumerate(self.parts)
        ]

    def _named(self, path: Path, number: int) -> str:
        """Give a piece the name of the shard that it is; its checksum."""
        final = self._folder / self._final_name(number)
        if path != final:
            path.replace(final)
        return _sha256(final)

    def _cut_anew(self, val_tokens: int) -> tuple[ShardRecord, ...]:
        """Write the pieces again, with validation of `val_tokens` in front.

        They stay until there is a manifest (`output.finish`): what is noted as whole must be there after any cut.
        """
        pieces = [self._path_of(number) for number in range(len(self.parts))]
        anew = ShardWriter(self._folder, self._dtype, self._shard_size, val_tokens)
        try:
            for piece in pieces:
                for block in _blocks(piece):
                    anew.append(block)
            records = anew.finish()
        finally:
            anew.close()
        return records

    def _path_of(self, number: int) -> Path:
        """Where a whole piece lies: under its hidden name, or already under its own."""
        hidden = self._hidden(number)
        return hidden if hidden.exists() else self._folder / self._final_name(number)

    def _hidden(self, number: int) -> Path:
        return self._folder / f".part_{number:06d}.npy"

    def _final_name(self, number: int) -> str:
        if self._val_tokens == 0:
            return f"train_{number + 1:06d}.npy"
        return f"train_{number:06d}.npy" if number else "val_000000.npy"

    def _split(self, number: int) -> Split:
        return "train" if number or self._val_tokens == 0 else "val"


class _ShardFile:
    """One .npy file under its hidden name, begun as if it would become full."""

    def __init__(self, path: Path, capacity: int, dtype: npt.DTypeLike) -> None:
        self.path = path
        self.room = capacity
        self._capacity = capacity
        self._dtype = dtype
        self.file: BinaryIO = temporary_name(path).open("w+b", buffering=_BLOCK)
        self.file.write(npy_header(capacity, dtype))

    def write(self, ids: Ids) -> None:
        self.file.write(ids.data)
        self.room -= ids.size

    def publish(self) -> int:
        """Give it its name. Returns how many tokens it has."""
        tokens = self._capacity - self.room
        if self.room:  # the last one: its header becomes true
            self.file.seek(0)
            self.file.write(npy_header(tokens, self._dtype))
        publish(self.file, self.path)
        return tokens


def check_room(folder: Path, needed: int) -> None:
    """Raise UserError where the disk of `folder` has less than `needed` bytes left."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"The disk of {folder} has {free / 1e6:,.1f} MB left; the next shard needs {needed / 1e6:,.1f} MB.",
            "Free some space and start again: what is whole stays. Or give another --local-dir.",
        )


def _check_whole(path: Path, part: Part) -> None:
    try:
        tokens = read_header(path).tokens
    except (ShardError, OSError):
        tokens = -1
    if tokens != part.tokens:
        raise UserError(f"{path}, written before the interruption, is not whole any more.", "Start over with --fresh.")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _blocks(path: Path) -> Iterator[Ids]:
    """The tokens of a shard, some at a time."""
    header = read_header(path)
    with path.open("rb") as file:
        file.seek(header.offset)
        while block := file.read(_BLOCK * header.dtype.itemsize):
            yield np.frombuffer(block, dtype=header.dtype)
