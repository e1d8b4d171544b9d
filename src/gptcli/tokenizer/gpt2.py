"""GPT-2's vocabulary, which ships with the package, and the alphabet that byte-level files spell bytes in."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib import resources

import tiktoken

from gptcli.errors import UserError
from gptcli.tokenizer.vocabulary import END_OF_TEXT

MERGES_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"


def gpt2_merges() -> list[tuple[str, str]]:
    """GPT-2's merges in rank order, in the printable alphabet for bytes that its files use (see `byte_alphabet`)."""
    data = resources.files("gptcli").joinpath("vocabulary/gpt2.bpe").read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != MERGES_SHA256:
        raise UserError(
            f"The vocabulary file gpt2.bpe is damaged (sha256 {found[:12]}…, expected {MERGES_SHA256[:12]}…).",
            "Install the package again.",
        )
    lines = data.decode("utf-8").splitlines()[1:]  # the first line is a version
    return [(first, second) for first, second in (line.split(" ") for line in lines)]


@lru_cache(maxsize=1)
def byte_alphabet() -> dict[int, str]:
    """The printable character that stands for each byte in GPT-2's files, in the order of the 256 byte tokens' ids.

    Bytes that print as themselves in Latin-1 stand for themselves, the others for characters from U+0100 on
    (openai/gpt-2, `bytes_to_unicode`).
    """
    printable = [byte for byte in range(256) if chr(byte).isprintable() and chr(byte) != " "]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {byte: chr(byte) for byte in printable}
    return alphabet | {byte: chr(256 + i) for i, byte in enumerate(others)}


def spelled(token: bytes) -> str:
    """A token in the byte alphabet."""
    alphabet = byte_alphabet()
    return "".join(alphabet[byte] for byte in token)


def unspelled(token: str) -> bytes | None:
    """The bytes that a token in the byte alphabet stands for; None where it has other characters."""
    try:
        return bytes(_byte_of()[character] for character in token)
    except KeyError:
        return None


@lru_cache(maxsize=1)
def _byte_of() -> dict[str, int]:
    return {character: byte for byte, character in byte_alphabet().items()}


@lru_cache(maxsize=1)
def gpt2_encoding() -> tiktoken.Encoding:
    """GPT-2 as a tiktoken encoding, without tiktoken's download."""
    from tiktoken_ext.openai_public import r50k_pat_str

    byte_of = _byte_of()
    tokens = [bytes([byte]) for byte in byte_alphabet()]
    tokens += [bytes(byte_of[character] for character in first + second) for first, second in gpt2_merges()]
    ranks = {token: rank for rank, token in enumerate(tokens)}
    return tiktoken.Encoding(
        name="gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={END_OF_TEXT: len(ranks)}
    )
