"""The two vocabularies without merges: every byte a token, and every character of a text a token."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from gptcli.errors import UserError
from gptcli.tokenizer.bpe import added_token
from gptcli.tokenizer.gpt2 import byte_alphabet
from gptcli.tokenizer.vocabulary import END_OF_TEXT, Cuts, Ids, Vocabulary

_UNKNOWN = "<|unknown|>"  # in no vocabulary of ours: the library raises an error where it would need it
_SHOWN = 5  # unknown characters that an error names


class BytesVocabulary(Vocabulary):
    """UTF-8 itself: ids 0 to 255 are the bytes, 256 is end of text."""

    kind = name = "bytes"
    vocab_size, eot = 257, 256
    cuts: Cuts = "characters"

    def __init__(self) -> None:
        self.specials = {END_OF_TEXT: self.eot}

    def encode(self, text: str) -> list[int]:
        return list(text.encode("utf-8"))

    def encode_texts(self, data: bytes | memoryview, ends: npt.NDArray[np.int64]) -> tuple[Ids, npt.NDArray[np.int64]]:
        return np.frombuffer(data, dtype=np.uint8).astype(np.uint32), ends.copy()

    def token_bytes(self, token: int) -> bytes:
        if token == self.eot:
            return END_OF_TEXT.encode()
        return bytes([token]) if 0 <= token < self.eot else b""

    def digest(self) -> str:
        return hashlib.sha256(b"bytes 0 to 255, end of text 256").hexdigest()

    def recipe(self) -> tuple[Callable[..., Vocabulary], tuple[Any, ...]]:
        return BytesVocabulary, ()

    def to_json(self) -> str:
        alphabet = byte_alphabet()
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        model: dict[str, Any] = {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {alphabet[byte]: byte for byte in range(256)} | {END_OF_TEXT: self.eot},
            "merges": [],
        }
        return _tokenizer_json(self.eot, pre_tokenizer=byte_level, decoder=byte_level, model=model)


class CharsVocabulary(Vocabulary):
    """Ids are the distinct `characters` in the order of their code points; the last id is end of text."""

    kind = name = "chars"
    cuts: Cuts = "characters"
    covers_all_text = False

    def __init__(self, characters: str) -> None:
        self.characters = characters
        self.eot = len(characters)
        self.vocab_size = self.eot + 1
        self.specials = {END_OF_TEXT: self.eot}

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._ids(text).tolist()
        return ids

    def encode_texts(self, data: bytes | memoryview, ends: npt.NDArray[np.int64]) -> tuple[Ids, npt.NDArray[np.int64]]:
        ids = self._ids(str(data, "utf-8"))
        if ids.size == len(data):  # ASCII
            return ids, ends.copy()
        first_bytes = np.flatnonzero((np.frombuffer(data, dtype=np.uint8) & 0xC0) != 0x80)
        return ids, np.searchsorted(first_bytes, ends).astype(np.int64)

    def token_bytes(self, token: int) -> bytes:
        if token == self.eot:
            return END_OF_TEXT.encode()
        return self.characters[token].encode("utf-8") if 0 <= token < self.eot else b""

    def digest(self) -> str:
        return hashlib.sha256(b"characters " + self.characters.encode("utf-8")).hexdigest()

    def recipe(self) -> tuple[Callable[..., Vocabulary], tuple[Any, ...]]:
        return CharsVocabulary, (self.characters,)

    def to_json(self) -> str:
        # A piece for every character, which `.` would not give for line breaks; Fuse joins them without spaces.
        split = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False}
        vocab = {character: token for token, character in enumerate(self.characters)} | {END_OF_TEXT: self.eot}
        model = {"type": "WordLevel", "vocab": vocab, "unk_token": _UNKNOWN}
        return _tokenizer_json(self.eot, pre_tokenizer=split, decoder={"type": "Fuse"}, model=model)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> CharsVocabulary:
        """The vocabulary that `to_json` wrote. Raises KeyError, TypeError or ValueError for another file."""
        vocab = content["model"]["vocab"]
        characters = [token for token, _ in sorted(vocab.items(), key=lambda item: item[1]) if len(token) == 1]
        if sorted(vocab.values()) != list(range(len(characters) + 1)):
            raise ValueError("not a vocabulary of characters")
        return cls("".join(characters))

    def _ids(self, text: str) -> Ids:
        codes = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
        ids: Ids = self._table[np.minimum(codes, self._table.size - 1)]
        unknown = codes[ids == self.eot]
        if unknown.size:
            raise self._unknown("".join(map(chr, dict.fromkeys(unknown.tolist()))))
        return ids

    @cached_property
    def _table(self) -> Ids:
        """The id of every code point up to the one after the last that has one; `eot` for those that have none."""
        codes = np.array([ord(character) for character in self.characters], dtype=np.int64)
        table = np.full(int(codes[-1]) + 2, self.eot, dtype=np.uint32)
        table[codes] = np.arange(codes.size, dtype=np.uint32)
        return table

    def _unknown(self, characters: str) -> UserError:
        named = ", ".join(repr(character) for character in characters[:_SHOWN])
        rest = len(characters) - _SHOWN
        return UserError(
            f"The tokenizer '{self.name}' has no {named}{f' and {rest} more' if rest > 0 else ''}.",
            f"It knows the {self.eot:,} characters of the text that it was made from.",
        )


def _tokenizer_json(eot: int, **parts: dict[str, Any]) -> str:
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added_token(END_OF_TEXT, eot)],
        "normalizer": None,
        "post_processor": None,
        **parts,
    }
    return json.dumps(content, ensure_ascii=False)
