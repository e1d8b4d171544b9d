"""Two models on the same questions: which answers only one of them gets right, and whether that may be chance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations

from gptcli.evals.statistics import mcnemar
from gptcli.evals.task import Row, TaskResult

_CHOICES = {"acc": "pred", "acc_norm": "pred_norm"}  # figures, and the key of a row that tells what was chosen


@dataclass(frozen=True)
class Comparison:
    """Of `n` questions of one task, counted as in `figure`: `only_first` are answered rightly by the model `first`
    alone, `only_second` by `second` alone. `p` is the probability of a difference at least as large between models that
    are equally good (McNemar's exact test)."""

    task: str
    style: str
    figure: str
    first: str
    second: str
    n: int
    only_first: int
    only_second: int
    p: float

    def as_dict(self) -> dict[str, object]:
        """What `gpt eval --json` prints."""
        return asdict(self)


def compare(results: Sequence[TaskResult]) -> list[Comparison]:
    """Every two models on each task that has right answers."""
    return [
        comparison
        for first, second in combinations(results, 2)
        if (first.task, first.style) == (second.task, second.style) and first.measured.rows
        for comparison in _compare(first, second)
    ]


def _compare(first: TaskResult, second: TaskResult) -> Iterator[Comparison]:
    pairs = list(zip(first.measured.rows, second.measured.rows, strict=True))
    for figure, choice in _CHOICES.items():
        if figure in first.measured.figures:
            right = [(_is_right(one, choice), _is_right(other, choice)) for one, other in pairs]
            alone, other = right.count((True, False)), right.count((False, True))
            yield Comparison(
                first.task, first.style, figure, first.model, second.model, len(pairs), alone, other,
                mcnemar(alone, other),
            )  # fmt: skip


def _is_right(row: Row, choice: str) -> bool:
    return row[choice] == row["label"]
