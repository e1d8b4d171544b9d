"""A step of transformers' GPT-2, in fp32, as its Trainer takes it when nothing is asked for.

Fused AdamW, the norm of the gradient clipped to 1, no cache of keys and values; the loss is the model's own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel, TrainingArguments
from turns import Turns, given

from sides.task import Task

OPTIMIZER = "adamw_torch_fused"  # the default of TrainingArguments, which is checked


def build(task: Task) -> GPT2LMHeadModel:
    """The model with its first weights, in training mode."""
    config = GPT2Config(
        vocab_size=task.vocab_size,
        n_positions=task.context_length,
        n_embd=task.emb_dim,
        n_layer=task.n_layers,
        n_head=task.n_heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
        attn_implementation="sdpa",
    )
    model = GPT2LMHeadModel(config).train()
    assert (model.dtype, model.config._attn_implementation) == (torch.float32, "sdpa")
    return model


def main() -> None:
    """Build, and step for step on the next batch of the shard."""
    turns, task = Turns(), given(Task)
    defaults = {name: field.default for name, field in TrainingArguments.__dataclass_fields__.items()}
    if defaults["optim"] != OPTIMIZER:
        raise SystemExit(f"Trainer's default is {defaults['optim']} now, not {OPTIMIZER}.")
    data = np.load(Path(task.shards) / "train_000001.npy", mmap_mode="r")
    turns.measure_memory()
    model = build(task)
    betas = (defaults["adam_beta1"], defaults["adam_beta2"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=defaults["learning_rate"], betas=betas, fused=True)
    start = 0
    while True:
        turns.next()
        ids = torch.from_numpy(data[start : start + task.tokens].astype(np.int64)).view(task.n_batches, -1)
        start = (start + task.tokens) % (len(data) - task.tokens)
        model(input_ids=ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), defaults["max_grad_norm"])
        optimizer.step()
        optimizer.zero_grad()
