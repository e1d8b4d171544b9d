"""What every kind of tokenizer has to tell. A new kind is one file with a `Vocabulary`, and its place in `naming`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

END_OF_TEXT = "<|endoftext|>"

Ids = npt.NDArray[np.uint32]
Cuts = Literal["words", "characters", "none"]


class Vocabulary(ABC):
    """The tokens of one tokenizer and the way that text is cut into them. `Tokenizer` tells what the attributes mean.

    `kind` is what our files call it. `ranks`, `pattern` and `json_text` are what the fast engines load it from, None
    for the kinds that don't have them.
    """

    kind: ClassVar[str]
    name: str
    vocab_size: int
    eot: int
    specials: Mapping[str, int]
    cuts: Cuts
    covers_all_text: bool = True
    ranks: dict[bytes, int] | None = None
    pattern: str | None = None
    json_text: str | None = None

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """The ids of `text`. Raises UserError for a text that it can't encode, and may raise UnicodeEncodeError for one
        with lone surrogates."""

    @abstractmethod
    def token_bytes(self, token: int) -> bytes:
        """The bytes of one id, empty for an id that there is not."""

    @abstractmethod
    def digest(self) -> str:
        """sha256 in hex over everything that decides ids."""

    @abstractmethod
    def to_json(self) -> str:
        """A tokenizer.json with the same ids."""

    @abstractmethod
    def recipe(self) -> tuple[Callable[..., Vocabulary], tuple[Any, ...]]:
        """A function of a module and its arguments that make this vocabulary again in another process."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; bytes that are not whole UTF-8 characters become U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", errors="replace")

    def encode_texts(self, data: bytes | memoryview, ends: npt.NDArray[np.int64]) -> tuple[Ids, npt.NDArray[np.int64]]:
        """`Tokenizer.encode_texts`; here by encoding one text after the other."""
        return joined([np.array(self.encode(text), dtype=np.uint32) for text in texts_of(data, ends)])

    def __reduce__(self) -> tuple[Callable[..., Vocabulary], tuple[Any, ...]]:
        return self.recipe()


def texts_of(data: bytes | memoryview, ends: npt.NDArray[np.int64]) -> list[str]:
    """The texts of which `data` holds the UTF-8, each up to its end."""
    view = memoryview(data)
    borders = [0, *ends.tolist()]
    return [str(view[start:end], "utf-8") for start, end in pairwise(borders)]


def joined(encoded: Sequence[Ids]) -> tuple[Ids, npt.NDArray[np.int64]]:
    """The ids of several texts one after another, and where those of each end."""
    counts = np.cumsum(np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded)))
    return np.concatenate([np.empty(0, dtype=np.uint32), *encoded]), counts
