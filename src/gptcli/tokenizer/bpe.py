"""tiktoken's encodings: byte-pair encoding with the ids for ranks."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import tiktoken

from gptcli.errors import UserError
from gptcli.tokenizer.gpt2 import gpt2_encoding, gpt2_merges, spelled, unspelled
from gptcli.tokenizer.splits import GPT2, WORDS, for_oniguruma
from gptcli.tokenizer.vocabulary import Cuts, Ids, Vocabulary, joined, texts_of

# Unicode's White_Space, as the pattern's \s has it; Python's own \s has four control characters more.
_SPACE = r"[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
_LONG = 50_000
_LONG_SPACE = re.compile(f"{_SPACE}{{{_LONG},}}+")


class TiktokenVocabulary(Vocabulary):
    """An encoding of tiktoken's: one that it knows by name, or one made from ranks, pattern and special tokens."""

    kind = "tiktoken"

    def __init__(self, encoding: tiktoken.Encoding) -> None:
        self._encoding = encoding
        self.name = encoding.name
        self.vocab_size = encoding.n_vocab
        self.eot = encoding.eot_token
        self.specials = self._special_tokens = dict(encoding._special_tokens)
        self.ranks: dict[bytes, int] = encoding._mergeable_ranks
        self.pattern: str = encoding._pat_str
        self.cuts: Cuts = "words" if self.pattern in WORDS else "none"

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._ids(text).tolist()
        return ids

    def encode_texts(self, data: bytes | memoryview, ends: npt.NDArray[np.int64]) -> tuple[Ids, npt.NDArray[np.int64]]:
        return joined([self._ids(text) for text in texts_of(data, ends)])

    def token_bytes(self, token: int) -> bytes:
        return self._bytes_of.get(token, b"")

    def digest(self) -> str:
        digest = hashlib.sha256(self.pattern.encode())
        for token, rank in sorted(self.ranks.items(), key=lambda item: item[1]):
            digest.update(base64.b64encode(token) + b" %d\n" % rank)
        for name, rank in sorted(self.specials.items(), key=lambda item: item[1]):
            digest.update(name.encode() + b" %d\n" % rank)
        return digest.hexdigest()

    def recipe(self) -> tuple[Callable[..., Vocabulary], tuple[Any, ...]]:
        if self._encoding is gpt2_encoding():
            return _built_in, ()
        if tiktoken.registry.ENCODINGS.get(self.name) is self._encoding:
            return _registered, (self.name,)
        return _from_ranks, (self.name, self.pattern, self.ranks, self._special_tokens)

    def _ids(self, text: str) -> Ids:
        pieces = [self._piece(piece) for piece in self._pieces(text)]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _piece(self, text: str) -> Ids:
        try:
            ids: Ids = self._encoding.encode_to_numpy(text, disallowed_special=())
        except UnicodeEncodeError:
            raise
        except ValueError as error:  # its regular expression ran out of stack
            raise UserError(
                f"The tokenizer {self.name} fails on the text that begins {text[:40]!r}.",
                "It has too long a run of one kind of character: shorten it, or leave the text out.",
            ) from error
        return ids

    def _pieces(self, text: str) -> Iterator[str]:
        """Cut GPT-2 text inside very long runs of white space, where its pattern cuts as well.

        tiktoken's regular expressions run out of stack on a million spaces with a word behind. The pattern takes such a
        run as one piece but for its last character, and takes all of a run that ends the text: the cut changes no id.
        """
        begin = 0
        if len(text) > _LONG and self.pattern in GPT2:
            for run in _LONG_SPACE.finditer(text):
                if run.end() < len(text):
                    yield text[begin : run.end() - 1]
                    begin = run.end() - 1
        yield text[begin:]

    @cached_property
    def _bytes_of(self) -> dict[int, bytes]:
        return {rank: token for token, rank in self.ranks.items()} | {
            rank: name.encode() for name, rank in self.specials.items()
        }

    def to_json(self) -> str:
        return self._json

    @cached_property
    def _json(self) -> str:
        is_gpt2 = self.name == "gpt2"
        merges = gpt2_merges() if is_gpt2 else [(spelled(a), spelled(b)) for a, b in _merges(self.ranks)]
        specials = sorted(self.specials.items(), key=lambda item: item[1])
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        split = {
            "type": "Split",
            "pattern": {"Regex": for_oniguruma(self.pattern)},
            "behavior": "Isolated",
            "invert": False,
        }
        content = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [added_token(special, rank) for special, rank in specials],
            "normalizer": None,
            # GPT-2's own split is built into ByteLevel; naming it there keeps the file as its authors wrote it.
            "pre_tokenizer": (
                byte_level | {"use_regex": True}
                if is_gpt2
                else {"type": "Sequence", "pretokenizers": [split, byte_level]}
            ),
            "post_processor": byte_level | {"trim_offsets": False},
            "decoder": byte_level,
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": not is_gpt2,  # tiktoken takes a piece that is a token whole
                # Special tokens stand in the vocabulary too: the library would number them without gaps otherwise.
                "vocab": {spelled(token): rank for token, rank in self.ranks.items()} | dict(specials),
                "merges": [list(merge) for merge in merges],
            },
        }
        return json.dumps(content, ensure_ascii=False)


def added_token(content: str, token: int) -> dict[str, Any]:
    """The entry of a special token in a tokenizer.json."""
    return {
        "id": token,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }


def from_json(name: str, content: dict[str, Any], pattern: str | None) -> TiktokenVocabulary:
    """The encoding that `to_json` wrote. `pattern` is the one that it had, where the file has it changed.

    Raises KeyError, TypeError or ValueError for a file that it did not write.
    """
    specials = {str(token["content"]): int(token["id"]) for token in content["added_tokens"]}
    ranks = {}
    for token, rank in content["model"]["vocab"].items():
        if specials.get(token) != rank:
            token_bytes = unspelled(token)
            if token_bytes is None:
                raise ValueError(f"{token!r} is not in the byte alphabet")
            ranks[token_bytes] = int(rank)
    if pattern is None:
        split = content["pre_tokenizer"]
        pattern = (
            gpt2_encoding()._pat_str if split["type"] == "ByteLevel" else split["pretokenizers"][0]["pattern"]["Regex"]
        )
    return _from_ranks(name, str(pattern), ranks, specials)


def _built_in() -> TiktokenVocabulary:
    return TiktokenVocabulary(gpt2_encoding())


def _registered(name: str) -> TiktokenVocabulary:
    return TiktokenVocabulary(tiktoken.get_encoding(name))


def _from_ranks(name: str, pattern: str, ranks: dict[bytes, int], special_tokens: dict[str, int]) -> TiktokenVocabulary:
    encoding = tiktoken.Encoding(name=name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=special_tokens)
    return TiktokenVocabulary(encoding)


def _merges(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The merge that makes each token: byte-pair encoding it with the ranks below its own leaves its two halves."""
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) == 1:
            continue
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            pairs = [(ranks.get(parts[i] + parts[i + 1], rank), i) for i in range(len(parts) - 1)]
            best, i = min(pairs)
            if best >= rank:
                break
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        if len(parts) == 2:
            merges.append((parts[0], parts[1]))
    return merges
