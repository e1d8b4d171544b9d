"""Log-likelihoods of continuations after their contexts, in batches of padded rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from gptcli.inference.logprobs import target_logprobs
from gptcli.model.network import GPT


@dataclass(frozen=True)
class Continuation:
    """A row for the network: `inputs`, and the `targets` that its last positions are to predict. `cut` says that it was
    longer than the context and lost its beginning."""

    inputs: tuple[int, ...]
    targets: tuple[int, ...]
    cut: bool

    @classmethod
    def fitted(cls, context: Sequence[int], continuation: Sequence[int], context_length: int) -> Continuation:
        """`continuation` after `context` (neither empty), cut from the left to the model's context as lm-eval does. The
        last token is only predicted, so one more than the context fits. A continuation that is too long by itself is
        scored on its last `context_length` tokens."""
        tokens = (*context, *continuation)
        inputs = tokens[:-1][-context_length:]
        targets = tuple(continuation[-context_length:])
        return cls(inputs, targets, cut=len(tokens) - 1 > context_length)


def loglikelihoods(
    model: GPT,
    rows: Sequence[Continuation],
    batch_tokens: int,
    stop: Callable[[], bool] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[float | None]:
    """The sum of the log-probabilities of each row's targets, in nats; None for rows that `stop` left unscored.

    Rows that are alike are computed once, so that they can't differ by rounding. The longest come first: a batch that
    is too large for the memory shows at once. `progress` is told how many rows are done.
    """
    alike: dict[Continuation, list[int]] = {}
    for number, row in enumerate(rows):
        alike.setdefault(row, []).append(number)
    sums: list[float | None] = [None] * len(rows)
    done = 0
    was_training = model.training
    model.eval()
    try:
        for batch in batches(sorted(alike, key=lambda row: len(row.inputs), reverse=True), batch_tokens):
            if stop and stop():
                break
            for row, value in zip(batch, _sums(model, batch), strict=True):
                for number in alike[row]:
                    sums[number] = value
                done += len(alike[row])
            if progress:
                progress(done)
    finally:
        model.train(was_training)
    return sums


def batches(rows: Sequence[Continuation], batch_tokens: int) -> Iterator[list[Continuation]]:
    """Cut rows, longest first, into batches of at most `batch_tokens` tokens with their padding, at least one row."""
    start = 0
    while start < len(rows):
        size = max(1, batch_tokens // len(rows[start].inputs))
        yield list(rows[start : start + size])
        start += size


@torch.inference_mode()
def _sums(model: GPT, batch: Sequence[Continuation]) -> list[float]:
    longest = max(len(row.inputs) for row in batch)
    # Padding on the right changes nothing: no position looks at those after it.
    padded = [row.inputs + (0,) * (longest - len(row.inputs)) for row in batch]
    hidden = model.hidden(torch.tensor(padded, device=model.device)).flatten(0, 1)  # (B·T, C)
    ends = [i * longest + len(row.inputs) for i, row in enumerate(batch)]
    where = [p for end, row in zip(ends, batch, strict=True) for p in range(end - len(row.targets), end)]
    targets = [token for row in batch for token in row.targets]
    logprobs = target_logprobs(
        model, hidden[torch.tensor(where, device=model.device)], torch.tensor(targets, device=model.device)
    )
    # Added in fp64 on the CPU: the order of the terms then does not show in the sum.
    parts = torch.split(logprobs.cpu().double(), [len(row.targets) for row in batch])
    return [part.sum().item() for part in parts]
