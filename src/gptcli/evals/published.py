"""Scores that others have published, to stand beside ours. Only figures with a source, of the same style of scoring."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """HellaSwag accuracies of model `name`, as `source` gives them."""

    name: str
    acc: float
    acc_norm: float
    source: str


# The comments at the head of that file: completion style over all 10,042 validation examples.
_SOURCE = "karpathy/build-nanogpt hellaswag.py"
GPT2_COMPLETION = (
    Published("GPT-2 124M", 0.2859, 0.2955, _SOURCE),
    Published("GPT-2 1558M", 0.3842, 0.4893, _SOURCE),
)
