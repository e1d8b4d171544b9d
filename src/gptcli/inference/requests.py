"""What is asked of the engine, and what it gives: a request, and its completion as it grows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from gptcli.errors import Fault, raise_if
from gptcli.inference.sampling import Sampling, row_generator
from gptcli.inference.text import GrowingText

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Request:
    """What to generate: at most `max_new_tokens`, chosen by `sampling` with random numbers from `seed` (None: a new one
    each time), ended by an end-of-text token if `stop_at_end`, and by the first of the strings `stop` that the new
    text holds. For each token `alternatives` of the likeliest ones are told. Raises UsageError for a length below 1, a
    negative seed, an empty stop string or a negative number of alternatives."""

    max_new_tokens: int = 100
    sampling: Sampling = field(default_factory=Sampling)
    seed: int | None = None
    stop_at_end: bool = True
    stop: tuple[str, ...] = ()
    alternatives: int = 0

    def __post_init__(self) -> None:
        faults = []
        if self.max_new_tokens < 1:
            faults.append(Fault(f"max_new_tokens is {self.max_new_tokens}; it must be at least 1."))
        if self.seed is not None and self.seed < 0:
            faults.append(Fault(f"The seed is {self.seed}; it must be 0 or more."))
        if "" in self.stop:
            faults.append(Fault("A stop string is empty: it would end every text before it begins."))
        if self.alternatives < 0:
            faults.append(Fault(f"alternatives is {self.alternatives}; it must be 0 or more."))
        raise_if(faults)


class Generation:
    """One completion as it grows: its new `ids`, their `logprobs`, for each the likeliest `alternatives` as pairs of id
    and log-probability, the `text` so far, and why it ended.

    `finish_reason` is None while it goes on; "stop" where an end-of-text token (then the last of `ids`, and no part of
    the text) or a stop string (whose tokens are in `ids`, while the text ends before it) ended it; "length";
    "cancelled". `prompt` are the ids that it goes on from; completions of one prompt and seed have random numbers by
    their `number`.
    """

    def __init__(self, prompt: Sequence[int], request: Request, number: int = 0) -> None:
        self.prompt, self.request = list(prompt), request
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.alternatives: list[list[tuple[int, float]]] = []
        self.pieces: list[str] = []
        self.finish_reason: FinishReason | None = None
        self.generator: torch.Generator = row_generator(request.seed, number)
        self._growing = GrowingText(request.stop)

    @property
    def text(self) -> str:
        """What has been generated, without the prompt; characters that are not whole yet are left out."""
        return "".join(self.pieces)

    def add(self, token: int, logprob: float, token_bytes: bytes, *, is_end: bool) -> None:
        """One more token."""
        assert self.finish_reason is None
        self.ids.append(token)
        self.logprobs.append(logprob)
        ended = is_end and self.request.stop_at_end
        if not ended:
            self._show(self._growing.push(token_bytes))
        if ended or self._growing.stopped:
            self.finish("stop")
        elif len(self.ids) == self.request.max_new_tokens:
            self.finish("length")

    def finish(self, reason: FinishReason) -> None:
        """End here."""
        if not self._growing.stopped:
            self._show(self._growing.push(b"", final=True))
        self.finish_reason = reason

    def _show(self, piece: str) -> None:
        if piece:
            self.pieces.append(piece)
