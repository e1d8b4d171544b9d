"""Questions with several answers: how they are written in tokens, scored, and counted.

Two ways of scoring are common, and their figures can't be compared:

- "completion", of the original and of karpathy/build-nanogpt: the context and each answer are tokenised by themselves,
  and the normalised choice is by the mean log-likelihood per token;
- "lm-eval", of EleutherAI's lm-evaluation-harness: context and answer are tokenised together, and the normalised choice
  is by the log-likelihood per character of the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from gptcli.errors import UserError
from gptcli.evals.scoring import Continuation, Likelihood, loglikelihoods
from gptcli.evals.task import Progress
from gptcli.model.network import GPT
from gptcli.tokenizer import Tokenizer

Style = Literal["completion", "lm-eval"]


@dataclass(frozen=True)
class Question:
    """A context, its answers (each follows after a space), and the number of the right one. `index` is the question's
    place in the file, from 0."""

    index: int
    context: str
    answers: tuple[str, ...]
    label: int


@dataclass(frozen=True)
class Item:
    """A question in tokens. Nothing is empty. `lengths` are what the answers' log-likelihoods are divided by to
    normalise them."""

    index: int
    label: int
    context: tuple[int, ...]
    endings: tuple[tuple[int, ...], ...]
    lengths: tuple[int, ...]

    def continuations(self, context_length: int) -> list[Continuation]:
        """The answers, each after as much of the context as fits."""
        return [Continuation.fitted(self.context, ending, context_length) for ending in self.endings]


@dataclass(frozen=True)
class Scored:
    """What a model says to one question: its choice by the sum of the log-likelihoods, and by their normalised sum. A
    question with one answer only is chosen, 0, where the model would say just that by itself, else -1."""

    index: int
    label: int
    pred: int
    pred_norm: int
    loglikelihoods: tuple[float, ...]


def prepare(
    questions: Sequence[Question], tokenizer: Tokenizer, style: Style, prefix: Sequence[int] = ()
) -> list[Item]:
    """The questions in tokens. `prefix` is what the model's own tokenizer puts before every text, which lm-eval keeps.
    Raises UserError where the tokenizer has no way to write an answer."""
    if style == "completion":
        written = _written_apart(questions, tokenizer)
    else:
        written = _written_together(questions, tokenizer, tuple(prefix))
    items = []
    for question, (context, endings) in zip(questions, written, strict=True):
        if not all(endings):
            raise UserError(f"The tokenizer '{tokenizer.name}' can't encode the answers of example {question.index}.")
        lengths = [len(ending) for ending in (endings if style == "completion" else question.answers)]
        # An answer without text is divided by 1 rather than by nothing.
        items.append(Item(question.index, question.label, context, endings, tuple(max(1, n) for n in lengths)))
    return items


Written = tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]


def _written_apart(questions: Sequence[Question], tokenizer: Tokenizer) -> Iterable[Written]:
    contexts = tokenizer.encode_batch([question.context for question in questions])
    endings = iter(tokenizer.encode_batch([f" {answer}" for question in questions for answer in question.answers]))
    for question, context in zip(questions, contexts, strict=True):
        yield tuple(context) or (tokenizer.eot,), tuple(tuple(next(endings)) for _ in question.answers)


def _written_together(
    questions: Sequence[Question], tokenizer: Tokenizer, prefix: tuple[int, ...]
) -> Iterable[Written]:
    for question in questions:
        pairs = [pair_in_tokens(question.context, f" {answer}", tokenizer, prefix) for answer in question.answers]
        yield pairs[0][0], tuple(continuation for _, continuation in pairs)


def pair_in_tokens(
    context: str, continuation: str, tokenizer: Tokenizer, prefix: tuple[int, ...] = ()
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A context and what follows it, tokenised together and then cut where the context alone would end, as lm-eval has
    it: spaces at the end of the context go with the continuation, and without a context a document begins."""
    if not context:
        return prefix or (tokenizer.eot,), tuple(tokenizer.encode(continuation))
    bare = context.rstrip()
    alone = (*prefix, *tokenizer.encode(bare))
    whole = (*prefix, *tokenizer.encode(context + continuation))
    return alone or (tokenizer.eot,), whole[len(alone) :]


@torch.no_grad()
def score(
    model: GPT,
    items: Sequence[Item],
    batch_tokens: int,
    stop: Callable[[], bool] | None = None,
    progress: Progress | None = None,
) -> list[Scored]:
    """The model's choices, in the order of `items`; the model's mode is restored.

    `batch_tokens` bounds a forward pass and changes no choice. `stop` is asked before every batch; once it says yes,
    only the questions that are complete by then are returned.
    """
    rows = [row for item in items for row in item.continuations(model.config.context_length)]

    def tell(done: int) -> None:
        if progress:
            progress(done * len(items) // len(rows), len(items))

    found = iter(loglikelihoods(model, rows, batch_tokens, stop, tell))
    scored = []
    for item in items:
        likelihoods = [value for value in (next(found) for _ in item.endings) if value is not None]
        if len(likelihoods) == len(item.endings):
            scored.append(_choices(item, likelihoods))
    return scored


def _choices(item: Item, likelihoods: Sequence[Likelihood]) -> Scored:
    sums = tuple(likelihood.logprob for likelihood in likelihoods)
    if len(sums) == 1:
        said = 0 if likelihoods[0].is_greedy else -1
        return Scored(item.index, item.label, said, said, sums)
    normalised = [value / length for value, length in zip(sums, item.lengths, strict=True)]
    return Scored(item.index, item.label, _argmax(sums), _argmax(normalised), sums)


def _argmax(values: Sequence[float]) -> int:
    """Ties go to the first."""
    return max(range(len(values)), key=values.__getitem__)


def truncated(items: Sequence[Item], context_length: int) -> int:
    """How many questions have an answer that does not fit into the context length together with its context."""
    return sum(any(row.cut for row in item.continuations(context_length)) for item in items)
