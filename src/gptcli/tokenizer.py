"""Text to ids and back, by tiktoken's encodings. GPT-2's ships with the package; tiktoken fetches the others."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cached_property, lru_cache
from importlib import resources

import tiktoken

from gptcli.errors import UsageError, UserError, nearest

GPT2_MERGES_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
END_OF_TEXT = "<|endoftext|>"


class Tokenizer:
    """One encoding. Ids lie in `range(vocab_size)`; `eot`, end of text, begins every document."""

    def __init__(self, encoding: tiktoken.Encoding) -> None:
        self._encoding = encoding
        self.name: str = encoding.name
        self.vocab_size: int = encoding.n_vocab
        self.eot: int = encoding.eot_token

    def encode(self, text: str) -> list[int]:
        """The ids of `text`. What looks like a special token is ordinary text: a document can't end itself.

        Raises UserError for a text that tiktoken can't cope with.
        """
        try:
            return self._encoding.encode_ordinary(text)
        except BaseException as error:
            # A panic in tiktoken's Rust comes as a BaseException of a class that can't be imported.
            if type(error).__name__ != "PanicException":
                raise
            raise UserError(
                f"The tokenizer {self.name} fails on the text that begins {text[:40]!r}.",
                "It has too long a run of one kind of character: shorten it, or leave the text out.",
            ) from error

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """`encode` of each text."""
        return [self.encode(text) for text in texts]

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """The bytes of `ids`; an id that the vocabulary does not hold (padding) has none."""
        return b"".join(self.token_bytes(token) for token in ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; bytes that are not whole UTF-8 characters become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one id, empty for an id that the vocabulary does not hold."""
        return self._bytes_of.get(token, b"")

    @property
    def ranks(self) -> dict[bytes, int]:
        """Every ordinary token and its id; merges happen in the order of the ids."""
        return self._encoding._mergeable_ranks

    @property
    def special_tokens(self) -> dict[str, int]:
        """Every special token and its id."""
        return self._encoding._special_tokens

    @property
    def pattern(self) -> str:
        """The regular expression that cuts text into pieces before merging."""
        return self._encoding._pat_str

    @cached_property
    def sha256(self) -> str:
        """A fingerprint of the vocabulary: over the split pattern, the ranks and the special tokens."""
        digest = hashlib.sha256(self.pattern.encode())
        for token, rank in sorted(self.ranks.items(), key=lambda item: item[1]):
            digest.update(base64.b64encode(token) + b" %d\n" % rank)
        for name, rank in sorted(self.special_tokens.items(), key=lambda item: item[1]):
            digest.update(name.encode() + b" %d\n" % rank)
        return digest.hexdigest()

    @cached_property
    def _bytes_of(self) -> dict[int, bytes]:
        return {rank: token for token, rank in self.ranks.items()} | {
            rank: name.encode() for name, rank in self.special_tokens.items()
        }


@lru_cache(maxsize=4)
def get_tokenizer(name: str) -> Tokenizer:
    """The tokenizer called `name`.

    Raises UsageError for a name that tiktoken does not know, and UserError when its vocabulary can't be fetched.
    """
    if name == "gpt2":
        return Tokenizer(_gpt2_encoding())
    names = tiktoken.list_encoding_names()
    if name not in names:
        close = nearest(name, names)
        hint = f"Did you mean '{close}'?" if close else f"Known are {', '.join(names)}."
        raise UsageError(f"There is no tokenizer called '{name}'.", hint)
    try:
        return Tokenizer(tiktoken.get_encoding(name))
    except (OSError, ValueError) as error:  # requests' errors are OSErrors; a wrong checksum is a ValueError
        raise UserError(
            f"The vocabulary of '{name}' could not be fetched ({type(error).__name__}).",
            "tiktoken downloads it once: connect this machine, or set TIKTOKEN_CACHE_DIR to a folder that holds it. "
            "The encoding 'gpt2' needs no network.",
        ) from error


def gpt2_merges() -> list[tuple[str, str]]:
    """GPT-2's merges in rank order, in the printable alphabet for bytes that its files use (see `byte_alphabet`)."""
    data = resources.files("gptcli").joinpath("vocabulary/gpt2.bpe").read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != GPT2_MERGES_SHA256:
        raise UserError(
            f"The vocabulary file gpt2.bpe is damaged (sha256 {found[:12]}…, expected {GPT2_MERGES_SHA256[:12]}…).",
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


def _gpt2_encoding() -> tiktoken.Encoding:
    from tiktoken_ext.openai_public import r50k_pat_str

    byte_of = {character: byte for byte, character in byte_alphabet().items()}
    tokens = [bytes([byte]) for byte in byte_alphabet()]
    tokens += [bytes(byte_of[character] for character in first + second) for first, second in gpt2_merges()]
    ranks = {token: rank for rank, token in enumerate(tokens)}
    return tiktoken.Encoding(
        name="gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={END_OF_TEXT: len(ranks)}
    )
