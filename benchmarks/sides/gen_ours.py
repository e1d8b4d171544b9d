"""Greedy generation by the engine of `gpt generate`."""

from __future__ import annotations

from turns import Turns, given

from gptcli.inference.load import load
from sides.gen_task import GenTask


def main() -> None:
    """Generate until nobody asks any more."""
    turns, task = Turns(), given(GenTask)
    turns.measure_memory()
    model = load(task.model, task.weights, "cpu")
    request = model.request(max_new_tokens=task.new, temperature=0, stop_at_end=False)
    while True:
        turns.next(weights=model.weights)
        engine = model.engine(task.rows, task.prompt + task.new)
        for ids in task.prompts:
            engine.add(ids, request)
        while engine.busy:
            engine.step()
