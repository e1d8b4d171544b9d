"""HellaSwag in completion style by `gpt eval`'s own engine."""

from __future__ import annotations

from pathlib import Path

from turns import Turns, given

from gptcli.evals.batching import batch_tokens
from gptcli.evals.hellaswag import HELLASWAG
from gptcli.evals.questions import prepare, score
from gptcli.inference.load import load
from sides.eval_task import EvalTask


def main() -> None:
    """Score until nobody asks any more."""
    turns, task = Turns(), given(EvalTask)
    turns.measure_memory()
    model = load(Path(task.model), device="cpu")
    ask = HELLASWAG.ask["completion"]
    assert model.tokenizer is not None
    at_once = batch_tokens(None, model.model)
    for rows in task.turns():
        turns.next()
        questions = [ask(row, index) for index, row in enumerate(rows)]
        score(model.model, prepare(questions, model.tokenizer, "completion"), at_once)
