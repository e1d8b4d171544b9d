"""The engine: texts that are generated side by side, joining and leaving between steps, over one key-value cache."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence

import torch
from torch import Tensor

from gptcli.inference.fixed_step import FixedStep
from gptcli.inference.requests import Generation, Request
from gptcli.inference.sampling import choose, uniforms
from gptcli.model.cache import KVCache
from gptcli.model.network import GPT

ROWS_AT_ONCE = 16  # texts computed side by side: bounds the cache's memory, changes no text
_TOKENS_AT_ONCE = 4096  # prompts that join together are computed together up to so many tokens with their padding
_WORTH_COPYING = 16  # tokens that two prompts share at their beginning, from which on the later takes them over


def window_start(n: int, context: int) -> int:
    """Where the window begins that the token after the first `n` is predicted from.

    All of them while they fit into `context`; then the older half of the window is dropped, and again each time it has
    filled up. The cache holds positions, so what stays gets new ones and is computed afresh, once for
    every half of a context rather than at every token.
    """
    half = max(1, context // 2)
    return 0 if n <= context else -(-(n - context) // half) * half


class Engine:
    """Generates any number of texts, `rows` of them at a time.

    `add` takes a prompt at any time and gives the generation that `step` lets grow by one token, together with all
    others that have a row; when one ends, the next that waits takes its place. What a text is does not depend on the
    others beside it. Each row may hold `longest` tokens of prompt and completion, by default the model's context; a
    text that outgrows the context goes on from a window of it (`window_start`).

    `vocab_size` is the real vocabulary: ids from there on are padding. `ends` are the end-of-text ids, `decode` gives
    the bytes of one; without it the generations have no text. `fixed_shapes` takes steps that a GPU captures as a
    graph (`FixedStep`): for a model that nobody trains meanwhile. During a step the model is in evaluation mode,
    afterwards in the mode that it was in; torch's own random state is left alone.
    """

    def __init__(
        self,
        model: GPT,
        *,
        vocab_size: int,
        ends: Collection[int] = (),
        decode: Callable[[Sequence[int]], bytes] | None = None,
        rows: int = ROWS_AT_ONCE,
        longest: int | None = None,
        fixed_shapes: bool = False,
    ) -> None:
        self.model, self.vocab_size, self.ends, self.decode = model, vocab_size, frozenset(ends), decode
        self.rows, self.context = rows, model.config.context_length
        dtype = model.final_norm.weight.dtype
        with torch.inference_mode():
            self._cache = KVCache(model.config, rows, model.device, dtype, longest)
        self._held: list[list[int]] = [[] for _ in range(rows)]  # the ids that each row of the cache is filled with
        self._running: list[Generation] = []  # number i has row i
        self._waiting: deque[Generation] = deque()
        self._fixed: dict[int, FixedStep] | None = {} if fixed_shapes else None  # by the number of rows

    def add(self, prompt: Sequence[int], request: Request, number: int = 0) -> Generation:
        """Let a completion of `prompt` (at least one id) join. Completions of one prompt and seed that differ in
        `number` have random numbers of their own."""
        assert prompt, "an empty prompt is the end-of-text token, which begins documents"
        assert self.decode or not request.stop, "stop strings need text"
        assert min(len(prompt) + request.max_new_tokens, self.context) <= self._cache.longest, "longer than a row"
        generation = Generation(prompt, request, number)
        self._waiting.append(generation)
        return generation

    def cancel(self, generation: Generation) -> None:
        """End a generation that may still go on; its row is free for another."""
        if generation.finish_reason is None:
            generation.finish("cancelled")
            if generation in self._waiting:
                self._waiting.remove(generation)
            self._leave()

    @property
    def busy(self) -> bool:
        """Whether any generation goes on or waits."""
        return bool(self._running or self._waiting)

    def step(self) -> list[Generation]:
        """One more token for every generation that has a row; those that got one."""
        with _evaluating(self.model), torch.inference_mode():
            parts = [self._go_on()] if self._running else []
            parts += self._join(self._next())
            if not parts:
                return []
            logits: Tensor = self.model.head(torch.cat(parts))  # (B, C) → (B, V)
            self._choose(logits[:, : self.vocab_size].float())
        grown = list(self._running)
        self._leave()
        return grown

    def _next(self) -> list[Generation]:
        """Those that get a row now, prompts of like length together."""
        free = min(self.rows - len(self._running), len(self._waiting))
        return sorted((self._waiting.popleft() for _ in range(free)), key=lambda generation: len(generation.prompt))

    def _go_on(self) -> Tensor:
        """The final hidden states (B, C) of the last token of every running row."""
        for row, generation in enumerate(self._running):
            n = len(generation.prompt) + len(generation.ids)
            if self._cache.lengths[row] != n - 1 - window_start(n, self.context):  # the older half is dropped: afresh
                self._fill(range(row, row + 1), [self._window(generation)[:-1]])
            self._held[row].append(generation.ids[-1])
        last = [generation.ids[-1] for generation in self._running]
        if self._fixed is not None:
            return self._fixed_step(self._fixed, last)
        ids = torch.tensor(last, device=self.model.device)[:, None]  # (B, 1)
        return self.model.hidden(ids, self._cache.extend(range(len(last)), 1))[:, 0]

    def _fixed_step(self, steps: dict[int, FixedStep], last: list[int]) -> Tensor:
        """The same by a step for the next power of two of rows. Those beyond the running ones compute something behind
        what they hold, or lose the last of it where they are full."""
        n = len(last)
        rows = min(self.rows, 1 << (n - 1).bit_length())
        for row in range(n, rows):
            if self._cache.lengths[row] == self._cache.longest:
                self._cache.lengths[row] -= 1
                del self._held[row][self._cache.lengths[row] :]
        starts = self._cache.lengths[:rows]
        if rows not in steps:
            steps[rows] = FixedStep(self.model, self._cache, rows)
        hidden = steps[rows](last + [0] * (rows - n), starts)[:n]
        self._cache.lengths[:n] = [start + 1 for start in starts[:n]]
        return hidden

    def _window(self, generation: Generation) -> list[int]:
        ids = generation.prompt + generation.ids
        return ids[window_start(len(ids), self.context) :]

    def _join(self, joining: list[Generation]) -> list[Tensor]:
        """Give rows to generations that begin; the final hidden states (B, C) of their prompts' last tokens, in
        parts."""
        parts: list[Tensor] = []
        while joining:
            window = self._window(joining[0])
            alike = [generation for generation in joining if generation.prompt == joining[0].prompt]
            row = len(self._running)
            shared = self._take_over(row, window)
            if len(alike) > 1 or shared:
                together = alike
                hidden = self._fill(range(row, row + 1), [window], shared).expand(len(alike), -1)
                for other in range(row + 1, row + len(alike)):
                    self._cache.copy(row, other, len(window))
                    self._held[other] = list(window)
            else:
                together = self._side_by_side(joining)
                windows = [self._window(generation) for generation in together]
                hidden = self._fill(range(row, row + len(together)), windows)
            parts.append(hidden)
            self._running += together
            joining = [generation for generation in joining if generation not in together]
        return parts

    def _take_over(self, row: int, window: list[int]) -> int:
        """Let `row` begin with what some row holds of `window` already; how many tokens that is, 0 for too few.

        The last token is always left to compute: its logits are asked for.
        """
        common = [_common(held, window[:-1]) for held in self._held]
        longest = max(common)
        if longest < _WORTH_COPYING:
            return 0
        source = row if common[row] == longest else common.index(longest)
        if source == row:
            self._cache.lengths[row] = longest
        else:
            self._cache.copy(source, row, longest)
        return longest

    def _side_by_side(self, joining: list[Generation]) -> list[Generation]:
        """Those at the beginning of `joining`, sorted by length, that are computed as one padded batch."""
        first = len(joining[0].prompt)
        together: list[Generation] = []
        for generation in joining:
            length = min(len(generation.prompt), self.context)
            if together and (length > 2 * first or length * (len(together) + 1) > _TOKENS_AT_ONCE):
                break
            together.append(generation)
        return together

    def _fill(self, rows: range, windows: list[list[int]], shared: int = 0) -> Tensor:
        """Compute `windows` into `rows`, but for as many tokens as they share with what lies there; the final hidden
        states (B, C) of their last tokens.

        Shorter ones are padded at their end, which nothing before it can see and what follows overwrites.
        """
        for row, window in zip(rows, windows, strict=True):
            self._cache.lengths[row] = shared
            self._held[row] = list(window)
        new = [window[shared:] for window in windows]
        longest = max(map(len, new))
        if longest == 0:  # a context of one token
            return torch.empty(0)
        ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids in new], device=self.model.device)
        hidden = self.model.hidden(ids, self._cache.extend(rows, longest))  # (B, T, C)
        self._cache.lengths[rows.start : rows.stop] = map(len, windows)
        ends = torch.tensor([len(ids) - 1 for ids in new], device=self.model.device)
        return hidden[torch.arange(len(rows), device=ends.device), ends]

    def _choose(self, logits: Tensor) -> None:
        """A token for every running generation, from logits (B, V)."""
        for sampling in {generation.request.sampling: None for generation in self._running}:  # one pass for each
            rows = [row for row, generation in enumerate(self._running) if generation.request.sampling == sampling]
            chosen = [self._running[row] for row in rows]
            of_rows = logits if len(rows) == len(self._running) else logits[rows]
            repeats = sampling.repetition_penalty != 1
            texts = [generation.prompt + generation.ids for generation in chosen] if repeats else []
            u = uniforms([generation.generator for generation in chosen])
            ids, logprobs = choose(of_rows, u, sampling, self.vocab_size, texts)
            self._tell_alternatives(chosen, of_rows)
            for generation, token, logprob in zip(chosen, ids.tolist(), logprobs.tolist(), strict=True):
                token_bytes = self.decode([token]) if self.decode else b""
                generation.add(token, logprob, token_bytes, is_end=token in self.ends)

    def _tell_alternatives(self, chosen: list[Generation], logits: Tensor) -> None:
        for generation, row in zip(chosen, logits, strict=True):
            if number := min(generation.request.alternatives, self.vocab_size):
                best = torch.log_softmax(row, dim=-1).topk(number)
                generation.alternatives.append(list(zip(best.indices.tolist(), best.values.tolist(), strict=True)))

    @torch.inference_mode()
    def _leave(self) -> None:
        """Free the rows of those that have ended: the last row moves into the gap."""
        for row in reversed(range(len(self._running))):
            if self._running[row].finish_reason is None:
                continue
            last = len(self._running) - 1
            if row != last:
                self._cache.copy(last, row, self._cache.lengths[last])
                self._held[row] = self._held[last][:]
                self._running[row] = self._running[last]
            self._running.pop()


def _common(held: Sequence[int], window: Sequence[int]) -> int:
    """How many ids both begin with."""
    return next((n for n, (a, b) in enumerate(zip(held, window, strict=False)) if a != b), min(len(held), len(window)))


@contextlib.contextmanager
def _evaluating(model: GPT) -> Iterator[None]:
    was_training = model.training
    if was_training:
        model.eval()
    try:
        yield
    finally:
        if was_training:
            model.train()


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
    """The new ids of one completion with the default sampling, for a model in training. It ends early once `stop`,
    asked before every token, says so."""
    engine = Engine(model, vocab_size=vocab_size, ends=ends, rows=1, longest=len(prompt) + max_new_tokens)
    generation = engine.add(prompt, Request(max_new_tokens, seed=seed))
    while not stop() and engine.busy:
        engine.step()
    return generation.ids
