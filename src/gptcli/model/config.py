"""The shape of a GPT."""

from __future__ import annotations

from dataclasses import dataclass

from gptcli.errors import Fault, raise_if

VOCABULARY_MULTIPLE = 128


@dataclass(frozen=True)
class GPTConfig:
    """What determines a network's parameters and arithmetic. Defaults are GPT-2 124M with a padded vocabulary.

    Raises UsageError for a shape that can't be built.
    """

    vocab_size: int = 50_304
    emb_dim: int = 768
    context_length: int = 1024
    n_layers: int = 12
    n_heads: int = 12
    qkv_bias: bool = False
    drop_rate: float = 0.0
    tie_embeddings: bool = True

    def __post_init__(self) -> None:
        faults = [
            Fault(f"The model's {name} is {value}; it must be at least 1.")
            for name in ("vocab_size", "emb_dim", "context_length", "n_layers", "n_heads")
            if (value := getattr(self, name)) < 1
        ]
        if not faults and self.emb_dim % self.n_heads:
            below = self.emb_dim - self.emb_dim % self.n_heads
            nearest = [width for width in (below, below + self.n_heads) if width]
            faults.append(
                Fault(
                    f"A width (emb_dim) of {self.emb_dim} can't be divided among {self.n_heads} heads (n_heads).",
                    f"The nearest widths that can: {', '.join(map(str, nearest))}.",
                )
            )
        raise_if(faults)

    @property
    def head_dim(self) -> int:
        """Width of one attention head, D = C / H."""
        return self.emb_dim // self.n_heads


def padded_vocabulary(size: int) -> int:
    """`size` rounded up to a multiple of 128: matrix products are faster on round shapes (50,257 becomes 50,304)."""
    return -(-size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
