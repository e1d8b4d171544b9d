"""A task of questions as a few lines of data: where they lie, how one is made of a row, how the choices are counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

from gptcli.distributed.group import Group
from gptcli.errors import UserError
from gptcli.evals.batching import batch_tokens
from gptcli.evals.origin import Origin, Row, locate, read
from gptcli.evals.questions import Item, Question, Scored, Style, prepare, score, truncated
from gptcli.evals.statistics import interval, standard_error
from gptcli.evals.task import Figure, Measured, Progress, Scorer, Task
from gptcli.inference.language_model import LanguageModel
from gptcli.inference.load import ModelFacts
from gptcli.settings import EvalSettings

Ask = Callable[[Row, int], Question]
Count = Callable[[Sequence[Scored]], tuple[dict[str, Figure], dict[str, tuple[float, float]]]]


@dataclass(frozen=True)
class QuestionTask:
    """`columns` are what a row needs to have; `ask` makes a question of a row and its number, for each style of
    scoring, and raises ValueError with what is wrong with the row; `count` makes figures of what was scored, and the
    95% intervals of some."""

    name: str
    title: str
    description: str
    origin: Origin
    columns: tuple[str, ...]
    ask: Mapping[Style, Ask]
    count: Count

    def task(self) -> Task:
        """The entry of the registry."""
        return Task(self.name, self.description, tuple(self.ask), self._prepare)

    def questions(
        self, style: Style, path: str | None = None, *, offline: bool = False, option: str = "--data",
        seconds: float | None = None,
    ) -> tuple[list[Question], bool]:  # fmt: skip
        """All questions, and whether they are as they were published. Raises as `locate` and `read` do."""
        rows = locate(self.origin, path, offline=offline, option=option, seconds=seconds)
        return read(rows, partial(self._parse, self.ask[style]), option), rows.is_published

    def _parse(self, ask: Ask, row: Row, index: int) -> Question | str:
        """A question, or what is wrong with its row."""
        if missing := [column for column in self.columns if column not in row]:
            return f"it has no {', no '.join(missing)}"
        try:
            return ask(row, index)
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            return f"it is no question of {self.title}: {error}"

    def check(self, facts: ModelFacts) -> None:
        """Raise UserError for a model that can't read the questions."""
        if facts.tokenizer is None:
            raise UserError(f"{self.title} is text, and the model in {facts.folder} has no tokenizer that gpt knows.")
        if not facts.tokenizer.covers_all_text:
            raise UserError(
                f"{self.title} has characters that the tokenizer '{facts.tokenizer.name}' does not know, which "
                f"{facts.folder} was trained with.",
                "Measure the model on its own text: gpt eval loss --data-root FOLDER",
            )

    def _prepare(self, settings: EvalSettings, named: str) -> Scorer:
        style = next(style for style in self.ask if style == named)
        questions, is_published = self.questions(style, settings.data, offline=settings.offline)
        questions = questions[: settings.limit]

        def measure(model: LanguageModel, group: Group, progress: Progress) -> Measured:
            assert model.tokenizer is not None, "checked before"
            items = prepare(questions, model.tokenizer, style, model.prefix)
            scored = score_shared(model, items, batch_tokens(settings.batch_tokens, model.model), group, progress)
            figures, intervals = self.count(scored)
            return Measured(
                n=len(scored),
                truncated=truncated(items, model.model.config.context_length),
                figures=figures,
                intervals=intervals,
                rows=[asdict(row) for row in scored],
            )

        return Scorer(self.check, measure, is_published)


def score_shared(
    model: LanguageModel, items: Sequence[Item], at_once: int, group: Group, progress: Progress
) -> list[Scored]:
    """What the processes of the group score together, `at_once` tokens each, in the order of the items, on all of
    them."""
    ranks = group.ranks
    own = score(model.model, items[ranks.rank :: ranks.world_size], at_once, progress=progress)
    return sorted((row for part in group.gather(own) for row in part), key=lambda row: row.index)


def count_right(scored: Sequence[Scored]) -> dict[str, int]:
    """How many choices are right: `acc`, and by normalised likelihoods `acc_norm`."""
    return {
        "acc": sum(row.pred == row.label for row in scored),
        "acc_norm": sum(row.pred_norm == row.label for row in scored),
    }


def count_choices(scored: Sequence[Scored]) -> tuple[dict[str, Figure], dict[str, tuple[float, float]]]:
    """Accuracies, their standard errors and their intervals."""
    n, right = len(scored), count_right(scored)
    figures: dict[str, Figure] = {name: found / n for name, found in right.items()}
    figures |= {f"{name}_stderr": standard_error(found / n, n) for name, found in right.items()}
    return figures, {name: interval(found, n) for name, found in right.items()}
