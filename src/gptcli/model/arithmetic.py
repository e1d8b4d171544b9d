"""How much arithmetic training takes. Without torch: commands that only read a run ask it too."""

from __future__ import annotations

from gptcli.model.config import GPTConfig


def flops_per_token(config: GPTConfig, parameters: int, length: int) -> int:
    """Floating-point operations to train on one token: 6 for each weight that is multiplied with (Kaplan et al. 2020),
    and 12·layers·heads·head width·length for attention, which the weights don't hold (Chowdhery et al. 2022, appendix
    B).

    Embeddings are looked up, not multiplied; a tied token embedding is the head's matrix and counts.
    """
    looked_up = config.context_length * config.emb_dim if config.positions == "learned" else 0
    if not config.tie_embeddings:
        looked_up += config.vocab_size * config.emb_dim
    return 6 * (parameters - looked_up) + 12 * config.n_layers * config.n_heads * config.head_dim * length
