"""What all sides of a training step are given. Only the standard library, as in `turns.py`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """A GPT-2 of some size, and steps of `n_batches` × `n_tokens` tokens from the folder `shards`. `run` is a folder
    for what the side writes; `precision` is told to those that don't choose it themselves."""

    n_layers: int
    n_heads: int
    emb_dim: int
    n_batches: int
    n_tokens: int
    context_length: int = 1024
    vocab_size: int = 50_304
    shards: str = ""
    run: str = ""
    precision: str = ""

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.n_batches * self.n_tokens
