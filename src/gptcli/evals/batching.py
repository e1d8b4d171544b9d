"""How many tokens a model reads in one pass when nobody says."""

from __future__ import annotations

import torch

from gptcli.distributed.machine_memory import free_memory
from gptcli.model.config import GPTConfig
from gptcli.model.network import GPT

# What is fastest: products of a few thousand rows are efficient on a processor, and beyond that only caches overflow; a
# GPU wants as many as it has units for.
_FASTEST = {"cpu": 2048}
_FASTEST_ELSEWHERE = 65_536
_SHARE = 0.5  # of the free memory: others live there too, and logits come on top


def batch_tokens(asked: int | None, model: GPT) -> int:
    """`asked`, or what is fastest on the model's device and fits into its memory."""
    if asked is not None:
        return asked
    fits = int(_SHARE * free_memory(model.device)) // bytes_per_token(model.config, model.final_norm.weight.dtype)
    return max(1, min(_FASTEST.get(model.device.type, _FASTEST_ELSEWHERE), fits))


def bytes_per_token(config: GPTConfig, dtype: torch.dtype) -> int:
    """What one token takes at the widest place of a pass without gradients: inside an MLP, before and after its
    activation, beside the residual stream and its normalised copy."""
    up = config.mlp_dim * (2 if config.mlp == "swiglu" else 1)
    return dtype.itemsize * (up + 2 * config.mlp_dim + 3 * config.emb_dim)
