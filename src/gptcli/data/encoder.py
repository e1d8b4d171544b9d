"""Texts to ids, in bulk: gigatoken where it can and agrees with the tokenizer itself, else the tokenizer itself.

The ids are the same. That is not believed but looked at: on probes at the start, and on a text of every slice.
"""

from __future__ import annotations

import base64
import mmap
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from gptcli.data.formats.cuts import last_inside_document
from gptcli.data.shard_format import Ids
from gptcli.errors import UsageError, UserError
from gptcli.tokenizer import Tokenizer

Engine = Literal["auto", "gigatoken", "tiktoken"]
Ends = npt.NDArray[np.int64]

_SCHEMES = {"gpt2": "gpt2", "r50k_base": "gpt2", "cl100k_base": "gpt4", "o200k_base": "o200k", "o200k_harmony": "o200k"}

# gigatoken 0.10 remembers every pre-token it has met, for good: up to 12 bytes for each token of random base64, next to
# nothing for prose. A new one costs 60 ms. Later versions take a bound, and then nothing is left to do here.
_CACHE_BYTES = 192 * 2**20
_TOKENS_UNTIL_RENEWAL = 40_000_000  # where the memory of the process can't be seen
_STATM = Path("/proc/self/statm")

_SAMPLE_BYTES = 8192  # of a slice of 4 MiB, so that tiktoken, some twenty times slower, takes a few hundredths of time

_PROBES = (
    "",
    "It's a test, they'LL say; we've 12345678 reasons.\n\n\tAnd   more \n",
    "<|endoftext|> in the middle <|endoftext|>",
    "carriage\r\nreturns\r\n\r\nand\rmore",
    "emoji 😀 👩‍👩‍👧‍👦 🇫🇷 e\u0301 a\u0300\u0301\u0302 \u200b\ufeff \x00\x00 \x1c\x85\u2028\u3000x",
    "日本語のテキスト、العربية 한국어 ١٢٣ ²½Ⅷ ſ'ſ",
    *(character * 10_000 for character in "a !1\né"),
)


class MismatchError(UserError):
    """gigatoken and the tokenizer itself differ on a text. `text` is its number within what was encoded."""

    def __init__(self, text: int, excerpt: str, where: str = "") -> None:
        self.where = where
        super().__init__(
            f"gigatoken's ids are not the tokenizer's own for the document that begins {excerpt!r}{where}.",
            "Start again with --engine tiktoken, or with --on-mismatch fall-back; and please report the document.",
        )
        self.text = text
        self.excerpt = excerpt

    def __reduce__(self) -> tuple[type[MismatchError], tuple[int, str, str]]:
        return MismatchError, (self.text, self.excerpt, self.where)

    def located(self, name: str) -> MismatchError:
        """The same, with the file in which the document stands."""
        return MismatchError(self.text, self.excerpt, f" in {name}")


