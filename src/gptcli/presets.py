"""Model sizes and recipes as data: `--preset NAME` sets these options of `gpt train` where nothing else does.

A new preset is one entry here.
"""

from __future__ import annotations

from collections.abc import Mapping

Value = int | float | bool | str

# Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", table 2: sizes. The learning rates are
# those of Brown et al. 2020 (GPT-3), table 2.1, for the nearest size.
_GPT2: Mapping[str, Value] = {"context_length": 1024, "qkv_bias": True}

PRESETS: Mapping[str, Mapping[str, Value]] = {
    "gpt2": {**_GPT2, "n_layers": 12, "n_heads": 12, "emb_dim": 768, "max_lr": 6e-4, "min_lr": 6e-5},
    "gpt2-medium": {**_GPT2, "n_layers": 24, "n_heads": 16, "emb_dim": 1024, "max_lr": 3e-4, "min_lr": 3e-5},
    "gpt2-large": {**_GPT2, "n_layers": 36, "n_heads": 20, "emb_dim": 1280, "max_lr": 2.5e-4, "min_lr": 2.5e-5},
    "gpt2-xl": {**_GPT2, "n_layers": 48, "n_heads": 25, "emb_dim": 1600, "max_lr": 2e-4, "min_lr": 2e-5},
    # A model that two laptop cores train in two to three minutes: most of its work is the output head.
    "demo": {
        "n_layers": 4,
        "n_heads": 4,
        "emb_dim": 128,
        "context_length": 128,
        "qkv_bias": True,
        "n_batches": 4,
        "total_batch_size": 512,
        "max_lr": 2e-3,
        "min_lr": 2e-4,
        "warmup_iters": 50,
        "max_iters": 400,
        "eval_every": 100,
        "eval_iters": 20,
        "eval_examples": 100,
        "sample_every": 100,
        "save_every": 200,
    },
}


def values_of(preset: str, given: Mapping[str, object]) -> dict[str, Value]:
    """What a preset sets beside the options that were `given`: no length where --fit-time says it in another way."""
    values = dict(PRESETS[preset])
    if given.get("fit_time") is not None:
        values.pop("max_iters", None)
    return values
