"""The network in Hugging Face's names and layout, there and back, exact to the bit.

A checkpoint is written as `transformers` writes a `GPT2LMHeadModel`: `config.json`, `generation_config.json` and
`model.safetensors`. GPT-2's linear layers are stored transposed there (`Conv1D`, (in, out)), ours are (out, in).
"""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gptcli.errors import Fault, UserError
from gptcli.model.config import GPTConfig
from gptcli.model.locate import damage_hint
from gptcli.model.network import GPT, INIT_STD, LAYER_NORM_EPS

WEIGHTS, WEIGHTS_INDEX, CONFIG, GENERATION_CONFIG = (
    "model.safetensors",
    "model.safetensors.index.json",
    "config.json",
    "generation_config.json",
)
MISSING_BIASES = "gptcli_missing_biases"  # key in config.json: these biases are zeros that our model does not have
_BLOCK = {"norm1": "ln_1", "attention.qkv": "attn.c_attn", "attention.proj": "attn.c_proj",
          "norm2": "ln_2", "mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj"}  # fmt: skip
_TOP = {"token_embedding": "transformer.wte", "position_embedding": "transformer.wpe",
        "final_norm": "transformer.ln_f", "head": "lm_head"}  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """Where one of our tensors lies in the format: its name, and whether as (in, out) where ours is (out, in)."""

    ours: str
    theirs: str
    transposed: bool


def stored_tensors(config: GPTConfig) -> Iterator[Stored]:
    """All tensors that the network has, but for the head where it is the token embedding."""
    with torch.device("meta"):
        names = GPT(config).state_dict().keys()
    for ours, theirs in _modules(config):
        for kind in ("weight", "bias"):
            tied = ours == "head" and config.tie_embeddings
            if f"{ours}.{kind}" in names and not tied:
                transposed = kind == "weight" and ours.startswith("blocks.") and ".norm" not in ours
                yield Stored(f"{ours}.{kind}", f"{theirs}.{kind}", transposed)


def _modules(config: GPTConfig) -> Iterator[tuple[str, str]]:
    """Our name and theirs for every module that has weights."""
    yield from _TOP.items()
    for i in range(config.n_layers):
        for ours, theirs in _BLOCK.items():
            yield f"blocks.{i}.{ours}", f"transformer.h.{i}.{theirs}"


def to_huggingface(config: GPTConfig, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`weights` in our names (a `state_dict` of `GPT`) as fp32 tensors in theirs, in memory of their own on the CPU."""
    out: dict[str, Tensor] = {}
    for tensor in stored_tensors(config):
        weight = weights[tensor.ours].detach()
        weight = weight.T if tensor.transposed else weight
        out[tensor.theirs] = torch.empty(weight.shape).copy_(weight)
    if not config.qkv_bias:
        out |= {f"transformer.h.{i}.attn.c_attn.bias": torch.zeros(3 * config.emb_dim) for i in range(config.n_layers)}
    return out


def from_huggingface(config: GPTConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The `state_dict` of a `GPT` from tensors in their names, with or without the prefix `transformer.`.

    Raises UserError naming every tensor that is missing or has another shape than `config` says.
    """
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in GPT(config).state_dict().items()}
    found: dict[str, Tensor] = {}
    faults: list[Fault] = []
    for stored in stored_tensors(config):
        tensor = tensors.get(stored.theirs, tensors.get(stored.theirs.removeprefix("transformer.")))
        if tensor is None:
            faults.append(Fault(f"The weights hold no tensor called {stored.theirs}."))
            continue
        tensor = tensor.T if stored.transposed else tensor
        if tensor.shape != shapes[stored.ours]:
            expected = tuple(shapes[stored.ours])
            faults.append(Fault(f"{stored.theirs} has shape {tuple(tensor.shape)}, not {expected}."))
        found[stored.ours] = tensor
    if faults:
        raise UserError(faults=faults)
    if config.tie_embeddings:
        found["head.weight"] = found["token_embedding.weight"]
    return found


def write_model(folder: Path, model: GPT, eot: int | None) -> None:
    """Write weights and configuration of `model` into `folder`. `eot` is the end-of-text id, None where there is no
    tokenizer."""
    write_tensors(folder, model.config, to_huggingface(model.config, model.state_dict()), eot)


