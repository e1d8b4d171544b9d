"""Llama's format (`LlamaForCausalLM`), and Qwen3's (`Qwen3ForCausalLM`): Llama's with norms of queries and keys.

Queries, keys and values, and the two halves of SwiGLU, are tensors of their own there and one each in our network.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from gptcli.errors import UserError
from gptcli.model.config import INIT_STD, GPTConfig, RopeScaling, stacked
from gptcli.model.formats.format import Format, Stored, Told, refuse_unless

_TOP = {"token_embedding": "model.embed_tokens", "final_norm": "model.norm", "head": "lm_head"}
_BLOCK = {"norm1": ("input_layernorm",), "norm2": ("post_attention_layernorm",),
          "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
          "attention.proj": ("self_attn.o_proj",),
          "mlp.up": ("mlp.gate_proj", "mlp.up_proj"), "mlp.down": ("mlp.down_proj",)}  # fmt: skip
_QK_NORM = {"attention.q_norm": ("self_attn.q_norm",), "attention.k_norm": ("self_attn.k_norm",)}


def _lacks(config: GPTConfig, *, qk_norm: bool) -> list[str]:
    needs = {
        "--positions rotary": config.positions == "rotary",
        "--norm rms": config.norm == "rms",
        "--mlp swiglu": config.mlp == "swiglu",
        "--no-bias": not config.bias,
        "--no-qkv-bias": not config.qkv_bias,
        f"--{'' if qk_norm else 'no-'}qk-norm": config.qk_norm == qk_norm,
    }
    return [option for option, holds in needs.items() if not holds]


def _tensors(config: GPTConfig) -> Iterator[Stored]:
    for ours, theirs in _TOP.items():
        yield Stored(f"{ours}.weight", (f"{theirs}.weight",))
    heights = stacked(config)
    block = _BLOCK | (_QK_NORM if config.qk_norm else {})
    for i in range(config.n_layers):
        for ours, parts in block.items():
            names = tuple(f"model.layers.{i}.{part}.weight" for part in parts)
            yield Stored(f"blocks.{i}.{ours}.weight", names, heights.get(ours, ()))


def _zeros(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    return {}


def _describe(config: GPTConfig) -> dict[str, Any]:
    architecture, model_type = ("Qwen3ForCausalLM", "qwen3") if config.qk_norm else ("LlamaForCausalLM", "llama")
    scaling = None
    if config.rope_scaling:
        scaling = {
            "rope_type": "llama3",
            "factor": config.rope_scaling.factor,
            "low_freq_factor": config.rope_scaling.low_freq_factor,
            "high_freq_factor": config.rope_scaling.high_freq_factor,
            "original_max_position_embeddings": config.rope_scaling.original_context,
        }
    described = {
        "architectures": [architecture],
        "model_type": model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.emb_dim,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.context_length,
        "initializer_range": INIT_STD,
        "rms_norm_eps": config.norm_eps,
        # Programs of before and after transformers 5 look for it in different places.
        "rope_theta": config.rope_base,
        "rope_scaling": scaling,
        "rope_parameters": {"rope_type": "default", **(scaling or {}), "rope_theta": config.rope_base},
        "attention_bias": False,
        "attention_dropout": config.drop_rate,
        "tie_word_embeddings": config.tie_embeddings,
    }
    return described | ({"use_sliding_window": False} if config.qk_norm else {"mlp_bias": False, "pretraining_tp": 1})


def _read(told: Told, *, qk_norm: bool) -> GPTConfig:
    expected: dict[str, tuple[object, ...]] = {
        "hidden_act": ("silu",),
        "attention_bias": (False,),
        "mlp_bias": (False,),
        "use_sliding_window": (False,),
        "partial_rotary_factor": (1.0,),
    }
    refuse_unless(told, expected, "config.json")
    heads = told["num_attention_heads"]
    base, scaling = _rope(told)
    return GPTConfig(
        vocab_size=told["vocab_size"],
        emb_dim=told["hidden_size"],
        context_length=told.get("max_position_embeddings", 32_768 if qk_norm else 2048),
        n_layers=told["num_hidden_layers"],
        n_heads=heads,
        n_kv_heads=told.get("num_key_value_heads") or heads,
        head_dim=told.get("head_dim") or (128 if qk_norm else 0),
        mlp_dim=told["intermediate_size"],
        positions="rotary",
        rope_base=base,
        rope_scaling=scaling,
        norm="rms",
        norm_eps=float(told.get("rms_norm_eps", 1e-6)),
        mlp="swiglu",
        bias=False,
        qkv_bias=False,
        qk_norm=qk_norm,
        drop_rate=float(told.get("attention_dropout", 0.0)),
        tie_embeddings=bool(told.get("tie_word_embeddings", False)),
    )


def _rope(told: Told) -> tuple[float, RopeScaling | None]:
    """The base of the rotary positions, and how they are stretched. Raises UserError for a way that is not known."""
    parameters = {**(told.get("rope_scaling") or {}), **(told.get("rope_parameters") or {})}
    base = float(parameters.get("rope_theta") or told.get("rope_theta") or 10_000.0)
    refuse_unless(parameters, {"partial_rotary_factor": (1.0,)}, "config.json")
    kind = parameters.get("rope_type") or parameters.get("type") or "default"
    if kind == "default":
        return base, None
    if kind != "llama3":
        raise UserError(f"config.json: rotary positions of type '{kind}'; only 'llama3' and 'default' can be read.")
    return base, RopeScaling(
        factor=float(parameters["factor"]),
        low_freq_factor=float(parameters["low_freq_factor"]),
        high_freq_factor=float(parameters["high_freq_factor"]),
        original_context=int(parameters.get("original_max_position_embeddings") or told["max_position_embeddings"]),
    )


def _format(name: str, model_type: str, *, qk_norm: bool) -> Format:
    lacks, read = partial(_lacks, qk_norm=qk_norm), partial(_read, qk_norm=qk_norm)
    return Format(name, model_type, "model.", lacks, _tensors, _zeros, _describe, read)


LLAMA, QWEN3 = _format("Llama", "llama", qk_norm=False), _format("Qwen3", "qwen3", qk_norm=True)
