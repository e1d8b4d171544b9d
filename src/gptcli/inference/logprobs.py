"""Log-probabilities of given tokens, without ever holding the logits of many positions at once."""

from __future__ import annotations

import torch
from torch import Tensor

from gptcli.model.loss import cross_entropy
from gptcli.model.network import GPT

LOGITS_AT_ONCE = 2**25  # 128 MiB in fp32: large enough for efficient products, small beside any model


def target_logprobs(model: GPT, hidden: Tensor, targets: Tensor, vocab_size: int | None = None) -> Tensor:
    """Log-probability in nats of `targets` (N,) after final hidden states `hidden` (N, C): (N,) in fp32.

    `vocab_size` leaves ids from there on out of the softmax; None takes all rows of the head, as the training loss
    does.
    """
    step = max(1, LOGITS_AT_ONCE // model.config.vocab_size)
    parts = []
    for start in range(0, len(targets), step):
        logits = model.head(hidden[start : start + step])[:, :vocab_size]  # (step, V)
        parts.append(-cross_entropy(logits[None], targets[None, start : start + step], reduction="none"))
    return torch.cat(parts) if parts else hidden.new_zeros(0, dtype=torch.float32)