def write_tensors(folder: Path, config: GPTConfig, tensors: dict[str, Tensor], eot: int | None) -> None:
    """The same with weights that `to_huggingface` made."""
    save_tensors(tensors, folder / WEIGHTS)
    described = describe(config, eot)
    if not config.qkv_bias:
        described[MISSING_BIASES] = ["attn.c_attn"]
    (folder / CONFIG).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    generation = {"bos_token_id": eot, "eos_token_id": eot, "pad_token_id": eot, "do_sample": True}
    (folder / GENERATION_CONFIG).write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")


def save_tensors(tensors: dict[str, Tensor], file: Path) -> None:
    """Write a safetensors file that may be read by whoever may read the files beside it."""
    file.touch()  # with the permissions of any new file; the library writes one that is private and renames it
    permissions = stat.S_IMODE(file.stat().st_mode)
    save_file(tensors, file, metadata={"format": "pt"})
    file.chmod(permissions)


def describe(config: GPTConfig, eot: int | None) -> dict[str, Any]:
    """The `config.json` of a GPT-2 with this shape, what the format would default written out."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_positions": config.context_length,
        "n_ctx": config.context_length,
        "n_embd": config.emb_dim,
        "n_layer": config.n_layers,
        "n_head": config.n_heads,
        "n_inner": 4 * config.emb_dim,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": LAYER_NORM_EPS,
        "initializer_range": INIT_STD,
        "resid_pdrop": config.drop_rate,
        "embd_pdrop": config.drop_rate,
        "attn_pdrop": config.drop_rate,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": eot,
        "eos_token_id": eot,
        "use_cache": True,
        "dtype": "float32",
    }


def read_config(folder: Path) -> tuple[GPTConfig, int | None]:
    """The shape and the end-of-text id that a folder's `config.json` tells, biases assumed where the format has them.

    Raises UserError for a missing or damaged file and for a network that this one can't express.
    """
    try:
        told = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        config = GPTConfig(
            vocab_size=told["vocab_size"],
            emb_dim=told["n_embd"],
            context_length=told["n_positions"],
            n_layers=told["n_layer"],
            n_heads=told["n_head"],
            qkv_bias=True,
            drop_rate=float(told.get("resid_pdrop", 0.1)),
            tie_embeddings=bool(told.get("tie_word_embeddings", True)),
        )
    except FileNotFoundError as error:
        raise UserError(f"{folder} holds no {CONFIG}.", "Name a run, a checkpoint or a Hugging Face folder.") from error
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, KeyError) and told.get("model_type") != "gpt2":
            kind = told.get("model_type", "unknown")
            raise UserError(f"{folder} holds a model of type '{kind}'; GPT-2 models can be read.") from error
        raise UserError(f"{folder / CONFIG} is damaged: {error}.") from error
    expected = {
        "model_type": ("gpt2",),
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
        "n_inner": (None, 4 * config.emb_dim),
        "layer_norm_epsilon": (LAYER_NORM_EPS,),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
    }
    faults = [
        Fault(f"{folder / CONFIG}: {key} is {told[key]!r}; only {allowed[-1]!r} can be read.")
        for key, allowed in expected.items()
        if told.get(key, allowed[0]) not in allowed
    ]
    if faults:
        raise UserError(faults=faults)
    return config, told.get("eos_token_id")


def read_shape(folder: Path) -> GPTConfig:
    """The shape of the network in a folder, whose weights are not read but for the biases that may be missing.

    Raises UserError for files that are missing or damaged.
    """
    config, _ = read_config(folder)
    told = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if "attn.c_attn" not in told.get(MISSING_BIASES, []):
        return config
    # Our mark says that the model has no such biases; it holds while they are still zero.
    biases = read_tensors(folder, lambda name: name.endswith("attn.c_attn.bias"))
    return replace(config, qkv_bias=any(bool(bias.count_nonzero()) for bias in biases.values()))


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
    files = [folder / WEIGHTS]
    if not files[0].exists() and (folder / WEIGHTS_INDEX).exists():
        index = json.loads((folder / WEIGHTS_INDEX).read_text(encoding="utf-8"))
        files = [folder / Path(name).name for name in sorted(set(index["weight_map"].values()))]
    if not files[0].exists():
        pickled = next(folder.glob("*.bin"), None)
        hint = (
            "Pickled weights are not opened, since they can run code; convert them to safetensors." if pickled else ""
        )
        raise UserError(f"{folder} holds no {WEIGHTS}.", hint)
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                tensors |= {name: opened.get_tensor(name) for name in opened.keys() if wanted(name)}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise UserError(f"{file} is damaged or can't be read: {error}.", damage_hint(folder)) from error
    return tensors
