"""Rotary positions (RoPE, Su et al. 2021): queries and keys are turned by angles that grow with their position."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gptcli.model.config import GPTConfig, RopeScaling

Rotation = tuple[Tensor, Tensor]  # cosine and sine


def rotation(positions: Tensor, config: GPTConfig) -> Rotation:
    """Cosine and sine of the angles at `positions` (…, T), each (…, T, D/2) in fp32."""
    angles = positions[..., None].float() * frequencies(config, device=positions.device)  # (…, T, D/2)
    return angles.cos(), angles.sin()


def frequencies(config: GPTConfig, *, stretched: bool = True, device: torch.device | None = None) -> Tensor:
    """Angle between two positions for each pair of a head's numbers, (D/2,) in fp32; `stretched` as the network's, or
    before that."""
    pairs = torch.arange(0, config.head_dim, 2, device=device, dtype=torch.float32)  # (D/2,)
    result = 1.0 / config.rope_base ** (pairs / config.head_dim)
    return _stretched(result, config.rope_scaling) if config.rope_scaling and stretched else result


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """Turn `x` (B, H, T, D), number i of a head together with number i + D/2, as Llama and Qwen3 in Hugging Face's
    layout pair them."""
    cos, sin = by
    first, second = x.float().chunk(2, dim=-1)  # (B, H, T, D/2)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).type_as(x)


def _stretched(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Llama 3's frequencies for a context longer than the one that the model was trained on."""
    waves = scaling.original_context * frequencies / (2 * math.pi)  # turns within the original context
    smooth = (waves - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    kept = smooth.clamp(0, 1)  # 1: as it was, 0: `factor` times as long
    return frequencies * (kept + (1 - kept) / scaling.factor)
