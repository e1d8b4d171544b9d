"""The loop that generates: the prompt in one pass, then one token a step with a key-value cache."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gptcli.errors import Fault, raise_if
from gptcli.inference.sampling import Sampling, choose, row_generators, uniforms
from gptcli.model.cache import KVCache
from gptcli.model.network import GPT

ROWS_AT_ONCE = 16  # completions computed side by side: bounds the caches' memory, changes no text


def window_start(n: int, context: int) -> int:
    """Where the window begins that the token after the first `n` is predicted from.

    All of them while they fit into `context`; then the older half of the window is dropped, and again each time it has
    filled up. The cache holds positions, so what stays gets new ones and is computed afresh, once for
    every half of a context rather than at every token.
    """
    half = max(1, context // 2)
    return 0 if n <= context else -(-(n - context) // half) * half


@dataclass(frozen=True)
class Request:
    """What to generate: at most `max_new_tokens`, chosen by `sampling` with random numbers from `seed` (None: a new one
    each time), ended by the end-of-text token if `stop_at_end`. Raises UsageError for a length below 1 or a negative
    seed."""

    max_new_tokens: int = 100
    sampling: Sampling = field(default_factory=Sampling)
    seed: int | None = None
    stop_at_end: bool = True

    def __post_init__(self) -> None:
        faults = []
        if self.max_new_tokens < 1:
            faults.append(Fault(f"max_new_tokens is {self.max_new_tokens}; it must be at least 1."))
        if self.seed is not None and self.seed < 0:
            faults.append(Fault(f"The seed is {self.seed}; it must be 0 or more."))
        raise_if(faults)


@dataclass
class Generated:
    """One row so far: its new ids, their log-probabilities, and why it ended ("stop": by the end-of-text token, which
    is then the last id; "length"; None while it goes on)."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: str | None = None


class _Decoder:
    """Rows of ids (B, P + new) that grow together, and the logits after their first n."""

    def __init__(self, model: GPT, prompt: Sequence[int], rows: int, new: int, use_cache: bool) -> None:
        self.model, self.rows = model, rows
        self.ids = torch.zeros(rows, len(prompt) + new, dtype=torch.long, device=model.device)
        self.ids[:, : len(prompt)] = torch.tensor(prompt, dtype=torch.long)
        self.start = 0
        self.cache = self._new_cache(rows) if use_cache else None

    def _new_cache(self, rows: int) -> KVCache:
        dtype = self.model.final_norm.weight.dtype
        return KVCache(self.model.config, rows, self.model.device, dtype, self.ids.shape[1])

    def put(self, n: int, ids: Tensor) -> None:
        """Set the id at position n of every row."""
        self.ids[:, n] = ids

    def prompt_logits(self, n: int) -> Tensor:
        """Logits (B, V) after a prompt of n ids, which all rows share: computed for one and copied."""
        if self.cache is None or self.rows == 1:
            return self.logits(n)
        self.start = window_start(n, self.model.config.context_length)
        single = self._new_cache(1)
        hidden = self.model.hidden(self.ids[:1, self.start : n], single)
        single.copy_first_to(self.cache)
        logits: Tensor = self.model.head(hidden[:, -1]).float()
        return logits.expand(self.rows, -1)

    def logits(self, n: int) -> Tensor:
        """Logits (B, V) of the token after n ids; only the last position goes through the head."""
        start = window_start(n, self.model.config.context_length)
        if self.cache is None:
            hidden = self.model.hidden(self.ids[:, start:n])
        else:
            if start != self.start:
                self.cache.clear()
                self.start = start
            hidden = self.model.hidden(self.ids[:, start + self.cache.length : n], self.cache)
        logits: Tensor = self.model.head(hidden[:, -1]).float()
        return logits


def generate(
    model: GPT,
    prompt: Sequence[int],
    request: Request,
    *,
    vocab_size: int,
    ends: Collection[int],
    rows: range = range(1),
    use_cache: bool = True,
) -> Generator[list[Generated], None, None]:
    """Generate `rows` completions of `prompt` (at least one id); yields all of them, grown in place, after each token.

    `vocab_size` is the real vocabulary: ids from there on are padding. Row i has random numbers of its own, from the
    seed and i. `use_cache=False` computes everything anew at every token, with the same result. While this runs the
    model is in evaluation mode; afterwards in the mode that it was in.
    """
    assert prompt, "an empty prompt is the end-of-text token, which begins documents"
    was_training = model.training
    model.eval()
    try:
        yield from _generate(model, prompt, request, vocab_size, ends, rows, use_cache)
    finally:
        model.train(was_training)


def _generate(
    model: GPT,
    prompt: Sequence[int],
    request: Request,
    vocab_size: int,
    ends: Collection[int],
    rows: range,
    use_cache: bool,
) -> Iterator[list[Generated]]:
    generated = [Generated() for _ in rows]
    generators = row_generators(request.seed, rows)
    with torch.inference_mode():
        decoder = _Decoder(model, prompt, len(rows), request.max_new_tokens, use_cache)
    for n in range(len(prompt), len(prompt) + request.max_new_tokens):
        with torch.inference_mode():  # around the step, not the yield: the caller's code keeps its own mode
            logits = decoder.prompt_logits(n) if n == len(prompt) else decoder.logits(n)
            ids, logprobs = choose(logits, uniforms(generators), request.sampling, vocab_size)
            decoder.put(n, ids)
        last = n + 1 == len(prompt) + request.max_new_tokens
        for row, token, logprob in zip(generated, ids.tolist(), logprobs.tolist(), strict=True):
            if row.finish_reason is not None:
                continue  # ended earlier: what is computed beside the others is left out
            row.ids.append(token)
            row.logprobs.append(logprob)
            if request.stop_at_end and token in ends:
                row.finish_reason = "stop"
            elif last:
                row.finish_reason = "length"
        yield generated
        if all(row.finish_reason for row in generated):
            return


def generate_all(
    model: GPT,
    prompt: Sequence[int],
    request: Request,
    *,
    vocab_size: int,
    ends: Collection[int],
    num_samples: int = 1,
    use_cache: bool = True,
) -> list[Generated]:
    """`generate` to its end, for any number of completions."""
    finished: list[Generated] = []
    for first in range(0, num_samples, ROWS_AT_ONCE):
        rows = range(first, min(first + ROWS_AT_ONCE, num_samples))
        steps = generate(model, prompt, request, vocab_size=vocab_size, ends=ends, rows=rows, use_cache=use_cache)
        *_, last = steps
        finished += last
    return finished


def complete(
    model: GPT,
    prompt: Sequence[int],
    *,
    vocab_size: int,
    ends: Collection[int],
    max_new_tokens: int,
    seed: int,
    stop: Callable[[], bool],
) -> list[int]:
    """The new ids of one completion with the default sampling, for a model in training: it comes back in the mode that
    it was in, and no global random state is touched. It ends early once `stop`, asked before every token, says so."""
    ids: list[int] = []
    steps = generate(model, prompt, Request(max_new_tokens, seed=seed), vocab_size=vocab_size, ends=ends)
    with contextlib.closing(steps):
        while not stop() and (rows := next(steps, None)):
            ids = rows[0].ids
    return ids
