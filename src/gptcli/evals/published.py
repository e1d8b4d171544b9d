"""Scores that others have published, to stand beside ours. Only figures with a source, of the same style of scoring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedScore:
    """Accuracies of model `name` over all examples of a task, as `source` gives them."""

    name: str
    acc: float
    acc_norm: float
    source: str


# The comments at the head of that file: its own completion style, and what it cites of lm-evaluation-harness.
_SOURCE = "karpathy/build-nanogpt hellaswag.py"
PUBLISHED: Mapping[tuple[str, str], tuple[PublishedScore, ...]] = {
    ("hellaswag", "completion"): (
        PublishedScore("GPT-2 124M", 0.2859, 0.2955, _SOURCE),
        PublishedScore("GPT-2 1558M", 0.3842, 0.4893, _SOURCE),
    ),
    ("hellaswag", "lm-eval"): (
        PublishedScore("GPT-2 124M", 0.2892, 0.3114, _SOURCE),
        PublishedScore("GPT-2 1558M", 0.4004, 0.5089, _SOURCE),
    ),
}


def standing(interval: tuple[float, float], published: float) -> str:
    """Where a score stands whose true value lies in `interval` with 95% confidence: "above", "below", or "not told
    apart from" what was published."""
    low, high = interval
    if published < low:
        return "above"
    return "below" if published > high else "not told apart from"
