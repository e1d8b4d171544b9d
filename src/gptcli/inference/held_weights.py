"""How the weights of a model are held in memory: fp32, bf16, or int8 with a scale for each row.

Only the matrices are reduced; the residual stream, the norms, attention and the logits stay in fp32.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from gptcli.errors import UsageError, nearest
from gptcli.inference.kernel_choice import fastest_way
from gptcli.inference.linears import Bf16Linear, Int8Head, Int8Linear, PlainLinear, Quantized, Way, packing, quantize
from gptcli.model.config import GPTConfig
from gptcli.model.huggingface import save_tensors
from gptcli.model.network import GPT, Block
from gptcli.settings import Weights


def check_weights(weights: str) -> None:
    """Raise UsageError for a name that weights can't have."""
    names = get_args(Weights)
    if weights not in names:
        close = nearest(weights, names)
        hint = f"Did you mean '{close}'?" if close else f"Known are {', '.join(names)}."
        raise UsageError(f"Weights can't be held as '{weights}'.", hint)


def hold_weights(model: GPT, weights: str, way: Way | None = None) -> None:
    """Replace the matrices of `model` by ones held as `weights` ("fp32", "bf16", "int8") says, in place; by default in
    the fastest way on this machine (`kernel_choice.py`)."""
    first = model.blocks[0]
    assert isinstance(first, Block)
    way = way or fastest_way(weights, first.mlp.up, len(model.blocks))
    if way is PlainLinear:
        return
    if weights != "fp32":
        model.requires_grad_(False)  # reduced weights are for use, not for training
    if weights == "int8":
        quantize_model(model)
    _replace(_linears(model), way)
    # bf16 is too coarse for logits, so that in its case the head stays as it is.
    if way is not Bf16Linear:
        model.add_module("head", (Int8Head if issubclass(way, Int8Linear) else way)(model.head))


def quantize_model(model: GPT) -> None:
    """Round every matrix of `model` to int8, in place, which leaves it to be held in some way; nothing for a model that
    is so already."""
    if isinstance(model.head, Quantized):
        return
    table = quantize(model.token_embedding.weight.detach())
    head = table if model.config.tie_embeddings else quantize(model.head.weight.detach())
    _replace(_linears(model), Quantized.of)
    model.add_module("head", Quantized(*head, None))
    model.add_module("token_embedding", Int8Embedding(*table))


def write_quantized(model: GPT, file: Path) -> None:
    """Write a model that `quantize_model` has rounded, to be read by `read_quantized`. Raises OSError."""
    tensors = model.state_dict()
    if model.config.tie_embeddings:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}
    save_tensors(tensors, file)


def read_quantized(config: GPTConfig, file: Path) -> GPT:
    """The model in a file of `write_quantized`. Raises OSError and SafetensorError."""
    tensors = load_file(file)
    with torch.device("meta"):
        model = GPT(config)

    def table(name: str) -> tuple[Tensor, Tensor]:
        return tensors.pop(f"{name}.weight"), tensors.pop(f"{name}.scale")

    for parent, path, name in _linears(model):
        parent.add_module(name, Quantized(*table(path), tensors.pop(f"{path}.bias", None)))
    rows = table("token_embedding")
    model.add_module("token_embedding", Int8Embedding(*rows))
    model.add_module("head", Quantized(*(rows if config.tie_embeddings else table("head")), None))
    model.load_state_dict(tensors, assign=True, strict=False)
    return model.eval()


def _linears(model: GPT) -> list[tuple[nn.Module, str, str]]:
    """The linear layers in the blocks: the module that holds each, its path in the model and its name there."""
    return [
        (model.get_submodule(path.rpartition(".")[0]), path, path.rpartition(".")[2])
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and path != "head"
    ]


def _replace(linears: list[tuple[nn.Module, str, str]], by: Callable[[nn.Linear], nn.Module]) -> None:
    """Each by its own, at once, so that the model is never held twice."""

    def replace(linear: tuple[nn.Module, str, str]) -> None:
        parent, _, name = linear
        old = parent.get_submodule(name)
        assert isinstance(old, nn.Linear)
        parent.add_module(name, by(old))

    with packing(), ThreadPoolExecutor(torch.get_num_threads()) as pool:  # packing is the work of one thread
        list(pool.map(replace, linears))


class Int8Embedding(nn.Module):
    """An embedding whose rows are int8, each with a scale of its own."""

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.weight: Tensor
        self.scale: Tensor
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)

    def forward(self, ids: Tensor) -> Tensor:
        return self.weight[ids].float() * self.scale[ids]
