"""The shape of a GPT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gptcli.errors import Fault, raise_if

VOCABULARY_MULTIPLE = 128
INIT_STD = 0.02  # of all matrices and embeddings in GPT-2, as transformers and nanoGPT have it


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3's stretching of rotary positions to a longer context (Dubey et al. 2024): waves longer than
    `original_context / low_freq_factor` positions become `factor` times as long, those shorter than
    `original_context / high_freq_factor` stay, and between the two it goes over smoothly."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int


@dataclass(frozen=True)
class GPTConfig:
    """What determines a network's parameters and arithmetic. Defaults are GPT-2 124M with a padded vocabulary.

    Where `n_kv_heads`, `head_dim` or `mlp_dim` is 0 it follows from the others: a key-value head for every query head,
    C / H, and 4C (GELU) or 8C/3 rounded up to a multiple of 64 (SwiGLU, so that both have the same parameters).
    `qkv_bias` are the biases of queries, keys and values, `bias` all others. Raises UsageError for a shape that can't
    be built.
    """

    vocab_size: int = 50_304
    emb_dim: int = 768
    context_length: int = 1024
    n_layers: int = 12
    n_heads: int = 12
    n_kv_heads: int = 0
    head_dim: int = 0
    mlp_dim: int = 0
    positions: Literal["learned", "rotary"] = "learned"
    rope_base: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    norm: Literal["layer", "rms"] = "layer"
    norm_eps: float = 1e-5
    mlp: Literal["gelu", "swiglu"] = "gelu"
    bias: bool = True
    qkv_bias: bool = False
    qk_norm: bool = False
    drop_rate: float = 0.0
    tie_embeddings: bool = True

    def __post_init__(self) -> None:
        faults = [
            Fault(f"The model's {name} is {value}; it must be at least 1.")
            for name in ("vocab_size", "emb_dim", "context_length", "n_layers", "n_heads")
            if (value := getattr(self, name)) < 1
        ]
        if not faults and not self.head_dim and self.emb_dim % self.n_heads:
            below = self.emb_dim - self.emb_dim % self.n_heads
            nearest = [width for width in (below, below + self.n_heads) if width]
            faults.append(
                Fault(
                    f"A width (emb_dim) of {self.emb_dim} can't be divided among {self.n_heads} heads (n_heads).",
                    f"The nearest widths that can: {', '.join(map(str, nearest))}.",
                )
            )
        raise_if(faults)
        derived = {
            "n_kv_heads": self.n_heads,
            "head_dim": self.emb_dim // self.n_heads,
            "mlp_dim": 4 * self.emb_dim if self.mlp == "gelu" else -(-8 * self.emb_dim // (3 * 64)) * 64,
        }
        for name, value in derived.items():
            if not getattr(self, name):
                object.__setattr__(self, name, value)  # a frozen dataclass has no other way to complete itself
        if self.n_heads % self.n_kv_heads:
            divisors = [n for n in range(1, self.n_heads + 1) if self.n_heads % n == 0]
            faults.append(
                Fault(
                    f"{self.n_heads} heads (n_heads) can't share {self.n_kv_heads} key-value heads (n_kv_heads).",
                    f"Those that they can: {', '.join(map(str, divisors))}.",
                )
            )
        if self.positions == "rotary" and self.head_dim % 2:
            faults.append(
                Fault(
                    f"Rotary positions turn pairs of numbers, and a head's width of {self.head_dim} is odd.",
                    "Choose a width (emb_dim) that is an even multiple of the heads (n_heads).",
                )
            )
        raise_if(faults)


def padded_vocabulary(size: int) -> int:
    """`size` rounded up to a multiple of 128: matrix products are faster on round shapes (50,257 becomes 50,304)."""
    return -(-size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE


def stacked(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """Which weights of a block are several matrices, one above the other, and the heights of these: one product
    computes them all."""
    queries, keys = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    gate = {"mlp.up": (config.mlp_dim, config.mlp_dim)} if config.mlp == "swiglu" else {}
    return {"attention.qkv": (queries, keys, keys), **gate}
