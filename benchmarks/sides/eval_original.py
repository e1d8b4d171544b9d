"""The evaluator of gpt-from-scratch 1.1 as shipped, on its own network with random weights: bf16 on every device. Told
to be in fp32 it is the same without autocast."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from gpt_from_scratch.metrics import hellaswag
from gpt_from_scratch.models import GPT, GPTConfig
from turns import Turns, given

from sides.eval_task import EvalTask


def main() -> None:
    """Score until nobody asks any more."""
    turns, task = Turns(), given(EvalTask)
    if task.precision == "fp32":
        torch.autocast = lambda **_: nullcontext()
    turns.measure_memory()
    model = GPT(GPTConfig(vocab_size=50_304, emb_dim=768, context_length=1024, n_layers=12, n_heads=12, qkv_bias=True))
    model.eval()
    for rows in task.turns():
        hellaswag.iterate_examples = lambda split, rows=rows: rows
        turns.next()
        hellaswag.hellaswag_evaluation(model, 1, 0, "cpu", "cpu")
