"""What a folder of token shards holds, whatever the shards' sizes: the tokens of all of them, in order."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

TOKENS_AT_A_TIME = 2**22


@dataclass(frozen=True)
class TokenStream:
    """How many tokens, and the checksum of their ids as uint16."""

    tokens: int
    sha256: str


def token_stream(folder: Path) -> TokenStream:
    """Read the shards by their numbers; validation is number 0."""
    digest, tokens = hashlib.sha256(), 0
    for file in sorted(folder.glob("*_[0-9]*.npy"), key=lambda file: file.stem.rpartition("_")[2]):
        ids = np.load(file, mmap_mode="r")
        tokens += ids.size
        for start in range(0, ids.size, TOKENS_AT_A_TIME):
            digest.update(ids[start : start + TOKENS_AT_A_TIME].astype(np.uint16).tobytes())
    return TokenStream(tokens, digest.hexdigest())
