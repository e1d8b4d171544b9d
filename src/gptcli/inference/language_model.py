"""A network with its tokenizer: completes texts, streams them, and tells how likely it finds them."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TypedDict, Unpack

import torch

from gptcli.distributed.machine_memory import free_memory
from gptcli.errors import UsageError, UserError
from gptcli.inference.engine import ROWS_AT_ONCE, Engine, window_start
from gptcli.inference.logprobs import target_logprobs
from gptcli.inference.requests import FinishReason, Generation, Request
from gptcli.inference.sampling import Sampling
from gptcli.model.cache import KVCache
from gptcli.model.network import GPT
from gptcli.tokenizer import Tokenizer

_SHARE = 0.5  # of the free memory for the keys and values of texts: others live there too


class GenerateOptions(TypedDict, total=False):
    """Keywords of `generate`, `generate_many` and `stream`; `Request` and `Sampling` tell meanings and defaults."""

    max_new_tokens: int
    temperature: float
    top_k: int | None
    top_p: float
    min_p: float
    repetition_penalty: float
    seed: int | None
    stop: str | Sequence[str]
    stop_at_end: bool
    alternatives: int


@dataclass(frozen=True)
class Completion:
    """What a model goes on with.

    `text` is the completion without the prompt (empty where the model has no tokenizer), `ids` the new tokens only and
    `logprobs` the log-probability in nats of each. `finish_reason` is "stop" where the model ended the document (the
    end-of-text token is then the last of `ids`, and no part of `text`) or wrote a stop string (before which `text`
    ends, while its tokens are in `ids`), "cancelled" where the caller ended it, else "length". `alternatives` are for
    each token the likeliest ones, as pairs of id and log-probability, where they were asked for.
    """

    text: str
    ids: list[int]
    logprobs: list[float]
    finish_reason: FinishReason
    alternatives: list[list[tuple[int, float]]] = field(default_factory=list)


@dataclass(frozen=True)
class Score:
    """The ids of a text and the log-probability in nats of each, given those before it."""

    ids: list[int]
    logprobs: list[float]


class TextStream:
    """The pieces of a completion as they are generated, each of whole characters; they join to `completion.text`.

    `close` ends the completion where it is, which leaving a `with` block does too.
    """

    def __init__(self, engine: Engine, generation: Generation) -> None:
        self.generation = generation
        self._engine = engine
        self._shown = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        while self._shown == len(self.generation.pieces):
            if not self.step():
                raise StopIteration
        self._shown += 1
        return self.generation.pieces[self._shown - 1]

    def __enter__(self) -> TextStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the completion, if it still goes on."""
        self._engine.cancel(self.generation)

    def step(self) -> bool:
        """Generate one more token, whether it completes a character or not; false once there is none."""
        if self.generation.finish_reason is None:
            self._engine.step()
            return True
        return False

    @property
    def completion(self) -> Completion:
        """The finished completion; what is still missing is generated first."""
        while self.step():
            pass
        return completion_of(self.generation)


