"""The network: GPT-2's decoder (Radford et al. 2019) and today's (Llama, Touvron et al. 2023; Qwen3, Yang et al. 2025),
top to bottom. They differ in the switches of `GPTConfig` only.

B batch, T sequence length, C width (`emb_dim`), H query heads, K key-value heads, D head width, F width inside the MLP,
V vocabulary, S length of the cache.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from gptcli.model.cache import Extension, RaggedExtension
from gptcli.model.config import INIT_STD, GPTConfig
from gptcli.model.documents import Documents, attention_within
from gptcli.model.loss import SoftmaxGradient, linear_cross_entropy
from gptcli.model.positions import Rotation, rotate, rotation

Init = Literal["gpt2", "zero"]
Cached = tuple[Extension | RaggedExtension, int]  # what a pass extends of a cache, and the layer


def _norm(config: GPTConfig, width: int) -> nn.LayerNorm | nn.RMSNorm:
    """LayerNorm (Ba et al. 2016), or RMS norm, which neither centres nor shifts (Zhang and Sennrich 2019)."""
    if config.norm == "rms":
        return nn.RMSNorm(width, eps=config.norm_eps)
    return nn.LayerNorm(width, eps=config.norm_eps, bias=config.bias)


class Linear(nn.Linear):
    """A linear layer whose first weights `GPT.initialise` alone draws."""

    def reset_parameters(self) -> None:
        """Nothing: torch's own values would be thrown away, and to draw them without memory it imports its compiler."""


class Embedding(nn.Embedding):
    """An embedding whose first weights `GPT.initialise` alone draws."""

    def reset_parameters(self) -> None:
        """Nothing, as in `Linear`."""


