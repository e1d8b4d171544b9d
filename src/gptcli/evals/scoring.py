"""Log-likelihoods of continuations after their contexts. What several continuations share, their context, is computed
once: they branch from it in one row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from gptcli.inference.logprobs import score_targets
from gptcli.model.documents import branching
from gptcli.model.network import GPT


@dataclass(frozen=True)
class Continuation:
    """`targets` after `context`, neither empty. `cut` says that the two were longer than the model's context and lost
    their beginning."""

    context: tuple[int, ...]
    targets: tuple[int, ...]
    cut: bool

    @classmethod
    def fitted(cls, context: Sequence[int], continuation: Sequence[int], context_length: int) -> Continuation:
        """`continuation` after `context` (neither empty), cut from the left to the model's context as lm-eval does. The
        last token is only predicted, so one more than the context fits. A continuation that is too long by itself is
        scored on its last `context_length` tokens."""
        tokens = (*context, *continuation)[-context_length - 1 :]
        n_targets = min(len(continuation), context_length)
        cut = len(context) + len(continuation) > context_length + 1
        return cls(tokens[:-n_targets], tokens[-n_targets:], cut)


@dataclass(frozen=True)
class Likelihood:
    """The sum of the log-probabilities of a continuation's targets, in nats, and whether each of them is the likeliest
    token at its place."""

    logprob: float
    is_greedy: bool


@dataclass(frozen=True)
class Tree:
    """A context and the continuations that branch from it: one row for the network. The last token of each is only
    predicted."""

    context: tuple[int, ...]
    branches: tuple[tuple[int, ...], ...]

    @property
    def size(self) -> int:
        """Tokens in the row."""
        return len(self.context) + sum(len(branch) - 1 for branch in self.branches)

    def row(self) -> list[int]:
        """The tokens that the network reads: the context, and the branches one after the other."""
        return [*self.context, *(token for branch in self.branches for token in branch[:-1])]

    def places(self) -> list[int]:
        """Where in the row each token of each branch is predicted: the first ones at the end of the context."""
        found, start = [], len(self.context)
        for branch in self.branches:
            found += [len(self.context) - 1, *range(start, start + len(branch) - 1)]
            start += len(branch) - 1
        return found


def loglikelihoods(
    model: GPT,
    rows: Sequence[Continuation],
    batch_tokens: int,
    stop: Callable[[], bool] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Likelihood | None]:
    """How likely the model finds each row; None for rows that `stop` left unscored. The model's mode is restored.

    `batch_tokens` bounds a forward pass. Rows that are alike are computed once, so that they can't differ by rounding.
    The longest come first: a batch that is too large for the memory shows at once. `progress` is told how many rows are
    done.
    """
    alike: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
    for number, row in enumerate(rows):
        alike.setdefault((row.context, row.targets), []).append(number)
    found: list[Likelihood | None] = [None] * len(rows)
    done = 0
    was_training = model.training
    model.eval()
    try:
        for batch in batches(trees(alike, batch_tokens), batch_tokens):
            if stop and stop():
                break
            for tree, values in zip(batch, _score(model, batch), strict=True):
                for branch, value in zip(tree.branches, values, strict=True):
                    for number in alike[tree.context, branch]:
                        found[number] = value
                        done += 1
            if progress:
                progress(done)
    finally:
        model.train(was_training)
    return found


def trees(rows: Iterable[tuple[tuple[int, ...], tuple[int, ...]]], batch_tokens: int) -> list[Tree]:
    """Gather rows, each context and targets, by their context; the longest come first. A context that has more to
    follow it than fits in `batch_tokens` comes several times."""
    by_context: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for context, targets in rows:
        by_context.setdefault(context, []).append(targets)
    found = []
    for context, branches in by_context.items():
        taken: list[tuple[int, ...]] = []
        size = len(context)
        for branch in branches:
            if taken and size + len(branch) - 1 > batch_tokens:
                found.append(Tree(context, tuple(taken)))
                taken, size = [], len(context)
            taken.append(branch)
            size += len(branch) - 1
        found.append(Tree(context, tuple(taken)))
    return sorted(found, key=lambda tree: tree.size, reverse=True)


def batches(rows: Sequence[Tree], batch_tokens: int) -> Iterator[list[Tree]]:
    """Cut rows, longest first, into batches of at most `batch_tokens` tokens with their padding, at least one row."""
    start = 0
    while start < len(rows):
        size = max(1, batch_tokens // rows[start].size)
        yield list(rows[start : start + size])
        start += size


@torch.inference_mode()
def _score(model: GPT, batch: Sequence[Tree]) -> list[list[Likelihood]]:
    """For each tree its branches' likelihoods."""
    longest = max(tree.size for tree in batch)
    # Padding on the right changes nothing: no position looks at those after it.
    padded = [tree.row() + [0] * (longest - tree.size) for tree in batch]
    documents = None
    if any(sum(len(branch) > 1 for branch in tree.branches) > 1 for tree in batch):
        lengths = [[len(branch) - 1 for branch in tree.branches] for tree in batch]
        documents = branching([len(tree.context) for tree in batch], lengths, model.device)
    hidden = model.hidden(torch.tensor(padded, device=model.device), documents=documents).flatten(0, 1)  # (B·T, C)
    where = [i * longest + place for i, tree in enumerate(batch) for place in tree.places()]
    branches = [branch for tree in batch for branch in tree.branches]
    targets = [token for branch in branches for token in branch]
    logprobs, likeliest = score_targets(
        model, hidden[torch.tensor(where, device=model.device)], torch.tensor(targets, device=model.device)
    )
    sizes = [len(branch) for branch in branches]
    # Added in fp64 on the CPU: the order of the terms then does not show in the sum.
    sums = [part.sum().item() for part in torch.split(logprobs.cpu().double(), sizes)]
    greedy = [bool(part.all()) for part in torch.split(likeliest.cpu(), sizes)]
    scored = iter([Likelihood(value, is_greedy) for value, is_greedy in zip(sums, greedy, strict=True)])
    return [[next(scored) for _ in tree.branches] for tree in batch]