class LanguageModel:
    """A model ready for use, as `load` returns it.

    `model` is the network: ids (B, T) to logits (B, T, V) in fp32. `tokenizer` is None where the model takes ids only.
    `ends` are the ids that end a text, `eot` the first of them, which also begins documents unless `prefix` tells the
    ids that do: what the model's own tokenizer puts before every text. `vocab_size` is the real vocabulary, without
    padding. `folder` is where the model was read from, `notes` what its user should be told, one line each, `weights`
    how its matrices are held: fp32, bf16 or int8.
    """

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer | None,
        ends: Sequence[int],
        folder: Path,
        notes: Sequence[str] = (),
        prefix: Sequence[int] = (),
        weights: str = "fp32",
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        rows = model.config.vocab_size
        self.vocab_size = min(tokenizer.vocab_size, rows) if tokenizer else rows
        self.ends = frozenset(end for end in ends if end < self.vocab_size)
        self.eot = next((end for end in ends if end < self.vocab_size), None)
        self.prefix = list(prefix)
        self.folder, self.notes, self.weights = folder, list(notes), weights

    def generate(self, prompt: str | Sequence[int], **options: Unpack[GenerateOptions]) -> Completion:
        """Go on from `prompt`, a text or ids; from the start of a document where it is empty.

        Raises UserError for text where there is no tokenizer and for ids outside the vocabulary, and UsageError for
        options that mean nothing.
        """
        return self.generate_many(prompt, 1, **options)[0]

    def generate_many(
        self, prompt: str | Sequence[int], num_samples: int, **options: Unpack[GenerateOptions]
    ) -> list[Completion]:
        """`num_samples` completions of one prompt, which is computed once. The first is what `generate` gives.

        Raises as `generate` does, and UsageError for fewer than one.
        """
        if num_samples < 1:
            raise UsageError(f"num_samples is {num_samples}; it must be at least 1.")
        ids, request = self.prompt_ids(prompt), self.request(**options)
        engine = self.engine(num_samples, len(ids) + request.max_new_tokens)
        generations = [engine.add(ids, request, number) for number in range(num_samples)]
        while engine.busy:
            engine.step()
        return [completion_of(generation) for generation in generations]

    def stream(self, prompt: str | Sequence[int], number: int = 0, **options: Unpack[GenerateOptions]) -> TextStream:
        """`generate`, piece by piece: iterate over the result for text, then take its `.completion`. `number` is that
        of the completion among those of `generate_many`."""
        ids, request = self.prompt_ids(prompt), self.request(**options)
        engine = self.engine(1, len(ids) + request.max_new_tokens)
        return TextStream(engine, engine.add(ids, request, number))

    def engine(self, texts: int, longest: int) -> Engine:
        """An engine for so many texts of at most `longest` tokens, of which as many are generated at a time as the
        memory has room for, up to 16."""
        longest = min(longest, self.model.config.context_length)
        fits = int(_SHARE * free_memory(self.model.device)) // KVCache.row_bytes(self.model.config, longest)
        rows = max(1, min(texts, ROWS_AT_ONCE, fits))
        decode = self.token_bytes if self.tokenizer else None
        return Engine(
            self.model,
            vocab_size=self.vocab_size,
            ends=self.ends,
            decode=decode,
            rows=rows,
            longest=longest,
            fixed_shapes=self.model.device.type == "cuda",
        )

    def request(self, **options: Unpack[GenerateOptions]) -> Request:
        """What `options` ask an engine for. Raises UsageError for values that mean nothing, and UserError for stop
        strings where there is no tokenizer."""
        request = _request(**options)
        if request.stop and self.tokenizer is None:
            raise UserError(f"The model in {self.folder} has no tokenizer: stop strings would never be found.")
        return request

    @torch.inference_mode()
    def score(self, text: str | Sequence[int]) -> Score:
        """The log-probability of every token of `text` (or of ids), read as a document: after the end-of-text token.

        A text longer than the context is read in the windows that generation has, so that a completion's `logprobs` are
        the scores of its ids. Raises UserError as `generate` does, and where no end-of-text token is known.
        """
        ids = self._ids(text)
        start = self._start()
        stream = [*start, *ids]
        context = self.model.config.context_length
        tensor = torch.tensor(stream, device=self.model.device)
        logprobs: list[float] = []
        for first, run in groupby(range(len(start), len(stream)), key=lambda n: window_start(n, context)):
            ends = list(run)
            hidden = self.model.hidden(tensor[None, first : ends[-1]])[0, ends[0] - 1 - first :]  # (N, C)
            targets = tensor[ends[0] : ends[-1] + 1]
            logprobs += target_logprobs(self.model, hidden, targets, self.vocab_size).tolist()
        return Score(ids, logprobs)

    def prompt_ids(self, prompt: str | Sequence[int]) -> list[int]:
        """The ids that a completion of `prompt` starts from: those that begin documents if it is empty, else its own,
        after the model's `prefix` if it is a text."""
        ids = self._ids(prompt)
        return [*(self.prefix if isinstance(prompt, str) else ()), *ids] if ids else self._start()

    def read_from(self, ids: Sequence[int]) -> int:
        """How many of a prompt's `ids` stand before those that the completion goes on from: more than fit into the
        context are not read."""
        return window_start(len(ids), self.model.config.context_length)

    def token_bytes(self, ids: Sequence[int]) -> bytes:
        """The bytes of `ids`; none where there is no tokenizer."""
        return self.tokenizer.decode_bytes(ids) if self.tokenizer else b""

    def _ids(self, text: str | Sequence[int]) -> list[int]:
        if isinstance(text, str):
            if self.tokenizer is None:
                if text:
                    raise UserError(f"The model in {self.folder} has no tokenizer: it takes token ids, not text.")
                return []
            ids = self.tokenizer.encode(text)
        else:
            try:
                ids = [operator.index(token) for token in text]
            except TypeError as error:
                raise UsageError(f"A prompt is a text or a list of token ids, not {_shown(text)}.") from error
        outside = [token for token in ids if not 0 <= token < self.vocab_size]
        if outside:
            named = ", ".join(map(str, outside[:5])) + (", …" if len(outside) > 5 else "")
            raise UserError(
                f"These ids are outside the model's vocabulary: {named}.",
                f"Its ids go from 0 to {self.vocab_size - 1:,}.",
            )
        return ids

    def _start(self) -> list[int]:
        if self.prefix:
            return self.prefix
        if self.eot is None:
            raise UserError(
                f"The model in {self.folder} names no end-of-text token, which a document begins with.",
                "Give a prompt to go on from.",
            )
        return [self.eot]


def _shown(value: object) -> str:
    return repr(value) if len(repr(value)) <= 60 else f"a {type(value).__name__}"


def completion_of(generation: Generation) -> Completion:
    """What a generation that has ended came to."""
    assert generation.finish_reason is not None
    return Completion(
        generation.text,
        list(generation.ids),
        list(generation.logprobs),
        generation.finish_reason,
        list(generation.alternatives),
    )


def _request(
    max_new_tokens: int = 100,
    temperature: float = 1.0,
    top_k: int | None = 50,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    seed: int | None = None,
    stop: str | Sequence[str] = (),
    stop_at_end: bool = True,
    alternatives: int = 0,
) -> Request:
    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    return Request(max_new_tokens, sampling, seed, stop_at_end, stops, alternatives)
