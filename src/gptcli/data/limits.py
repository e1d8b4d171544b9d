"""How much is taken: all, or the first documents or tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gptcli.data.encoding_job import Encoded
from gptcli.data.shard_format import Ids
from gptcli.data.tally import Tally
from gptcli.tokenizer import Tokenizer


class Taken(NamedTuple):
    """What is taken of a bundle: its first ids, their documents and bytes of text; `full` says that it is the last."""

    ids: Ids
    documents: int
    bytes: int
    full: bool


@dataclass(frozen=True)
class Limits:
    """At most so many documents and tokens; None is all. A document that reaches the limit of tokens is cut there."""

    documents: int | None
    tokens: int | None

    def take(self, encoded: Encoded, so_far: Tally, tokenizer: Tokenizer) -> Taken:
        """What of `encoded` is within the limits, with `so_far` before it."""
        n_texts, n_ids = encoded.id_ends.size, encoded.ids.size
        starts = np.concatenate(([0], encoded.id_ends))  # of each text, and the end of the last
        if self.documents is not None:
            n_texts = min(n_texts, max(self.documents - so_far.documents, 0) + encoded.continues)
            n_ids = int(starts[n_texts])
        if self.tokens is not None and n_ids > self.tokens - so_far.tokens:
            n_ids = self.tokens - so_far.tokens
            n_texts = int(np.searchsorted(starts[1:], n_ids, side="right"))  # those that end by then
        ids = encoded.ids[:n_ids]
        size = int(encoded.text_bytes[:n_texts].sum())
        begun = n_texts - (encoded.continues and n_texts > 0)
        if (rest := ids[int(starts[n_texts]) :]).size:  # of a document that is cut
            size += len(tokenizer.decode_bytes(rest[rest != tokenizer.eot].tolist()))
            begun += not (encoded.continues and n_texts == 0)
        full = n_ids < encoded.ids.size or (self.tokens is not None and so_far.tokens + n_ids >= self.tokens)
        return Taken(ids, int(begun), size, full)

    def share(self, tally: Tally, total_bytes: int | None) -> float | None:
        """Of all that is to be taken, what `tally` has; None where nobody knows."""
        parts = [(tally.source_bytes, total_bytes), (tally.documents, self.documents), (tally.tokens, self.tokens)]
        return max((done / whole for done, whole in parts if whole), default=None)

    def reached(self, tally: Tally) -> bool:
        """Whether no more is needed."""
        return (self.documents is not None and tally.documents > self.documents) or (
            self.tokens is not None and tally.tokens >= self.tokens
        )


def longest_token(tokenizer: Tokenizer | None) -> int:
    """The most bytes of text that a token stands for; None is for a tokenizer of characters."""
    if tokenizer is None:
        return 4
    return max(len(tokenizer.token_bytes(token)) for token in range(tokenizer.vocab_size))
