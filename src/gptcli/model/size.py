"""How many parameters a network has, by part, without building it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

import torch

from gptcli.model.config import GPTConfig
from gptcli.model.network import GPT

PARTS = ("token embedding", "position embedding", "attention", "MLP", "norms", "head")


@lru_cache(maxsize=64)
def parameters_by_part(config: GPTConfig) -> Mapping[str, int]:
    """Parameters of each of `PARTS` that the network has; a head that shares the token embedding is not counted."""
    with torch.device("meta"):
        model = GPT(config)
    counted: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        counted[_part_of(name)] += parameter.numel()
    return MappingProxyType({part: counted[part] for part in PARTS if counted[part]})


@lru_cache(maxsize=64)
def hidden_parameters(config: GPTConfig) -> int:
    """Those in the matrices of the blocks, which Muon moves and low precision copies."""
    with torch.device("meta"):
        model = GPT(config)
    return sum(parameter.numel() for parameter in model.blocks.parameters() if parameter.dim() == 2)


def _part_of(name: str) -> str:
    if "norm" in name:
        return "norms"
    if "attention" in name:
        return "attention"
    if "mlp" in name:
        return "MLP"
    return name.partition(".")[0].replace("_", " ")
