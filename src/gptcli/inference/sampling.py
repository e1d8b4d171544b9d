"""From logits to the next token: penalty, temperature, top-k, top-p, min-p, as pure functions of logits and uniform
numbers."""

from __future__ import annotations

import math
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gptcli.errors import Fault, raise_if


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen.

    `temperature` divides the logits, 0 takes the likeliest token. `top_k` chooses among so many likeliest tokens, None
    or 0 among all. `top_p` then chooses among the likeliest of those that together hold this probability (nucleus
    sampling, Holtzman et al. 2020), and `min_p` among those at least so likely as this part of the likeliest (Nguyen et
    al. 2024). `repetition_penalty` comes before all of these: it divides the positive logits of ids that are in the
    text already, prompt included, and multiplies the negative ones (Keskar et al. 2019); 1 changes nothing. Raises
    UsageError for values that mean nothing.
    """

    temperature: float = 1.0
    top_k: int | None = 50
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        faults = []
        if not self.temperature >= 0:
            faults.append(Fault(f"The temperature is {self.temperature}; it must be 0 or more."))
        if self.top_k is not None and self.top_k < 0:
            faults.append(Fault(f"top_k is {self.top_k}; it must be 0 (all tokens) or more."))
        if not 0 < self.top_p <= 1:
            faults.append(Fault(f"top_p is {self.top_p}; it must be above 0 and at most 1."))
        if not 0 <= self.min_p <= 1:
            faults.append(Fault(f"min_p is {self.min_p}; it must be 0 to 1."))
        if not 0 < self.repetition_penalty < math.inf:
            faults.append(Fault(f"The repetition penalty is {self.repetition_penalty}; it must be above 0."))
        raise_if(faults)


def row_generator(seed: int | None, row: int) -> torch.Generator:
    """A generator seeded from (seed, row): a row's text does not depend on the rows beside it.

    `seed` None draws a new one from the operating system; torch's own generators are left alone in any case.
    """
    seed = secrets.randbits(63) if seed is None else seed
    # The row as spawn key: in one list with the seed, seed 2**32 and row 0 would be seed 0 and row 1.
    state = np.random.SeedSequence(seed, spawn_key=(row,)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def uniforms(generators: Sequence[torch.Generator]) -> Tensor:
    """One number in [0, 1) from each generator, (B,) in fp64 on the CPU."""
    return torch.stack([torch.rand((), dtype=torch.float64, generator=generator) for generator in generators])


def choose(
    logits: Tensor, u: Tensor, sampling: Sampling, vocab_size: int, texts: Sequence[Collection[int]] = ()
) -> tuple[Tensor, Tensor]:
    """The next id of every row and its log-probability, (B,) each, from logits (B, V) and uniform numbers u (B,).

    Ids from `vocab_size` on are padding and never chosen. `texts` are the ids of each row so far, which a repetition
    penalty asks for. The log-probability is the one that the model gives the id among its real tokens: fp32
    log-softmax, before the penalty, temperature, top-k, top-p and min-p.
    """
    logits = logits[:, :vocab_size].float()  # (B, V)
    weighed = logits if sampling.repetition_penalty == 1 else _penalised(logits, texts, sampling.repetition_penalty)
    ids = weighed.argmax(-1) if sampling.temperature == 0 else _draw(weighed, u, sampling)
    logprobs = torch.log_softmax(logits, dim=-1).gather(-1, ids[:, None])[:, 0]
    return ids, logprobs


def _penalised(logits: Tensor, texts: Sequence[Collection[int]], penalty: float) -> Tensor:
    """Logits (B, V) after the repetition penalty for the ids that each row's text holds."""
    logits = logits.clone()
    for row, text in zip(logits, texts, strict=True):
        ids = torch.tensor(sorted(set(text)), dtype=torch.long, device=logits.device)
        row[ids] = torch.where(row[ids] > 0, row[ids] / penalty, row[ids] * penalty)
    return logits


def _draw(logits: Tensor, u: Tensor, sampling: Sampling) -> Tensor:
    """Ids (B,) by inverting the cumulative distribution of each row at u."""
    size = logits.shape[-1]
    k = min(sampling.top_k or size, size)
    if k < size or sampling.top_p < 1:
        logits, candidates = logits.topk(k, dim=-1)  # (B, k), likeliest first
    else:
        candidates = None
    # The largest is subtracted before dividing: a tiny temperature must not overflow.
    scaled = (logits - logits.amax(-1, keepdim=True)) / sampling.temperature
    precise = torch.float32 if logits.device.type == "mps" else torch.float64  # MPS has no fp64
    probabilities = torch.softmax(scaled, dim=-1, dtype=precise)
    if sampling.top_p < 1:
        before = probabilities.cumsum(-1) - probabilities  # what the likelier ones hold: 0 for the first, which stays
        probabilities = probabilities.masked_fill(before >= sampling.top_p, 0.0)
    if sampling.min_p > 0:
        least = sampling.min_p * probabilities.amax(-1, keepdim=True)
        probabilities = probabilities.masked_fill(probabilities < least, 0.0)
    cumulative = probabilities.cumsum(-1)
    total = cumulative[:, -1:]
    at = u.to(logits.device, precise)[:, None] * total
    at = torch.minimum(at, torch.nextafter(total, torch.zeros_like(total)))  # rounding must not reach the total
    # The first whose cumulative probability is above: never one whose own probability is zero.
    picked = torch.searchsorted(cumulative, at, right=True).clamp(max=k - 1)  # (B, 1)
    return (picked if candidates is None else candidates.gather(-1, picked))[:, 0]
