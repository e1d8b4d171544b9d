"""Documents to ids, in bulk: gigatoken where it agrees with tiktoken, else tiktoken. The ids are the same."""

from __future__ import annotations

import base64
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gptcli.data.shard_format import Ids
from gptcli.tokenizer import Tokenizer, get_tokenizer

Engine = Literal["auto", "gigatoken", "tiktoken"]

_SCHEMES = {"gpt2": "gpt2", "r50k_base": "gpt2", "cl100k_base": "gpt4", "o200k_base": "o200k", "o200k_harmony": "o200k"}

# gigatoken 0.10 remembers every pre-token it has met, for good: measured up to 12 bytes for each token of random
# base64, next to nothing for prose. A new one costs 60 ms, so this bounds it at about 500 MB for under a tenth of time.
_TOKENS_UNTIL_RENEWAL = 40_000_000

_PROBES = (
    "",
    "It's a test, they'LL say; we've 12345678 reasons.\n\n\tAnd   more \n",
    "<|endoftext|> in the middle <|endoftext|>",
    "carriage\r\nreturns\r\n\r\nand\rmore",
    "emoji 😀 👩‍👩‍👧‍👦 🇫🇷 e\u0301 a\u0300\u0301\u0302 \u200b\ufeff \x00\x00 \x1c\x85\u2028\u3000x",
    "日本語のテキスト、العربية 한국어 ١٢٣ ²½Ⅷ ſ'ſ",
    *(character * 100_000 for character in "a !1\né"),
)

# Unicode's White_Space, as the pattern's \s has it; Python's own \s has four control characters more.
_SPACE = r"[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
_LONG_SPACE = re.compile(_SPACE + r"{50000,}+")


class BulkEncoder:
    """Encodes batches of documents with the encoding called `tokenizer_name`; `engine` says with what it does so."""

    def __init__(self, tokenizer_name: str, engine: Engine = "auto") -> None:
        self.tokenizer = get_tokenizer(tokenizer_name)
        self.dtype: np.dtype[Any] = np.dtype(np.uint16 if self.tokenizer.vocab_size <= 2**16 else np.uint32)
        self._gigatoken: Any = None
        self._tokens_left = 0
        if engine != "tiktoken":
            self._renew()
            if engine == "auto" and self._gigatoken is not None and not self._agrees():
                self._gigatoken = None
        self.engine: Engine = "tiktoken" if self._gigatoken is None else "gigatoken"

    def encode(self, texts: list[str]) -> tuple[Ids, int]:
        """The ids of all documents, each begun by end of text, in one array; and their bytes in UTF-8.

        Lone surrogates, which JSON can hold and UTF-8 can't, become U+FFFD, as in tiktoken. Raises UserError for a text
        that tiktoken can't cope with.
        """
        encoded = [_utf8(text) for text in texts]
        size = sum(map(len, encoded))
        if self.engine == "gigatoken":
            try:
                return self._by_gigatoken(encoded), size
            except (RuntimeError, ValueError, TypeError):  # the other engine has the last word on any text
                pass
        return self._by_tiktoken([text.decode("utf-8") for text in encoded]), size

    def _by_gigatoken(self, texts: list[bytes]) -> Ids:
        if self._tokens_left <= 0:
            self._renew()
        if self._gigatoken is None:
            raise RuntimeError("gigatoken could not be renewed")
        layout = self._gigatoken.encode_batch(texts, parallel=False).layout
        starts = np.asarray(layout.offsets.data)[:-1]
        content = np.asarray(layout.content.data)[: int(layout.offsets.data[-1])]
        self._tokens_left -= content.size
        ids = np.empty(content.size + len(texts), dtype=self.dtype)
        begins = np.zeros(ids.size, dtype=bool)
        begins[starts + np.arange(len(texts))] = True
        ids[begins] = self.tokenizer.eot
        ids[~begins] = content
        return ids

    def _by_tiktoken(self, texts: list[str]) -> Ids:
        eot = np.array([self.tokenizer.eot], dtype=self.dtype)
        parts = [eot[:0]]
        for text in texts:
            parts.append(eot)
            parts += [np.array(self.tokenizer.encode(piece), dtype=self.dtype) for piece in self._pieces(text)]
        return np.concatenate(parts)

    def _pieces(self, text: str) -> Iterator[str]:
        """Cut GPT-2 text inside very long runs of white space, where its pattern cuts as well.

        tiktoken's regular expressions run out of stack on a million spaces with a word behind. The pattern takes such a
        run as one piece but for its last character, and takes all of a run that ends the text: the cut changes no id.
        """
        begin = 0
        if _SCHEMES.get(self.tokenizer.name) == "gpt2":
            for run in _LONG_SPACE.finditer(text):
                if run.end() < len(text):
                    yield text[begin : run.end() - 1]
                    begin = run.end() - 1
        yield text[begin:]

    def _agrees(self) -> bool:
        try:
            fast = self._by_gigatoken([text.encode() for text in _PROBES])
        except (RuntimeError, ValueError, TypeError, AttributeError):
            return False
        return np.array_equal(fast, self._by_tiktoken(list(_PROBES)))

    def _renew(self) -> None:
        self._gigatoken = None  # before the next is made: its memory can be used again
        self._gigatoken = _load_gigatoken(self.tokenizer)
        self._tokens_left = _TOKENS_UNTIL_RENEWAL


def rank_file(tokenizer: Tokenizer) -> bytes:
    """The vocabulary in tiktoken's own format: a token in base64 and its rank on each line."""
    ranks = sorted(tokenizer.ranks.items(), key=lambda item: item[1])
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks)


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode("utf-8")


def _load_gigatoken(tokenizer: Tokenizer) -> Any:
    """A gigatoken tokenizer, None where there is none for this encoding. It reads vocabularies from files only."""
    scheme = _SCHEMES.get(tokenizer.name)
    if scheme is None:
        return None
    try:
        import gigatoken

        with tempfile.TemporaryDirectory(prefix="gpt-") as folder:
            path = Path(folder) / f"{os.getpid()}.tiktoken"
            path.write_bytes(rank_file(tokenizer))
            return gigatoken.Tokenizer.from_tiktoken(path, scheme, {})
    except (ImportError, OSError, ValueError, RuntimeError):
        return None