class Attention(nn.Module):
    """Causal self-attention (Vaswani et al. 2017). K < H: several query heads share a key-value head (grouped queries,
    Ainslie et al. 2023). Queries and keys may be normalised, which bounds the logits (Dehghani et al. 2023)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads, self.head_dim = config.n_heads, config.n_kv_heads, config.head_dim
        self.drop_rate = config.drop_rate
        rows = (config.n_heads + 2 * config.n_kv_heads) * config.head_dim
        self.qkv = Linear(config.emb_dim, rows, bias=config.qkv_bias)
        self.proj = Linear(config.n_heads * config.head_dim, config.emb_dim, bias=config.bias)
        self.q_norm = _norm(config, config.head_dim) if config.qk_norm else nn.Identity()
        self.k_norm = _norm(config, config.head_dim) if config.qk_norm else nn.Identity()

    def forward(
        self, x: Tensor, turn: Rotation | None, cache: Cached | None = None, documents: Documents | None = None
    ) -> Tensor:
        B, T, _ = x.shape
        H, K = self.n_heads, self.n_kv_heads
        heads = self.qkv(x).view(B, T, H + 2 * K, self.head_dim).transpose(1, 2)  # (B, H + 2K, T, D)
        q, k, v = heads.split((H, K, K), dim=1)
        q, k = self.q_norm(q), self.k_norm(k)
        if turn:
            q, k = rotate(q, turn), rotate(k, turn)
        q, k = q.type_as(v), k.type_as(v)  # autocast may compute norms in fp32
        grouped = H != K
        drop_rate = self.drop_rate if self.training else 0.0
        if documents:
            y = attention_within(q, k, v, documents, drop_rate, grouped)
        elif cache is None:
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=drop_rate, is_causal=True, enable_gqa=grouped)
        else:
            extension, layer = cache
            k, v = extension.append(layer, k, v)  # (B, K, S, D): everything so far, the new T last
            y = F.scaled_dot_product_attention(q, k, v, extension.mask, is_causal=extension.causal, enable_gqa=grouped)
        out: Tensor = self.proj(y.transpose(1, 2).reshape(B, T, H * self.head_dim))  # (B, T, C)
        return out


class MLP(nn.Module):
    """Up, GELU in its tanh form (Hendrycks and Gimpel 2016), and down."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.up = Linear(config.emb_dim, config.mlp_dim, bias=config.bias)
        self.down = Linear(config.mlp_dim, config.emb_dim, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(F.gelu(self.up(x), approximate="tanh"))  # (B, T, C) → (B, T, F) → (B, T, C)
        return out


class SwiGLU(nn.Module):
    """An MLP that one half of its inner numbers opens and closes the other of (Shazeer 2020)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.up = Linear(config.emb_dim, 2 * config.mlp_dim, bias=config.bias)
        self.down = Linear(config.mlp_dim, config.emb_dim, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.up(x).chunk(2, dim=-1)  # (B, T, F) each
        out: Tensor = self.down(F.silu(gate) * up)  # (B, T, C)
        return out


class Block(nn.Module):
    """Attention and MLP, each added to a residual stream that only its own input is normalised from (pre-norm)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.norm1 = _norm(config, config.emb_dim)
        self.attention = Attention(config)
        self.norm2 = _norm(config, config.emb_dim)
        self.mlp = SwiGLU(config) if config.mlp == "swiglu" else MLP(config)
        self.dropout = nn.Dropout(config.drop_rate)

    def forward(
        self, x: Tensor, turn: Rotation | None, cache: Cached | None = None, documents: Documents | None = None
    ) -> Tensor:
        x = x + self.dropout(self.attention(self.norm1(x), turn, cache, documents))
        out: Tensor = x + self.dropout(self.mlp(self.norm2(x)))
        return out


class GPT(nn.Module):
    """A decoder-only transformer: ids (B, T) to logits (B, T, V), T at most `config.context_length`.

    With `recompute_blocks` the backward pass computes each block again from its input, the only one of its activations
    that is kept (Chen et al. 2016): less memory for a third more arithmetic.
    """

    recompute_blocks = False

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = Embedding(config.vocab_size, config.emb_dim)
        if config.positions == "learned":
            self.position_embedding = Embedding(config.context_length, config.emb_dim)
        self.dropout = nn.Dropout(config.drop_rate)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.final_norm = _norm(config, config.emb_dim)
        self.head = Linear(config.emb_dim, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.head.weight = self.token_embedding.weight  # Press and Wolf 2017
        self.softmax_gradient = SoftmaxGradient()
        if not self.head.weight.is_meta:
            self.initialise()

    @classmethod
    def create(cls, config: GPTConfig, seed: int, init: Init = "gpt2") -> GPT:
        """A network with the initial weights of `seed`, on the CPU: the same ones whatever device it then goes to."""
        model = cls.allocate(config)
        model.initialise(torch.Generator().manual_seed(seed), init)
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

    def forward(
        self,
        ids: Tensor,
        cache: Extension | RaggedExtension | None = None,
        documents: Documents | None = None,
        targets: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, T, V) of the token after each of `ids` (B, T); with `targets` (B, T) their mean cross-entropy
        instead, for which the logits are never held whole. With a cache, `ids` go on from what it holds
        (`KVCache.extend`); with `documents`, which are those in `ids`, no token knows of others than its own."""
        x = self.hidden(ids, cache, documents)
        if targets is not None:
            return linear_cross_entropy(x.flatten(0, 1), self.head.weight, targets.flatten(), self.softmax_gradient)
        logits: Tensor = self.head(x)
        return logits

    def hidden(
        self,
        ids: Tensor,
        cache: Extension | RaggedExtension | None = None,
        documents: Documents | None = None,
    ) -> Tensor:
        """What the head reads: the final, normalised hidden states (B, T, C). Raises ValueError past the context."""
        end = cache.end if cache else ids.shape[1]
        if documents is None and end > self.config.context_length:
            raise ValueError(f"a sequence of {end} tokens; the model's context holds {self.config.context_length}")
        # (T,), or (B, T) where they are not the same in all rows
        told = documents or cache
        positions = told.positions if told else torch.arange(end, device=ids.device)
        x = self.token_embedding(ids)  # (B, T, C)
        turn = None
        if self.config.positions == "learned":
            x = x + self.position_embedding(positions)
        else:
            turn = rotation(
                positions[:, None] if positions.dim() == 2 else positions, self.config
            )  # alike for all heads
        x = self.dropout(x)
        for i, block in enumerate(self.blocks):
            if self.recompute_blocks and torch.is_grad_enabled():
                x = checkpoint(
                    block, x, turn, None, documents, use_reentrant=False, preserve_rng_state=self.config.drop_rate > 0
                )
            else:
                x = block(x, turn, (cache, i) if cache else None, documents)
        out: Tensor = self.final_norm(x)
        return out

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None = None, init: Init = "gpt2") -> None:
        """First weights, biases zero and norms as if absent.

        "gpt2": normal with deviation 0.02; the two projections of a block that add to the residual stream are scaled by
        1/sqrt(2·n_layers), so that the stream's variance does not grow with depth. "zero": these projections and the
        head are zero (Goyal et al. 2017; Zhang, Dauphin and Ma 2019), so that every block begins as nothing; embeddings
        have deviation 1 and other matrices 1/sqrt(in), so that all is of one size at any width.
        """
        for module in self.modules():
            if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
                module.reset_parameters()
            if isinstance(module, (nn.Linear, nn.Embedding)):
                wide = 1.0 if isinstance(module, nn.Embedding) else module.in_features**-0.5
                nn.init.normal_(module.weight, std=INIT_STD if init == "gpt2" else wide, generator=generator)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        scale = 1 / math.sqrt(2 * self.config.n_layers) if init == "gpt2" else 0.0
        for block in self.blocks:
            assert isinstance(block, Block)
            block.attention.proj.weight.mul_(scale)
            block.mlp.down.weight.mul_(scale)
        if init == "zero" and not self.config.tie_embeddings:  # a tied one has been drawn as a matrix by now
            self.head.weight.zero_()

    def n_parameters(self) -> int:
        """Parameters, those shared by the embedding and the head counted once."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.final_norm.weight.device
