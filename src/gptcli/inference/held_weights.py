"""How the weights are held in memory: fp32, bf16, or int8 with a scale for each row.

Generation reads every weight for every token, so fewer bytes are fewer milliseconds. Only the matrices are reduced;
the residual stream, the norms, attention and the logits stay in fp32.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gptcli.errors import UsageError, nearest
from gptcli.model.network import GPT, Block

Weights = Literal["fp32", "bf16", "int8", "auto"]
_FEW_ROWS = 4  # up to so many rows torch's int8 kernel for the CPU is the fastest way (measured: 1 to 64 rows, AVX-512)


def resolve_weights(weights: str, device: torch.device) -> str:
    """`weights`, with `auto` settled: bf16 where the device computes in it (CUDA from capability 8.0 on), else fp32.

    Raises UsageError for a name that there is not.
    """
    names = get_args(Weights)
    if weights not in names:
        close = nearest(weights, names)
        hint = f"Did you mean '{close}'?" if close else f"Known are {', '.join(names)}."
        raise UsageError(f"Weights can't be held as '{weights}'.", hint)
    if weights != "auto":
        return weights
    return "bf16" if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"


def hold_weights(model: GPT, weights: str) -> None:
    """Replace the matrices of `model` by ones held as `weights` ("fp32", "bf16", "int8") says, in place."""
    if weights == "fp32":
        return
    for block in model.blocks:
        assert isinstance(block, Block)
        for parent in (block.attention, block.mlp):
            for name, linear in list(parent.named_children()):
                if isinstance(linear, nn.Linear):
                    parent.add_module(
                        name, Bf16Linear(linear) if weights == "bf16" else Int8Linear(linear, torch.bfloat16)
                    )
    # GPT-2's logits lie between -30 and -100, where bf16 has steps of 1/8 to 1/2: the head never computes in it.
    if weights == "int8":
        head = Int8Linear(model.head, torch.float32)
        tied = model.config.tie_embeddings
        rows = (head.weight, head.scale) if tied else quantize(model.token_embedding.weight.detach())
        model.add_module("head", head)
        model.add_module("token_embedding", Int8Embedding(*rows))


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """`weight` (out, in) as int8 and a scale (out, 1) in fp32, symmetric about zero: weight ≈ int8 · scale."""
    scale = weight.float().abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / 127
    return (weight.float() / scale).round().clamp(-127, 127).to(torch.int8), scale


class Bf16Linear(nn.Module):
    """A linear layer whose product is computed in bf16; what goes in and comes out is fp32."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight: Tensor
        self.bias: Tensor | None
        self.register_buffer("weight", linear.weight.detach().to(torch.bfloat16))
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().float())

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x.to(torch.bfloat16), self.weight).float()
        return y if self.bias is None else y + self.bias


class Int8Linear(nn.Module):
    """A linear layer with int8 weights, multiplied as they are, by activations rounded to `compute`; the rows' scales
    come after. What goes in and comes out is fp32."""

    def __init__(self, linear: nn.Linear, compute: torch.dtype) -> None:
        super().__init__()
        self.compute = compute
        self.weight: Tensor
        self.scale: Tensor
        self.bias: Tensor | None
        weight, scale = quantize(linear.weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().float())

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).to(self.compute)  # (N, in)
        if len(rows) <= _FEW_ROWS and rows.device.type == "cpu":
            # The kernel wants scales in the activations' dtype; in bf16 they would lose what int8 has kept.
            ones = torch.ones(len(self.weight), dtype=self.compute)
            product = torch._weight_int8pack_mm(rows, self.weight, ones)
        else:  # the same arithmetic: int8 is exact in fp32, and the result is rounded as the kernel does
            product = (rows.float() @ self.weight.float().T).to(self.compute)
        y = product.float() * self.scale[:, 0]
        y = y if self.bias is None else y + self.bias
        return y.view(*x.shape[:-1], -1)


class Int8Embedding(nn.Module):
    """An embedding whose rows are int8; with a tied head both look at the same memory."""

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.weight: Tensor
        self.scale: Tensor
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)

    def forward(self, ids: Tensor) -> Tensor:
        return self.weight[ids].float() * self.scale[ids]
