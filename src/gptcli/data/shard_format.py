"""The headers of shard files: NumPy's own, and those of llm.c and modded-nanogpt."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

Ids = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
SUFFIXES = (".npy", ".bin")

_BIN_HEADER_BYTES = 256 * 4
_BIN_DTYPES: dict[
    tuple[int, int], np.dtype[Any]
] = {  # (magic, version) in llm.c's dataloader: GPT-2 tokens, and Llama 3's, which need 32 bits
    (20240520, 1): np.dtype("<u2"),
    (20240801, 7): np.dtype("<u4"),
}


class ShardError(Exception):
    """Why a file is no shard that can be read; the message goes on from the file's name."""


@dataclass(frozen=True)
class ShardHeader:
    """Where the tokens of a file begin, how many there are, and as what they are stored."""

    offset: int
    tokens: int
    dtype: np.dtype[Any]

    @property
    def file_size(self) -> int:
        """Bytes of the whole file."""
        return self.offset + self.tokens * self.dtype.itemsize


def read_header(path: Path) -> ShardHeader:
    """The header of a shard, checked against the size of its file. Raises ShardError."""
    try:
        with path.open("rb") as file:
            header = _read_npy(file) if path.suffix == ".npy" else _read_bin(file)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise ShardError(f"can't be read: {error.strerror or error}") from error
    if size != header.file_size:
        kind = "is cut off" if size < header.file_size else "is too long"
        raise ShardError(
            f"{kind}: its header tells of {header.tokens:,} tokens, {header.file_size:,} bytes, but it has {size:,}"
        )
    return header


def written_header(tokens: int, dtype: npt.DTypeLike) -> ShardHeader:
    """The header of a shard of so many tokens as the pipeline writes it."""
    return _written(tokens, np.dtype(dtype).newbyteorder("<"))[1]


def open_shard(path: Path | str) -> int:
    """A new descriptor at the start of a file. Raises OSError."""
    return os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))  # Windows translates line ends without the latter


def check_written(path: Path | str, descriptor: int, tokens: int, dtype: npt.DTypeLike) -> None:
    """Raise ShardError where an open file, of which nothing was read yet, is not what the pipeline writes for `tokens`
    of `dtype`: by its size and the bytes before the tokens, which are known, so that nothing is parsed."""
    expected, header = _written(tokens, np.dtype(dtype).newbyteorder("<"))
    try:
        if os.fstat(descriptor).st_size == header.file_size and os.read(descriptor, len(expected)) == expected:
            return
    except OSError as error:
        raise ShardError(f"can't be read: {error.strerror or error}") from error
    found = read_header(Path(path))
    if found.tokens != tokens:
        raise ShardError(f"has {found.tokens:,} tokens; the manifest says {tokens:,}")
    if found.dtype != header.dtype:
        raise ShardError(f"holds {found.dtype}; the manifest says {header.dtype}")
    raise ShardError("has another header than gpt tokenize writes")


def npy_header(tokens: int, dtype: npt.DTypeLike) -> bytes:
    """The bytes before the tokens in a .npy file. NumPy pads them, so that their length is the same for any number."""
    buffer = io.BytesIO()
    descr = npy.dtype_to_descr(np.dtype(dtype).newbyteorder("<"))
    npy.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": (tokens,)})
    return buffer.getvalue()


@lru_cache(maxsize=64)  # nearly all shards of a folder are of one size; they share one object
def _written(tokens: int, dtype: np.dtype[Any]) -> tuple[bytes, ShardHeader]:
    content = npy_header(tokens, dtype)
    return content, ShardHeader(len(content), tokens, dtype)


def _read_npy(file: BinaryIO) -> ShardHeader:
    try:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(file)
    except ValueError as error:
        raise ShardError("has a damaged header") from error
    if len(shape) != 1 or dtype.kind not in "ui":
        raise ShardError(f"holds {dtype} of shape {shape}, not a row of token ids")
    return ShardHeader(file.tell(), shape[0], dtype)


def _read_bin(file: BinaryIO) -> ShardHeader:
    start = file.read(_BIN_HEADER_BYTES)
    if len(start) < _BIN_HEADER_BYTES:
        raise ShardError("is too short for a shard")
    magic, version, tokens = np.frombuffer(start, dtype="<i4", count=3).tolist()
    if (magic, version) not in _BIN_DTYPES:
        raise ShardError("has no header of llm.c or modded-nanogpt (nanoGPT's files without one can't be told apart)")
    if tokens < 0:
        raise ShardError("has a damaged header")
    return ShardHeader(_BIN_HEADER_BYTES, tokens, _BIN_DTYPES[magic, version])
