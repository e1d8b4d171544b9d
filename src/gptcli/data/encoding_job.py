"""The work on a bundle of slices: reading it, and encoding its texts; or collecting its characters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gptcli.data.bundling import read_texts
from gptcli.data.encoder import BulkEncoder, Ends, Engine, MismatchError
from gptcli.data.shard_format import Ids
from gptcli.data.slices import Bundle, Texts
from gptcli.data.tally import SliceFacts
from gptcli.tokenizer import Tokenizer


@dataclass(frozen=True)
class Encoded:
    """The ids of a bundle, end of text included.

    id_ends: how many ids there are after each text. text_bytes: how long each is in UTF-8. continues: the first text
    goes on with the document before. slices: one for each slice of the bundle.
    """

    ids: Ids
    id_ends: Ends
    text_bytes: Ends
    continues: bool
    slices: tuple[SliceFacts, ...]


class Encoding:
    """The job of encoding with `tokenizer`. Raises UsageError where `engine` can't read the tokenizer.

    The encoder is made here, and looked at; other processes make theirs without looking again.
    """

    def __init__(self, tokenizer: Tokenizer, engine: Engine) -> None:
        self.tokenizer = tokenizer
        self._encoder: BulkEncoder | None = BulkEncoder(tokenizer, engine)
        self.engine = self._encoder.engine
        self.dtype = self._encoder.dtype
        self._resolved = self._encoder.resolved

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_encoder": None}

    def prepare(self) -> Callable[[Bundle], Encoded]:
        """The function that does it."""
        encoder = self._encoder or BulkEncoder(self.tokenizer, self._resolved, probe=False)
        self._encoder = None  # it is large: it goes when the function goes
        return _EncodingWith(encoder)


class _EncodingWith:
    def __init__(self, encoder: BulkEncoder) -> None:
        self._encoder = encoder

    def __call__(self, bundle: Bundle) -> Encoded:
        """Read and encode. Raises MismatchError, and what reading raises."""
        read = read_texts(bundle)
        texts = _joined(read)
        try:
            ids, id_ends = self._encoder.encode(texts.data, texts.ends, texts.begins)
        except MismatchError as error:
            counts = np.cumsum([each.ends.size for each in read])
            slice_number = int(np.searchsorted(counts, error.text, side="right"))
            raise error.located(bundle.names[slice_number]) from error
        return Encoded(
            ids=ids,
            id_ends=id_ends,
            text_bytes=np.diff(texts.ends, prepend=0),
            continues=bool(texts.begins.size and not texts.begins[0]),
            slices=tuple(SliceFacts(each.units, each.unit, each.problems) for each in read),
        )


@dataclass(frozen=True)
class Characters:
    """The different characters of a bundle; how many documents, bytes of text and characters it has."""

    distinct: str
    documents: int
    bytes: int
    characters: int
    slices: tuple[SliceFacts, ...]


class CollectingCharacters:
    """The job of finding out which characters there are."""

    def prepare(self) -> Callable[[Bundle], Characters]:
        """The function that does it."""
        return _characters


def _characters(bundle: Bundle) -> Characters:
    read = read_texts(bundle)
    texts = _joined(read)
    points = np.frombuffer(bytes(texts.data).decode().encode("utf-32-le"), dtype=np.uint32)
    seen = np.zeros(0x110000, dtype=bool)
    seen[points] = True
    return Characters(
        distinct="".join(map(chr, np.flatnonzero(seen))),
        documents=int(texts.begins.sum()),
        bytes=len(texts.data),
        characters=points.size,
        slices=tuple(SliceFacts(each.units, each.unit, each.problems) for each in read),
    )


@dataclass(frozen=True)
class _Joined:
    data: bytes | memoryview
    ends: Ends
    begins: npt.NDArray[np.bool_]


def _joined(read: list[Texts]) -> _Joined:
    """The texts of several slices as if they were one."""
    begins = []
    for each in read:
        begin = np.ones(each.ends.size, dtype=bool)
        begin[:1] = not each.continues
        begins.append(begin)
    if len(read) == 1:
        return _Joined(read[0].data, read[0].ends, begins[0])
    sizes = [int(each.ends[-1]) if each.ends.size else 0 for each in read]
    starts = np.cumsum([0, *sizes[:-1]])
    ends = np.concatenate([each.ends + start for each, start in zip(read, starts, strict=True)])
    return _Joined(b"".join(each.data for each in read), ends, np.concatenate(begins))
