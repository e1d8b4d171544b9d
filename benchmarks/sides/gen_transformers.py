"""Greedy generation by `generate` of transformers, with its cache, in fp32."""

from __future__ import annotations

import torch
from transformers import GPT2LMHeadModel
from turns import Turns, given

from sides.gen_task import GenTask


def main() -> None:
    """Generate until nobody asks any more."""
    turns, task = Turns(), given(GenTask)
    turns.measure_memory()
    model = GPT2LMHeadModel.from_pretrained(task.model, dtype=torch.float32).eval()
    ids = torch.tensor(task.prompts)
    asked = {"max_new_tokens": task.new, "min_new_tokens": task.new, "do_sample": False, "pad_token_id": 0}
    with torch.inference_mode():
        while True:
            turns.next()
            model.generate(ids, attention_mask=torch.ones_like(ids), **asked)
