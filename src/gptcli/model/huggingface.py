"""The network in Hugging Face's names and layout, there and back, exact to the bit.

A checkpoint is written as `transformers` writes the architecture that the network is of (`formats/`): `config.json`,
`generation_config.json` and `model.safetensors`.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gptcli.errors import Fault, UserError
from gptcli.model.config import GPTConfig
from gptcli.model.files import CONFIG, GENERATION_CONFIG, WEIGHTS, read_config, read_json, weight_files
from gptcli.model.formats import format_of, stored_tensors
from gptcli.model.formats.gpt2 import MISSING_BIASES
from gptcli.model.locate import damage_hint
from gptcli.model.network import GPT


def to_huggingface(config: GPTConfig, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`weights` in our names (a `state_dict` of `GPT`) as fp32 tensors in theirs, in memory of their own on the CPU."""
    out: dict[str, Tensor] = {}
    for stored in stored_tensors(config):
        weight = weights[stored.ours].detach()
        parts = torch.split(weight, list(stored.heights)) if stored.heights else (weight,)
        for name, part in zip(stored.theirs, parts, strict=True):
            part = part.T if stored.transposed else part
            out[name] = torch.empty(part.shape).copy_(part)
    return out | {name: torch.zeros(shape) for name, shape in format_of(config).zeros(config).items()}


def from_huggingface(config: GPTConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The `state_dict` of a `GPT` from tensors in their names, with or without the format's prefix.

    Raises UserError naming every tensor that is missing, has another shape than `config` says, or belongs to a layer
    and has no place in the network.
    """
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in GPT(config).state_dict().items()}
    prefix = format_of(config).prefix
    found: dict[str, Tensor] = {}
    faults: list[Fault] = []
    for stored in stored_tensors(config):
        shape = shapes[stored.ours]
        parts = []
        for name, height in zip(stored.theirs, stored.heights or (shape[0],), strict=True):
            part = tensors.get(name, tensors.get(name.removeprefix(prefix)))
            if part is None:
                faults.append(Fault(f"The weights hold no tensor called {name}."))
                continue
            part = part.T if stored.transposed else part
            expected = (height, *shape[1:])
            if part.shape != expected:
                faults.append(Fault(f"{name} has shape {tuple(part.shape)}, not {expected}."))
            parts.append(part)
        if not faults:
            found[stored.ours] = parts[0] if len(parts) == 1 else torch.cat(parts)
    faults += [
        Fault(f"The weights hold {name}, which a network of this shape has no place for.")
        for name in _surplus(config, tensors)
    ]
    if faults:
        raise UserError(faults=faults)
    if config.tie_embeddings:
        found["head.weight"] = found["token_embedding.weight"]
    return found


def _surplus(config: GPTConfig, tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors in a layer that are neither weights of ours nor what older files keep beside theirs."""
    format = format_of(config)
    names = {name for stored in format.tensors(config) for name in stored.theirs} | format.zeros(config).keys()
    known = {name.removeprefix(format.prefix) for name in names}
    buffers = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")
    return [
        name
        for name in tensors
        if (short := name.removeprefix(format.prefix)) not in known
        and short.startswith(("h.", "layers."))
        and not short.endswith(buffers)
    ]


def write_model(folder: Path, model: GPT, eot: int | None) -> None:
    """Write weights and configuration of `model` into `folder`. `eot` is the end-of-text id, None where there is no
    tokenizer."""
    write_tensors(folder, model.config, to_huggingface(model.config, model.state_dict()), eot)


def write_tensors(folder: Path, config: GPTConfig, tensors: dict[str, Tensor], eot: int | None) -> None:
    """The same with weights that `to_huggingface` made."""
    save_tensors(tensors, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(describe(config, eot), indent=2) + "\n", encoding="utf-8")
    generation = {"bos_token_id": eot, "eos_token_id": eot, "pad_token_id": eot, "do_sample": True}
    (folder / GENERATION_CONFIG).write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")


def save_tensors(tensors: dict[str, Tensor], file: Path) -> None:
    """Write a safetensors file that may be read by whoever may read the files beside it."""
    file.touch()  # with the permissions of any new file; the library writes one that is private and renames it
    permissions = stat.S_IMODE(file.stat().st_mode)
    save_file(tensors, file, metadata={"format": "pt"})
    file.chmod(permissions)


def describe(config: GPTConfig, eot: int | None) -> dict[str, Any]:
    """The `config.json` of a network with this shape, what the format would default written out."""
    shared = {"bos_token_id": eot, "eos_token_id": eot, "use_cache": True, "dtype": "float32"}
    return format_of(config).describe(config) | shared


def read_shape(folder: Path) -> GPTConfig:
    """The shape of the network in a folder, whose weights are not read but for the biases that may be missing.

    Raises UserError for files that are missing or damaged.
    """
    config, _ = read_config(folder)
    marked = read_json(folder / CONFIG).get(MISSING_BIASES, [])
    if not marked:
        return config
    # Our mark says that the model has no such biases; it holds while they are still zero.
    biases = read_tensors(folder, lambda name: name.endswith(tuple(f"{module}.bias" for module in marked)))
    alive = {name for name, bias in biases.items() if bool(bias.count_nonzero())}
    of_qkv = {name for name in alive if name.endswith("attn.c_attn.bias")}
    return replace(config, qkv_bias=config.qkv_bias or bool(of_qkv), bias=config.bias or bool(alive - of_qkv))


def read_model(folder: Path, drop_rate: float | None = None) -> GPT:
    """The network in a Hugging Face folder, in fp32 on the CPU, in evaluation mode; `drop_rate` replaces its own.

    Raises UserError for files that are missing, damaged or don't fit together.
    """
    config = read_shape(folder)
    if drop_rate is not None:
        config = replace(config, drop_rate=drop_rate)
    weights = from_huggingface(config, read_tensors(folder))
    with torch.device("meta"):
        model = GPT(config)
    model.load_state_dict({name: tensor.float().contiguous() for name, tensor in weights.items()}, assign=True)
    if config.tie_embeddings:
        model.head.weight = model.token_embedding.weight
    return model.requires_grad_(True).eval()


def read_tensors(folder: Path, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, Tensor]:
    """The `wanted` tensors of a folder's safetensors file, or of the several that its index names.

    Raises UserError when they are missing or damaged. Pickled weights are never opened: they can run code.
    """
    tensors: dict[str, Tensor] = {}
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="pt") as opened:
                tensors |= {name: opened.get_tensor(name) for name in opened.keys() if wanted(name)}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise UserError(f"{file} is damaged or can't be read: {error}.", damage_hint(folder)) from error
    return tensors