class BulkEncoder:
    """Encodes many texts with `tokenizer`; `engine` afterwards says by what: gigatoken, or the tokenizer itself.

    `auto` takes gigatoken where it can read the tokenizer and agrees on the probes. Asked for by name it has to; else
    UsageError. `probe=False` is for a process whose parent has looked.
    """

    def __init__(self, tokenizer: Tokenizer, engine: Engine = "auto", *, probe: bool = True) -> None:
        self.tokenizer = tokenizer
        self.dtype: np.dtype[Any] = np.dtype(np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32)
        self._gigatoken: Any = None
        self._tokens_left = 0
        self._resident = 0
        if engine == "tiktoken" and tokenizer.ranks is None:
            raise UsageError(
                f"--engine tiktoken can't read the tokenizer '{tokenizer.name}'.", "Leave --engine out: auto."
            )
        if engine != "tiktoken":
            self._renew()
            if engine == "gigatoken" and self._gigatoken is None:
                raise UsageError(
                    f"--engine gigatoken can't read the tokenizer '{tokenizer.name}'.", "Leave --engine out: auto."
                )
            if probe and self._gigatoken is not None and not self._agrees():
                if engine == "gigatoken":
                    raise UserError(
                        f"This version of gigatoken has other ids than the tokenizer '{tokenizer.name}' itself.",
                        "Leave --engine out: auto does without it.",
                    )
                self._gigatoken = None
        self.engine = "gigatoken" if self._gigatoken is not None else _own_engine(tokenizer)

    @property
    def resolved(self) -> Engine:
        """The `engine` with which another process makes the same encoder."""
        if self._gigatoken is not None:
            return "gigatoken"
        return "auto" if self.tokenizer.ranks is None else "tiktoken"

    def encode(self, data: bytes | memoryview, ends: Ends, begins: npt.NDArray[np.bool_]) -> tuple[Ids, Ends]:
        """The ids of all texts, and how many there are after each of them.

        data: their UTF-8, one text after another. ends: where each ends in it. begins: which of them begin a document,
        and so have end of text before them. Raises MismatchError where the engines differ on the text that is looked
        at, UserError for a text that the tokenizer can't cope with.
        """
        ids, id_ends = self._encode(data, ends)
        starts = np.concatenate(([0], id_ends[:-1]))[begins]
        with_eot: Ids = np.insert(ids.astype(self.dtype), starts, self.tokenizer.eot)
        return with_eot, id_ends + np.cumsum(begins)

    def _encode(self, data: bytes | memoryview, ends: Ends) -> tuple[npt.NDArray[np.uint32], Ends]:
        if self._gigatoken is not None:
            try:
                ids, id_ends = self._by_gigatoken(data, ends)
            except BaseException as error:  # whatever it stumbles over, the tokenizer itself has the last word
                if not _is_failure(error):
                    raise
                return self.tokenizer.encode_texts(data, ends)
            self._check(data, ends, ids, id_ends)
            return ids, id_ends
        return self.tokenizer.encode_texts(data, ends)

    def _by_gigatoken(self, data: bytes | memoryview, ends: Ends) -> tuple[npt.NDArray[np.uint32], Ends]:
        import awkward as ak

        if self._used_up():
            self._renew()
        if not ends.size:
            return np.empty(0, dtype=np.uint32), ends
        content = ak.contents.NumpyArray(np.frombuffer(data, dtype=np.uint8), parameters={"__array__": "byte"})
        offsets = ak.index.Index64(np.concatenate(([0], ends)))
        texts = ak.contents.ListOffsetArray(offsets, content, parameters={"__array__": "bytestring"})
        layout = self._gigatoken.encode_batch(ak.Array(texts), parallel=False).layout
        id_offsets = np.asarray(layout.offsets.data, dtype=np.int64)
        ids = np.asarray(layout.content.data)[id_offsets[0] : id_offsets[-1]]
        self._tokens_left -= ids.size
        return ids, id_offsets[1:] - id_offsets[0]

    def _check(self, data: bytes | memoryview, ends: Ends, ids: npt.NDArray[np.uint32], id_ends: Ends) -> None:
        """Hold the ids of one text, or of its beginning, against the tokenizer itself.

        Which one follows from the size of the whole: any rule does, and this one needs no state.
        """
        if not ends.size:
            return
        text = int(ends[-1]) % ends.size
        if self.tokenizer.cuts == "none":  # only whole texts can be compared: the shortest of those that are not empty
            sizes = np.diff(ends, prepend=0)
            text = int(np.argmin(np.where(sizes > 0, sizes, np.iinfo(np.int64).max)))
        start, end = int(ends[text - 1]) if text else 0, int(ends[text])
        id_start, id_end = int(id_ends[text - 1]) if text else 0, int(id_ends[text])
        if end - start > _SAMPLE_BYTES and self.tokenizer.cuts != "none":
            # A long text that can be cut nowhere is a run of something, as the probes are.
            cut = last_inside_document(bytes(data[start : start + _SAMPLE_BYTES]), self.tokenizer.cuts)
            end, id_end = start + (cut or 0), -1
        sample = bytes(data[start:end])
        expected, _ = self.tokenizer.encode_texts(sample, np.array([len(sample)]))
        found = ids[id_start : id_start + expected.size if id_end < 0 else id_end]
        if not np.array_equal(expected, found):
            raise MismatchError(text, sample[:60].decode("utf-8", errors="replace"))

    def _agrees(self) -> bool:
        texts = [text.encode() for text in (*_PROBES, *(f"a {name} b" for name in self.tokenizer.specials))]
        data, ends = b"".join(texts), np.cumsum([len(text) for text in texts])
        try:
            ids, id_ends = self._by_gigatoken(data, ends)
        except BaseException as error:
            if not _is_failure(error):
                raise
            return False
        expected, expected_ends = self.tokenizer.encode_texts(data, ends)
        return np.array_equal(ids, expected) and np.array_equal(id_ends, expected_ends)

    def _used_up(self) -> bool:
        import gigatoken

        if hasattr(gigatoken, "set_max_cache_bytes"):
            return self._gigatoken is None
        if self._resident:
            return _resident_bytes() > self._resident + _CACHE_BYTES
        return self._tokens_left <= 0

    def _renew(self) -> None:
        self._gigatoken = None  # before the next is made: its memory can be used again
        self._gigatoken = _load_gigatoken(self.tokenizer)
        self._tokens_left = _TOKENS_UNTIL_RENEWAL
        self._resident = _resident_bytes()


def _is_failure(error: BaseException) -> bool:
    """Whether it failed, and is not to end: a panic of Rust is no Exception, and its class can't be imported."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _own_engine(tokenizer: Tokenizer) -> str:
    """The name of what encodes where gigatoken does not."""
    if tokenizer.ranks is not None:
        return "tiktoken"
    return "tokenizers" if tokenizer.json_text is not None else tokenizer.name


def _resident_bytes() -> int:
    """What this process holds in memory; 0 where the system doesn't tell."""
    try:
        return int(_STATM.read_text().split()[1]) * mmap.PAGESIZE
    except OSError:
        return 0


def _load_gigatoken(tokenizer: Tokenizer) -> Any:
    """A gigatoken tokenizer, None where there is none for this one. It reads ranks from files only."""
    json_text = tokenizer.json_text
    scheme = None if tokenizer.ranks is None else _SCHEMES.get(tokenizer.name)
    if scheme is None and json_text is None:
        return None
    try:
        import gigatoken

        if hasattr(gigatoken, "set_max_cache_bytes"):
            gigatoken.set_max_cache_bytes(_CACHE_BYTES)
        if json_text is not None:
            return gigatoken.Tokenizer.from_json(json_text)
        with tempfile.TemporaryDirectory(prefix="gpt-") as folder:
            path = Path(folder) / "ranks.tiktoken"
            path.write_bytes(_rank_file(tokenizer.ranks or {}))
            return gigatoken.Tokenizer.from_tiktoken(path, scheme, {})
    except BaseException as error:
        if not _is_failure(error):
            raise
        return None


def _rank_file(ranks: dict[bytes, int]) -> bytes:
    """The vocabulary in tiktoken's own format: a token in base64 and its rank on each line."""
    ordered = sorted(ranks.items(), key=lambda item: item[1])
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ordered)
