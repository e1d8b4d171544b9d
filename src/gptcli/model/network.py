"""The network: GPT-2's decoder (Radford et al. 2019), top to bottom.

B batch, T sequence length, C width (`emb_dim`), H heads, D head width, V vocabulary, S length of the cache.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gptcli.model.cache import KVCache, LayerCache
from gptcli.model.config import GPTConfig

LAYER_NORM_EPS = 1e-5  # GPT-2's, and torch's default
INIT_STD = 0.02  # of all matrices and embeddings, as transformers and nanoGPT have it


class Attention(nn.Module):
    """Causal multi-head self-attention (Vaswani et al. 2017)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.drop_rate = config.drop_rate
        self.qkv = nn.Linear(config.emb_dim, 3 * config.emb_dim, bias=config.qkv_bias)
        self.proj = nn.Linear(config.emb_dim, config.emb_dim)

    def forward(self, x: Tensor, cache: LayerCache | None = None) -> Tensor:
        B, T, C = x.shape
        heads = self.qkv(x).view(B, T, 3, self.n_heads, C // self.n_heads)  # (B, T, 3, H, D)
        q, k, v = heads.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, H, T, D)
        drop_rate = self.drop_rate if self.training else 0.0
        if cache is None:
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=drop_rate, is_causal=True)
        else:
            k, v = cache.append(k, v)  # (B, H, S, D): everything so far, the new T last
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=_causal_mask(T, k.shape[2], x.device))
        y = y.transpose(1, 2).reshape(B, T, C)  # (B, T, C)
        out: Tensor = self.proj(y)
        return out


def _causal_mask(T: int, S: int, device: torch.device) -> Tensor | None:
    """Which of S cached positions the last T may look at, (T, S); one new position looks at all of them."""
    if T == 1:
        return None
    return torch.ones(T, S, dtype=torch.bool, device=device).tril(diagonal=S - T)


class MLP(nn.Module):
    """Two layers with GELU in its tanh form between (Hendrycks and Gimpel 2016), four times as wide inside."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.emb_dim, 4 * config.emb_dim)
        self.down = nn.Linear(4 * config.emb_dim, config.emb_dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(F.gelu(self.up(x), approximate="tanh"))  # (B, T, C) → (B, T, 4C) → (B, T, C)
        return out


class Block(nn.Module):
    """Attention and MLP, each added to a residual stream that only its own input is normalised from (pre-norm)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.emb_dim, eps=LAYER_NORM_EPS)
        self.attention = Attention(config)
        self.norm2 = nn.LayerNorm(config.emb_dim, eps=LAYER_NORM_EPS)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(config.drop_rate)

    def forward(self, x: Tensor, cache: LayerCache | None = None) -> Tensor:
        x = x + self.dropout(self.attention(self.norm1(x), cache))
        out: Tensor = x + self.dropout(self.mlp(self.norm2(x)))
        return out


class GPT(nn.Module):
    """A decoder-only transformer: ids (B, T) to logits (B, T, V), T at most `config.context_length`."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.emb_dim)
        self.position_embedding = nn.Embedding(config.context_length, config.emb_dim)
        self.dropout = nn.Dropout(config.drop_rate)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.final_norm = nn.LayerNorm(config.emb_dim, eps=LAYER_NORM_EPS)
        self.head = nn.Linear(config.emb_dim, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.head.weight = self.token_embedding.weight  # Press and Wolf 2017
        self.initialise()

    @classmethod
    def create(cls, config: GPTConfig, seed: int) -> GPT:
        """A network with the initial weights of `seed`, on the CPU: the same ones whatever device it then goes to."""
        model = cls.allocate(config)
        model.initialise(torch.Generator().manual_seed(seed))
        return model

    @classmethod
    def allocate(cls, config: GPTConfig) -> GPT:
        """A network on the CPU whose weights are still to be filled in."""
        with torch.device("meta"):  # torch's own initial values are never computed
            model = cls(config)
        model.to_empty(device="cpu")
        if config.tie_embeddings:
            model.head.weight = model.token_embedding.weight
        return model

    def forward(self, ids: Tensor, cache: KVCache | None = None) -> Tensor:
        """Logits (B, T, V) of the token after each of `ids` (B, T). With a cache, `ids` go on from what it holds."""
        logits: Tensor = self.head(self.hidden(ids, cache))
        return logits

    def hidden(self, ids: Tensor, cache: KVCache | None = None) -> Tensor:
        """What the head reads: the final, normalised hidden states (B, T, C). Raises ValueError past the context."""
        start = cache.length if cache else 0
        if start + ids.shape[1] > self.config.context_length:
            raise ValueError(
                f"a sequence of {start + ids.shape[1]} tokens; the model's context holds {self.config.context_length}"
            )
        positions = torch.arange(start, start + ids.shape[1], device=ids.device)  # (T,)
        x = self.token_embedding(ids) + self.position_embedding(positions)  # (B, T, C)
        x = self.dropout(x)
        for i, block in enumerate(self.blocks):
            x = block(x, cache.layers[i] if cache else None)
        out: Tensor = self.final_norm(x)
        return out

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None = None) -> None:
        """GPT-2's initial weights: normal with deviation 0.02, biases zero; the two projections of a block that add to
        the residual stream are scaled by 1/sqrt(2·n_layers), so that the stream's variance does not grow with depth."""
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.reset_parameters()
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=INIT_STD, generator=generator)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        scale = 1 / math.sqrt(2 * self.config.n_layers)
        for block in self.blocks:
            assert isinstance(block, Block)
            block.attention.proj.weight.mul_(scale)
            block.mlp.down.weight.mul_(scale)

    def n_parameters(self) -> int:
        """Parameters, those shared by the embedding and the head counted once."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.position_embedding.weight.device
