"""What several tests stand on: small token shards, settings of a run that takes about a second, a random network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from gptcli.model.config import GPTConfig
from gptcli.model.network import GPT
from gptcli.settings import TrainSettings

MODERN: dict[str, object] = {
    "positions": "rotary", "norm": "rms", "mlp": "swiglu", "bias": False, "qk_norm": True, "tie_embeddings": False,
    "optimizer": "muon", "init": "zero", "schedule": "wsd", "embedding_lr": 0.1, "head_lr": 1e-2,
}  # fmt: skip


def write_shards(folder: Path, train_tokens: int = 6_000, val_tokens: int = 1_050) -> Path:
    """Shards without a manifest, as the original left them; a text of few words, so that a model learns it quickly."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    words = generator.integers(0, 50_256, 40)
    for name, n in (
        ("val_000000", val_tokens),
        ("train_000001", train_tokens // 2),
        ("train_000002", train_tokens // 2),
    ):
        np.save(folder / f"{name}.npy", words[generator.integers(0, len(words), n)].astype(np.uint16))
    return folder


def tiny(shards: Path, log_dir: Path, **changes: object) -> TrainSettings:
    """Settings of a run that takes about a second."""
    options: dict[str, object] = {
        "data_root": str(shards),
        "log_dir": str(log_dir),
        "n_layers": 2,
        "n_heads": 2,
        "emb_dim": 16,
        "context_length": 16,
        "n_batches": 2,
        "total_batch_size": 64,
        "max_iters": 6,
        "warmup_iters": 2,
        "max_lr": 1e-2,
        "min_lr": 1e-3,
        "eval_every": 3,
        "eval_iters": 2,
        "save_every": 3,
        "sample_every": 3,
        "metrics": ("none",),
        "device": "cpu",
        "seed": 1,
    }
    return TrainSettings(**{**options, **changes})


def sharp(config: GPTConfig) -> GPT:
    """A random network whose likelihoods differ well between texts."""
    model = GPT(config)
    model.initialise(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(10)
    return model.eval()
