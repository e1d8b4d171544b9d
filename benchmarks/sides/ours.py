"""`gpt train` itself, as one process runs it, with its data; between two steps it waits for its turn.

Time and memory are those that it logs.
"""

from __future__ import annotations

from pathlib import Path

from turns import Turns, given

from gptcli import train
from gptcli.settings import TrainSettings
from gptcli.training import metrics
from gptcli.training.events import Event, Started, StepDone
from gptcli.training.run_file import read
from sides.task import Task

NEVER = 10**9


def settings_of(task: Task) -> TrainSettings:
    """A run that does nothing beside its steps, but for one batch of validation before them."""
    return TrainSettings(
        preset="gpt2",
        n_layers=task.n_layers,
        n_heads=task.n_heads,
        emb_dim=task.emb_dim,
        context_length=task.context_length,
        vocab_size=task.vocab_size,
        n_tokens=task.n_tokens,
        n_batches=task.n_batches,
        total_batch_size=task.tokens,
        max_iters=NEVER,
        data_root=task.shards,
        log_dir=task.run,
        device="cpu",
        metrics=("none",),
        eval_every=NEVER,
        eval_iters=1,
        sample_every=NEVER,
        save_every=NEVER,
        keep_best=False,
    )


def main() -> None:
    """Train until nobody asks for a step any more."""
    turns, task = Turns(), given(Task)
    run = Path(task.run)

    def listen(event: Event) -> None:
        if isinstance(event, Started):
            resolved = (read(run) or {})["resolved"]
            turns.next(precision=resolved["precision"])
        if isinstance(event, StepDone):  # its time is taken by now, and the next one's not yet
            row = metrics.read(run / metrics.METRICS)[-1]
            turns.next(seconds=row["step_ms"] / 1000, peak=row["peak_memory_bytes"])

    train(settings_of(task), listen)
