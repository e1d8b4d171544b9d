"""GPT-2's format (`GPT2LMHeadModel`), whose linear layers are stored transposed (`Conv1D`, (in, out))."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gptcli.model.config import INIT_STD, GPTConfig
from gptcli.model.formats.format import Format, Stored, Told, refuse_unless

MISSING_BIASES = "gptcli_missing_biases"  # key in config.json: these biases are zeros that our model does not have
_TOP = {"token_embedding": "wte", "position_embedding": "wpe", "final_norm": "ln_f"}
_BLOCK = {"norm1": "ln_1", "attention.qkv": "attn.c_attn", "attention.proj": "attn.c_proj",
          "norm2": "ln_2", "mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj"}  # fmt: skip


def _lacks(config: GPTConfig) -> list[str]:
    needs = {
        "--positions learned": config.positions == "learned",
        "--norm layer": config.norm == "layer",
        "--mlp gelu": config.mlp == "gelu",
        "--no-qk-norm": not config.qk_norm,
        f"--n-kv-heads {config.n_heads}": config.n_kv_heads == config.n_heads,
        "heads as wide as the width divided by their number": config.head_dim * config.n_heads == config.emb_dim,
    }
    return [option for option, holds in needs.items() if not holds]


def _tensors(config: GPTConfig) -> Iterator[Stored]:
    for ours, theirs in _modules(config):
        yield Stored(
            f"{ours}.weight", (f"{theirs}.weight",), transposed=ours.startswith("blocks.") and "norm" not in ours
        )
        if _has_bias(ours, config):
            yield Stored(f"{ours}.bias", (f"{theirs}.bias",))


def _zeros(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    widths = {"attention.qkv": 3 * config.emb_dim, "mlp.up": config.mlp_dim}
    return {
        f"{theirs}.bias": (next((n for name, n in widths.items() if ours.endswith(name)), config.emb_dim),)
        for ours, theirs in _modules(config)
        if ours.startswith(("blocks.", "final_norm")) and not _has_bias(ours, config)
    }


def _has_bias(ours: str, config: GPTConfig) -> bool:
    if ours.endswith("embedding") or ours == "head":
        return False
    return config.qkv_bias if ours.endswith("attention.qkv") else config.bias


def _modules(config: GPTConfig) -> Iterator[tuple[str, str]]:
    """Our name and theirs for every module that has weights."""
    for ours, theirs in _TOP.items():
        yield ours, f"transformer.{theirs}"
    yield "head", "lm_head"
    for i in range(config.n_layers):
        for ours, theirs in _BLOCK.items():
            yield f"blocks.{i}.{ours}", f"transformer.h.{i}.{theirs}"


def _describe(config: GPTConfig) -> dict[str, Any]:
    described = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_positions": config.context_length,
        "n_ctx": config.context_length,
        "n_embd": config.emb_dim,
        "n_layer": config.n_layers,
        "n_head": config.n_heads,
        "n_inner": config.mlp_dim,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": config.norm_eps,
        "initializer_range": INIT_STD,
        "resid_pdrop": config.drop_rate,
        "embd_pdrop": config.drop_rate,
        "attn_pdrop": config.drop_rate,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
        "tie_word_embeddings": config.tie_embeddings,
    }
    missing = [] if config.qkv_bias else [_BLOCK["attention.qkv"]]
    if not config.bias:
        missing += [theirs for ours, theirs in (_BLOCK | {"final_norm": "ln_f"}).items() if ours != "attention.qkv"]
    return described | ({MISSING_BIASES: missing} if missing else {})


def _read(told: Told) -> GPTConfig:
    """The shape, with all biases that the format has but for those that our mark says are missing."""
    expected = {
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
    }
    refuse_unless(told, expected, "config.json")
    missing = told.get(MISSING_BIASES, [])
    return GPTConfig(
        vocab_size=told["vocab_size"],
        emb_dim=told["n_embd"],
        context_length=told["n_positions"],
        n_layers=told["n_layer"],
        n_heads=told["n_head"],
        mlp_dim=told.get("n_inner") or 0,
        norm_eps=float(told.get("layer_norm_epsilon", 1e-5)),
        bias=_BLOCK["mlp.up"] not in missing,
        qkv_bias=_BLOCK["attention.qkv"] not in missing,
        drop_rate=float(told.get("resid_pdrop", 0.1)),
        tie_embeddings=bool(told.get("tie_word_embeddings", True)),
    )


GPT2 = Format("GPT-2", "gpt2", "transformer.", _lacks, _tensors, _zeros, _describe, _read)
