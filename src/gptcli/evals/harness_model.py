"""A language model of ours as lm-evaluation-harness asks one. Needs the package lm_eval, which is an extra."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from gptcli.errors import UserError
from gptcli.evals.batching import batch_tokens as tokens_at_once
from gptcli.evals.questions import pair_in_tokens
from gptcli.evals.scoring import Continuation, Likelihood, loglikelihoods
from gptcli.inference.language_model import LanguageModel
from gptcli.inference.requests import Generation, Request
from gptcli.inference.sampling import Sampling

Answer = TypeVar("Answer")
Tell = Callable[[int], None]

_LENGTHS = (
    "max_gen_toks",
    "max_new_tokens",
    "max_tokens",
    "max_completion_tokens",
)  # one thing; the first given counts
_KNOWN = {*_LENGTHS, "until", "do_sample", "temperature", "top_k", "top_p"}
_NEUTRAL = {"num_beams": 1, "repetition_penalty": 1.0}  # values that ask for nothing


@dataclass(frozen=True)
class GenerationOptions:
    """What a task says of generation: at most `max_new_tokens`, chosen by `sampling`, up to the first of `stops`.
    `unused` are the keywords that mean nothing to us."""

    stops: tuple[str, ...]
    max_new_tokens: int
    sampling: Sampling
    unused: tuple[str, ...] = ()

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> GenerationOptions:
        """The keywords as the harness's own models read them: greedy where neither `do_sample` nor a temperature asks
        for more, 256 tokens, and the 50 likeliest ones when sampling, as transformers has it. Raises UsageError for
        values that mean nothing."""
        until = told.get("until") or ()
        given = [told[name] for name in _LENGTHS if told.get(name) is not None]
        samples = told.get("do_sample")
        temperature = told.get("temperature")
        if samples is False:
            temperature = 0.0
        elif temperature is None:
            temperature = 1.0 if samples else 0.0
        top_k, top_p = told.get("top_k"), told.get("top_p")
        return cls(
            stops=tuple(stop for stop in ((until,) if isinstance(until, str) else until) if stop),
            max_new_tokens=int(given[0]) if given else 256,
            sampling=Sampling(
                float(temperature),
                top_k=50 if top_k is None else max(0, int(top_k)),  # other programs write -1 for all
                top_p=1.0 if top_p is None else float(top_p),
            ),
            unused=tuple(name for name in told if name not in _KNOWN and told[name] != _NEUTRAL.get(name, told)),
        )

    def check(self, task: str | None, context_length: int) -> None:
        """Raise UserError where no context would be left beside what is to be generated."""
        if self.max_new_tokens >= context_length:
            raise UserError(
                f"The task {task} generates up to {self.max_new_tokens:,} tokens, and the model's context of "
                f"{context_length:,} has no room for a question beside them.",
                "Take a model with a longer context for it.",
            )


class HarnessModel(LM):  # type: ignore[misc]
    """`model`, which must have a tokenizer, for `lm_eval.simple_evaluate(model=HarnessModel(model), ...)`.

    The numbers are those of the harness's own model `hf` on the same weights, in fp32. `batch_tokens` bounds a forward
    pass (None: by the memory). `progress` is told (requests done, requests in all, task).

    By task: `seconds` is the time spent on its requests, `cut` the numbers of the documents that did not fit into the
    context and lost their beginning. `notes` is what the user should be told. Raises UserError for a model without
    tokenizer.
    """

    def __init__(
        self,
        model: LanguageModel,
        batch_tokens: int | None = None,
        progress: Callable[[int, int, str], None] | None = None,
    ) -> None:
        super().__init__()
        if model.tokenizer is None:
            raise UserError(f"The model in {model.folder} has no tokenizer: it takes token ids, not text.")
        self._device = model.model.device
        self.model, self.tokenizer = model, model.tokenizer
        self.batch_tokens = tokens_at_once(batch_tokens, model.model)
        self.progress = progress
        self.seconds: dict[str, float] = {}
        self.cut: dict[str, set[int | None]] = {}
        self.notes: list[str] = []

    @property
    def max_length(self) -> int:
        """The model's context length in tokens."""
        return self.model.model.config.context_length

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """For requests of (context, continuation) the log-likelihood of the continuation in nats, and whether greedy
        decoding would give it. A continuation without tokens is certain."""
        return self._by_task(requests, self._loglikelihood)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """For requests of (text,) the log-likelihood of the whole text in nats: each token once, in windows of the
        context length, of which the last goes back as far as it can."""
        return self._by_task(requests, self._rolling)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """For requests of (context, keywords) what the model goes on with, up to the first stop string. Raises
        UserError where the context length leaves no room for the context."""
        options = [GenerationOptions.read(request.args[1]) for request in requests]
        for request, asked in zip(requests, options, strict=True):
            asked.check(request.task_name, self.max_length)
            if asked.unused:
                self._note(f"{request.task_name} sets {', '.join(asked.unused)} for generation, which has no effect.")
        return self._by_task(requests, self._generate)

    def _by_task(
        self, requests: Sequence[Instance], answer: Callable[[Sequence[Instance], Tell], Sequence[Answer]]
    ) -> list[Answer]:
        """The answers in the order of the requests; computed task by task, so that each has a time of its own."""
        places: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            places.setdefault(request.task_name or "", []).append(place)
        found: dict[int, Answer] = {}
        for task, own in places.items():
            began = time.perf_counter()
            found |= zip(own, answer([requests[place] for place in own], self._telling(task, len(own))), strict=True)
            self.seconds[task] = self.seconds.get(task, 0.0) + time.perf_counter() - began
        return [found[place] for place in range(len(requests))]

    def _telling(self, task: str, total: int) -> Tell:
        def tell(done: int) -> None:
            if self.progress:
                self.progress(done, total, task)

        return tell

    def _loglikelihood(self, requests: Sequence[Instance], tell: Tell) -> list[tuple[float, bool]]:
        rows = []
        for request in requests:
            text, following = request.args
            context, continuation = pair_in_tokens(text, following, self.tokenizer, tuple(self.model.prefix))
            rows.append(Continuation.fitted(context, continuation, self.max_length) if continuation else None)
            if rows[-1] and rows[-1].cut:
                self._count_cut(request)
        scored = self._score([row for row in rows if row], tell)
        found = [next(scored) if row else Likelihood(0.0, True) for row in rows]
        return [(likelihood.logprob, likelihood.is_greedy) for likelihood in found]

    def _rolling(self, requests: Sequence[Instance], tell: Tell) -> list[float]:
        windows = [self._windows(*request.args) for request in requests]
        rows = [row for own in windows for row in own]
        scored = self._score(rows, lambda done: tell(done * len(requests) // len(rows)))
        return [math.fsum(next(scored).logprob for _ in own) for own in windows]

    def _windows(self, text: str) -> list[Continuation]:
        # Where the model's tokenizer begins every text with a token, the harness predicts that one too, after itself.
        ids = [*self.model.prefix, *self.tokenizer.encode(text)]
        start = self.model.prompt_ids("")[0]
        pairs = map(make_disjoint_window, get_rolling_token_windows(ids, start, self.max_length, context_len=1))
        return [Continuation(tuple(context), tuple(targets), False) for context, targets in pairs]

    def _score(self, rows: Sequence[Continuation], tell: Tell) -> Iterator[Likelihood]:
        found = loglikelihoods(self.model.model, rows, self.batch_tokens, progress=tell)
        return (likelihood for likelihood in found if likelihood)

    def _generate(self, requests: Sequence[Instance], tell: Tell) -> list[str]:
        asked: list[tuple[list[int], Request]] = []
        for number, request in enumerate(requests):
            context, told = request.args
            options = GenerationOptions.read(told)
            ids = self.model.prompt_ids(context)
            room = self.max_length - options.max_new_tokens
            if len(ids) > room:
                self._count_cut(request)
            # A seed for every request: a task that samples one question several times asks for different answers.
            new = Request(options.max_new_tokens, options.sampling, seed=number, stop=options.stops)
            asked.append((ids[-room:], new))
        engine = self.model.engine(len(asked), max(len(ids) + new.max_new_tokens for ids, new in asked))
        going = [engine.add(ids, new) for ids, new in asked]
        done = 0
        while engine.busy:
            done += sum(generation.finish_reason is not None for generation in engine.step())
            tell(done)
        return [
            self._text(generation, GenerationOptions.read(request.args[1]))
            for generation, request in zip(going, requests, strict=True)
        ]

    def _text(self, generation: Generation, options: GenerationOptions) -> str:
        """What was generated, up to the first stop string; decoded as a whole, since some tokenizers decode a first
        token apart."""
        ended = generation.ids[-1:] and generation.ids[-1] in self.model.ends
        text = self.tokenizer.decode(generation.ids[:-1] if ended else generation.ids)
        for stop in options.stops:  # one after the other, as the harness cuts: it shows where they overlap
            text = text.partition(stop)[0]
        return text

    def _count_cut(self, request: Instance) -> None:
        self.cut.setdefault(request.task_name or "", set()).add(request.doc_id)

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)
