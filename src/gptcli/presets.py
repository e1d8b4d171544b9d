"""Model sizes and recipes as data: `--preset NAME` sets these options of `gpt train` where nothing else does.

A new preset is one entry here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

Value = int | float | bool | str
_GPT2_ROWS = 50_304  # of an embedding: GPT-2's vocabulary, padded

# Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", table 2: sizes. The learning rates are
# those of Brown et al. 2020 (GPT-3), table 2.1, for the nearest size.
_GPT2: Mapping[str, Value] = {"context_length": 1024, "qkv_bias": True}


# The widest sequences that a device takes at once, by depth, for cards of 8, 12, 24 and 80 GB from depth 12 on.
_DEPTHS: Mapping[int, int] = {2: 8, 4: 4, 6: 4, 8: 4, 12: 2, 16: 2, 24: 2, 32: 4}


def modern(depth: int, micro_batch: int) -> dict[str, Value]:
    """The modern decoder (Qwen3's, Yang et al. 2025) and its recipe, all from the depth; figures in
    `benchmarks/README.md`.

    Width 64 a layer, so that depth and width grow together (Kaplan et al. 2020, section 3: their ratio matters little),
    and heads of 64, at least four. Muon (Jordan et al. 2024) at a learning rate that holds for all widths, as those of
    the embeddings do, while that of the head falls with the width (Yang et al. 2022, table 8). Of tokens 20 for each
    parameter (Hoffmann et al. 2022), but no more than four passes over the data (Muennighoff et al. 2023). The batch
    grows with the tokens to the power of 0.4 (Bergsma et al. 2025), and so about with the depth, from GPT-3's half a
    million at depth 12 (Brown et al. 2020, table 2.1).
    """
    width = 64 * depth
    mlp = -(-8 * width // (3 * 64)) * 64
    parameters = depth * (4 * width**2 + 3 * width * mlp) + 2 * _GPT2_ROWS * width
    batch = 2 ** round(math.log2(2**19 * depth / 12))
    return {
        "n_layers": depth,
        "n_heads": max(4, depth),
        "emb_dim": width,
        "context_length": 1024,
        "positions": "rotary",
        "norm": "rms",
        "mlp": "swiglu",
        "qk_norm": True,
        "bias": False,
        "tie_embeddings": False,
        "init": "zero",
        "optimizer": "muon",
        "schedule": "wsd",
        "decay_share": 0.4,
        "max_lr": 0.04,
        "embedding_lr": 0.3,
        "head_lr": 2 / width,
        "min_lr": 0.0,
        "warmup_iters": 0,
        "beta1": 0.8,
        "weight_decay": 0.0,
        "n_batches": micro_batch,
        "total_batch_size": batch,
        "max_iters": round(20 * parameters / batch),
        "n_epochs": 4.0,
    }


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
        "final_eval_examples": 500,
        "sample_every": 100,
        "save_every": 200,
    },
    **{f"modern-d{depth}": modern(depth, micro_batch) for depth, micro_batch in _DEPTHS.items()},
}


def values_of(preset: str, given: Mapping[str, object]) -> dict[str, Value]:
    """What a preset sets beside the options that were `given`: no length where one of these says it."""
    lengths = ("max_iters", "n_epochs", "fit_time")
    is_given = any(given.get(name) is not None for name in lengths)
    return {name: value for name, value in PRESETS[preset].items() if not (is_given and name in lengths)}
