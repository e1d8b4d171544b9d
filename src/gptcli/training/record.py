"""`run.json`: what a run was told and found, and whether a later call may continue it."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from pydantic import JsonValue

import gptcli
from gptcli.data.durable import write_json
from gptcli.errors import Fault, raise_if
from gptcli.model.arithmetic import flops_per_token
from gptcli.training.run_file import RUN, read
from gptcli.training.setup import Setup
from gptcli.training.step import Trainee

# What may differ between two calls of one run; everything else is what the run is.
FREE = {
    "preset", "data_root", "n_batches", "max_iters", "n_epochs", "log_dir", "fresh", "profile", "monitor", "dry_run",
    "track", "on", "save_every", "keep_last", "keep_every", "keep_best", "max_time", "fit_time",
    "on_spike", "spike_zscore", "spike_limit",
    "eval_every", "eval_iters", "metrics", "eval_examples", "final_eval_examples", "hellaswag_data", "sample_every",
    "device", "gpus", "nodes", "node_rank", "rdzv_endpoint", "shard", "torch_matmul_precision", "compile",
    "precision", "activation_checkpointing",
    "vocab_size", "n_tokens", "emb_dim", "context_length", "n_layers", "n_heads", "qkv_bias", "drop_rate",
    "tie_embeddings", "n_kv_heads", "mlp_dim", "positions", "norm", "mlp", "qk_norm", "bias",
}  # fmt: skip


def identity(setup: Setup) -> dict[str, Any]:
    """What makes the run this run, resolved: model, data, tokenizer, seed, batch, optimiser."""
    settings = {name: value for name, value in setup.settings.model_dump(mode="json").items() if name not in FREE}
    return {
        **{f"model {name}": value for name, value in asdict(setup.config).items()},
        "data": setup.shards.fingerprint,
        "tokenizer": setup.tokenizer.sha256 if setup.tokenizer else None,
        "n_tokens": setup.length,
        **settings,
    }


def write(run: Path, setup: Setup, trainee: Trainee, facts: Mapping[str, str], command: Sequence[str] | None) -> None:
    """Write `run.json`, with `facts` as people are told them; what earlier calls said is kept under `calls`."""
    ranks, manifest = trainee.group.ranks, setup.shards.manifest
    before, parameters = read(run) or {}, trainee.model.n_parameters()
    call: dict[str, JsonValue] = {
        "command": list(command) if command else None,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"gpt": gptcli.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "git_commit": _git_commit(),
    }
    content: dict[str, JsonValue] = {
        "format": 1,
        "settings": setup.settings.model_dump(mode="json"),
        "identity": identity(setup),
        "steps": setup.steps,
        "warmup": setup.warmup,
        "resolved": {
            "parameters": parameters,
            "flops_per_token": flops_per_token(setup.config, parameters, setup.length),
            "tokens_per_step": setup.tokens_per_step,
            "n_batches": setup.micro_batch,
            "accumulation": setup.accumulation(ranks.world_size),
            "processes": ranks.world_size,
            "device": str(trainee.group.device),
            "metrics": list(setup.metrics),
            **trainee.numerics.as_dict(),
        },
        "facts": dict(facts),
        "data": {
            "folder": str(setup.shards.folder),
            "fingerprint": setup.shards.fingerprint,
            "tokens": {split: len(stream) for split, stream in sorted(setup.shards.splits.items())},
            "totals": manifest.totals.model_dump() if manifest else None,
            "sources": list(manifest.sources) if manifest else [],
        },
        "tokenizer": setup.tokenizer.name if setup.tokenizer else None,
        **call,
        "calls": [*before.get("calls", []), call],
    }
    write_json(run / RUN, content)


def check_same(run: Path, recorded: dict[str, Any], setup: Setup) -> list[str]:
    """Compare this call with the run that it would continue; returns notes on what it changes.

    Raises UsageError naming every difference that would make it another run.
    """
    now = identity(setup)
    faults = [
        Fault(f"The run in {run} has {_named(key)} {_short(before)}; this call says {_short(now.get(key))}.")
        for key, before in recorded["identity"].items()
        if now.get(key) != before
    ]
    if setup.steps < recorded["steps"]:
        faults.append(
            Fault(f"The run in {run} is {recorded['steps']} steps long; it can grow, but not shrink to {setup.steps}.")
        )
    if faults:
        last = faults.pop()
        faults.append(
            Fault(
                last.message,
                "To continue it, repeat its options. For another run choose another --log-dir, or --fresh, which moves "
                "this one aside.",
            )
        )
    raise_if(faults)
    if setup.steps > recorded["steps"]:
        return [
            f"The run grows from {recorded['steps']} to {setup.steps} steps: the learning rate follows the longer "
            "schedule from here on, so it jumps up once."
        ]
    return []


def _named(key: str) -> str:
    name = key.removeprefix("model ")
    return {"data": "data with fingerprint", "tokenizer": "a tokenizer with fingerprint"}.get(
        name, "--" + name.replace("_", "-")
    )


def _short(value: object) -> str:
    return f"{value[:12]}…" if isinstance(value, str) and len(value) == 64 else str(value)


def _git_commit() -> str | None:
    """The commit of the folder that the run is started in, if it is in a repository."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
