"""HellaSwag, completion style: which of four endings does the model find likeliest after the context?

The scoring of the original and of karpathy/build-nanogpt: the raw context, a space and the ending, each tokenised by
itself; log-likelihoods are summed over the ending's tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch

from gptcli.errors import UserError
from gptcli.evals.hellaswag_data import Example, load_examples
from gptcli.evals.scoring import Continuation, loglikelihoods
from gptcli.evals.task import Measured, Progress, Scorer, Task
from gptcli.inference.language_model import LanguageModel
from gptcli.inference.load import ModelFacts
from gptcli.model.network import GPT
from gptcli.settings import EvalSettings
from gptcli.tokenizer import Tokenizer


@dataclass(frozen=True)
class Item:
    """An example in tokens. The context is never empty: without text it is the end-of-text token."""

    index: int
    label: int
    context: tuple[int, ...]
    endings: tuple[tuple[int, ...], ...]

    def continuations(self, context_length: int) -> list[Continuation]:
        """The four endings, each after as much of the context as fits."""
        return [Continuation.fitted(self.context, ending, context_length) for ending in self.endings]


@dataclass(frozen=True)
class Scored:
    """What a model says to one example: its choice by the sum of the log-likelihoods, and by their mean per token."""

    index: int
    label: int
    pred: int
    pred_norm: int
    loglikelihoods: tuple[float, ...]


@dataclass(frozen=True)
class Summary:
    """Accuracies and their standard errors, which one example does not have."""

    n: int
    acc: float
    acc_norm: float
    acc_stderr: float | None
    acc_norm_stderr: float | None


def subset(examples: Sequence[Example], n: int) -> list[Example]:
    """`n` examples at equal distances over the file, or all if there are fewer. The first ones would not do: the first
    third of the validation file is short ActivityNet text, the rest long WikiHow text."""
    n = min(n, len(examples))
    return [examples[i * len(examples) // n] for i in range(n)]


def prepare(examples: Sequence[Example], tokenizer: Tokenizer) -> list[Item]:
    """The examples in tokens. Raises UserError where the tokenizer has no way to write an ending."""
    contexts = tokenizer.encode_batch([example.ctx for example in examples])
    texts = [f" {ending}" for example in examples for ending in example.endings]
    endings = iter(tokenizer.encode_batch(texts))
    items = []
    for example, context in zip(examples, contexts, strict=True):
        tokens = tuple(tuple(next(endings)) for _ in example.endings)
        if not all(tokens):
            raise UserError(f"The tokenizer '{tokenizer.name}' can't encode HellaSwag's example {example.index}.")
        items.append(Item(example.index, example.label, tuple(context) or (tokenizer.eot,), tokens))
    return items


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
    only the examples that are complete by then are returned.
    """
    rows = [row for item in items for row in item.continuations(model.config.context_length)]
    per_item = [len(item.endings) for item in items]

    def tell(done: int) -> None:
        if progress:
            progress(done * len(items) // len(rows), len(items))

    sums = iter(loglikelihoods(model, rows, batch_tokens, stop, tell))
    lengths = iter(len(row.targets) for row in rows)
    scored = []
    for item, endings in zip(items, per_item, strict=True):
        likelihoods = [next(sums) for _ in range(endings)]
        tokens = [next(lengths) for _ in range(endings)]
        complete = [value for value in likelihoods if value is not None]
        if len(complete) == endings:
            means = [value / n for value, n in zip(complete, tokens, strict=True)]
            scored.append(Scored(item.index, item.label, _argmax(complete), _argmax(means), tuple(complete)))
    return scored


def _argmax(values: Sequence[float]) -> int:
    """Ties go to the first."""
    return max(range(len(values)), key=values.__getitem__)


def summarise(scored: Sequence[Scored]) -> Summary:
    """Accuracies over the examples, at least one."""
    assert scored, "no examples to summarise"
    n = len(scored)
    acc = sum(row.pred == row.label for row in scored) / n
    acc_norm = sum(row.pred_norm == row.label for row in scored) / n
    return Summary(n, acc, acc_norm, _standard_error(acc, n), _standard_error(acc_norm, n))


def _standard_error(p: float, n: int) -> float | None:
    """Of the mean of n zeros and ones, from their sample variance, as lm-eval has it."""
    return math.sqrt(p * (1 - p) / (n - 1)) if n > 1 else None


def truncated(items: Sequence[Item], context_length: int) -> int:
    """How many examples have an ending that does not fit into the context length together with its context."""
    return sum(any(row.cut for row in item.continuations(context_length)) for item in items)


def _prepare_task(settings: EvalSettings) -> Scorer:
    examples = load_examples(settings.data)[: settings.limit]

    def check(facts: ModelFacts) -> None:
        if facts.tokenizer is None:
            raise UserError(f"HellaSwag is text, and the model in {facts.folder} has no tokenizer that gpt knows.")
        if not facts.tokenizer.covers_all_text:
            lacking = f"HellaSwag has characters that the tokenizer '{facts.tokenizer.name}' does not know"
            raise UserError(
                f"{lacking}, which {facts.folder} was trained with.",
                "Measure the model on its own text: gpt eval loss --data-root FOLDER",
            )

    def measure(model: LanguageModel, progress: Progress) -> Measured:
        assert model.tokenizer is not None, "checked before"
        items = prepare(examples, model.tokenizer)
        scored = score(model.model, items, settings.batch_tokens, progress=progress)
        summary = summarise(scored)
        return Measured(
            n=summary.n,
            truncated=truncated(items, model.model.config.context_length),
            figures={
                "acc": summary.acc,
                "acc_norm": summary.acc_norm,
                "acc_stderr": summary.acc_stderr,
                "acc_norm_stderr": summary.acc_norm_stderr,
            },
            rows=[asdict(row) for row in scored],
        )

    return Scorer(check, measure)


HELLASWAG = Task(
    name="hellaswag",
    description="Which of four endings follows: accuracy, and accuracy by the mean per token.",
    style="completion",
    prepare=_prepare_task,
    saves_rows=True,
)
