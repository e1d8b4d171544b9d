"""Whole runs of `gpt train` on a CPU, each a command of its own, and what they logged of their steps."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gptcli.training import metrics

WARM_UP = 2  # steps that are left out
TOKENS = 2**20  # in the training shard
Options = Mapping[str, object]


@dataclass(frozen=True)
class Run:
    """The median step in seconds, its peak memory in bytes (of the first process), the share of their time that the
    steps waited for data (None where the log does not tell), and the precision."""

    seconds: float
    peak: int
    waited: float | None
    precision: str


def train(shards: Path, work: Path, options: Options) -> Run:
    """Train once; nothing is validated, sampled or saved before the end."""
    run = work / "run"
    shutil.rmtree(run, ignore_errors=True)
    never = 10**9
    fixed: Options = {
        "data-root": shards, "log-dir": run, "device": "cpu", "metrics": "none", "eval-every": never, "eval-iters": 1,
        "sample-every": never, "save-every": never,
    }  # fmt: skip
    words = [word for name, value in {**fixed, **options}.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "gptcli", "train", *words, "--no-keep-best", "--no-monitor"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GPTCLI_")}
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    rows = [row for row in metrics.read(run / metrics.METRICS) if row["kind"] == "train"]
    resolved = json.loads((run / "run.json").read_text(encoding="utf-8"))["resolved"]
    shutil.rmtree(run)  # its checkpoint is large
    return _measured(rows, resolved["precision"])


def _measured(rows: Sequence[Mapping[str, Any]], precision: str) -> Run:
    counted = rows[WARM_UP:]
    milliseconds = [row["step_ms"] for row in counted]
    waited = sum(row["data_ms"] for row in counted) / sum(milliseconds) if "data_ms" in counted[0] else None
    return Run(statistics.median(milliseconds) / 1000, rows[-1]["peak_memory_bytes"], waited, precision)


def write_shards(folder: Path, vocab_size: int) -> Path:
    """Shards of no text: ids as frequent as words are (Zipf), each for itself."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for name, tokens in (("val_000000", TOKENS // 16), ("train_000001", TOKENS)):
        ids = (vocab_size ** random.random(tokens)).astype(np.uint16) - 1
        np.save(folder / f"{name}.npy", ids)
    return folder
