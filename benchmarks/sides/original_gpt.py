"""The trainer of gpt-from-scratch 1.1 itself, in its own environment; between two steps it waits for its turn.

Its model has an untied head, its trainer computes in bf16 on every device, and AdamW is not fused on a CPU. Where a CPU
has no instructions for bf16 that is most of what its step takes; told to be in fp32 it is the same without autocast.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from gpt_from_scratch.dataset import DataLoader, DataLoaderConfig
from gpt_from_scratch.models import GPT, GPTConfig
from gpt_from_scratch.trainers.trainer import Trainer
from turns import Turns, given

from sides.task import Task


class InTurns:
    """A loader of batches that waits for its turn before each: from one batch to the next is one step."""

    def __init__(self, loader: DataLoader, turns: Turns) -> None:
        self.cfg, self.reset = loader.cfg, loader.reset
        self._loader, self._turns = loader, turns

    def next_batch(self) -> Any:
        self._turns.next()
        return self._loader.next_batch()


class StepsOnly(Trainer):
    """The trainer without its validation and HellaSwag. It still writes a sample after the first step, which only warms
    up here."""

    def validate(self, *_: Any) -> None:
        pass

    def evaluate(self, *_: Any) -> None:
        pass


def main() -> None:
    """Train until nobody asks for a step any more, with the defaults of its script."""
    turns, task = Turns(), given(Task)
    if task.precision == "fp32":
        torch.autocast = lambda **_: nullcontext()
    loader = DataLoader(DataLoaderConfig(task.n_batches, task.n_tokens, task.shards, 0, 1, True, "train"))
    turns.measure_memory()
    config = GPTConfig(
        vocab_size=task.vocab_size,
        emb_dim=task.emb_dim,
        context_length=task.context_length,
        n_layers=task.n_layers,
        n_heads=task.n_heads,
        qkv_bias=True,
    )
    model = GPT(config)
    StepsOnly(model, InTurns(loader, turns), raw_model=model, log_dir=task.run).train()
