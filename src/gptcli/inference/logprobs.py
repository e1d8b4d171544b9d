"""Log-probabilities of given tokens, without ever holding the logits of many positions at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gptcli.model.network import GPT

LOGITS_AT_ONCE = 2**25  # 128 MiB in fp32: large enough for efficient products, small beside any model


def target_logprobs(model: GPT, hidden: Tensor, targets: Tensor, vocab_size: int | None = None) -> Tensor:
    """Log-probability in nats of `targets` (N,) after final hidden states `hidden` (N, C): (N,) in fp32.

    `vocab_size` leaves ids from there on out of the softmax; None takes all rows of the head, as the training loss
    does.
    """
    return score_targets(model, hidden, targets, vocab_size)[0]


def score_targets(model: GPT, hidden: Tensor, targets: Tensor, vocab_size: int | None = None) -> tuple[Tensor, Tensor]:
    """`target_logprobs`, and whether no other token is likelier than the target, (N,)."""
    step = max(1, LOGITS_AT_ONCE // model.config.vocab_size)
    logprobs, likeliest = [], []
    for start in range(0, len(targets), step):
        logits = model.head(hidden[start : start + step])[:, :vocab_size].float()  # (step, V)
        part = targets[start : start + step]
        logprobs.append(-F.cross_entropy(logits, part, reduction="none"))
        likeliest.append(logits.gather(1, part[:, None])[:, 0] >= logits.amax(1))
    if not logprobs:
        return hidden.new_zeros(0, dtype=torch.float32), hidden.new_zeros(0, dtype=torch.bool)
    return torch.cat(logprobs), torch.cat(likeliest)
