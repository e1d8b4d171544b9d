"""How fast the modern recipe learns, beside the classic ones.

    python benchmarks/recipes.py characters --text tinyshakespeare.txt --work FOLDER [--ablate]
    python benchmarks/recipes.py books --text books.parquet --work FOLDER [--ablate]
    python benchmarks/recipes.py widths --text books.parquet --work FOLDER

`characters`: nanoGPT's recipe for a CPU against `--preset modern-d2`, character by character. `books`: the recipe of
gpt-from-scratch 1.1 against `--preset modern-d6`, on a byte-level BPE of 4,096 tokens. Each arm is a whole `gpt train`
on the CPU, for several seeds, in turns; what counts is the time of its training steps, and its loss on the whole
validation split at the end. `--ablate` trains the modern arm once more without each of its parts. `widths` trains four
layers with several learning rates at the widths of modern-d2, -d4 and -d8.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

GPT = [sys.executable, "-m", "gptcli"]
Options = Mapping[str, object]

CHARACTERS: Options = {"vocab_size": 65, "context_length": 64, "n_batches": 12, "total_batch_size": 12 * 64}
NANOGPT: Options = {
    "n_layers": 4, "n_heads": 4, "emb_dim": 128, "bias": False, "max_iters": 2000, "warmup_iters": 100,
    "max_lr": 1e-3, "min_lr": 1e-4, "beta1": 0.9, "beta2": 0.99,
}  # fmt: skip
BOOKS: Options = {"context_length": 256, "n_batches": 16, "total_batch_size": 4096}
ORIGINAL: Options = {
    "n_layers": 6, "n_heads": 6, "emb_dim": 384, "tie_embeddings": False, "max_iters": 600, "warmup_iters": 60,
    "max_lr": 6e-4, "min_lr": 6e-5, "beta1": 0.9, "beta2": 0.95, "weight_decay": 0.1,
}  # fmt: skip
# What the modern recipe is without one of its parts, or with one more.
PARTS: Mapping[str, Options] = {
    "AdamW in place of Muon, 1e-3": {"optimizer": "adamw", "max_lr": 1e-3},
    "AdamW in place of Muon, 3e-3": {"optimizer": "adamw", "max_lr": 3e-3},
    "AdamW in place of Muon, 1e-2": {"optimizer": "adamw", "max_lr": 1e-2},
    "cosine in place of stable, then straight down": {"schedule": "cosine"},
    "straight down from the start": {"decay_share": 1.0},
    "with a warm-up of 20 steps": {"warmup_iters": 20},
    "GPT-2's first weights": {"init": "gpt2", "embedding_lr": 0.3 * 0.02},
    "one learning rate for all": {"embedding_lr": 0.04, "head_lr": 0.04},
    "beta1 0.9": {"beta1": 0.9},
    "weight decay 0.1": {"weight_decay": 0.1},
    "tied embeddings": {"tie_embeddings": True},
    "GPT-2's network": {"positions": "learned", "norm": "layer", "mlp": "gelu", "qk_norm": False},
    "without QK norm (Llama)": {"qk_norm": False},
    "half as many key-value heads": {"n_kv_heads": 2},
}  # fmt: skip
# The same for what is no option: Python that runs before the command.
INNER_PARTS: Mapping[str, str] = {
    "Muon: momentum 0.95 from the start": "muon.FIRST_MOMENTUM = 0.95",
    "Muon: stacked matrices as one": "optimizers.Matrix = lambda weight, _: muon.Matrix(weight, (len(weight),))",
    "Muon: Polar Express' fifth iteration": "muon._POLYNOMIALS += ((2.3006520199548186, -1.6689039845747518, "
    "0.4188073119525678),)",
    "Muon: Jordan's five iterations": "muon._POLYNOMIALS = ((3.4445, -4.7750, 2.0315),) * 5",
}


@dataclass(frozen=True)
class Trained:
    """What a run came to: its loss on the whole validation split, the seconds of its steps, and its size."""

    loss: float
    seconds: float
    steps: int
    parameters: int


def train(shards: Path, work: Path, options: Options, threads: int | None) -> Trained:
    """Train once, in a process of its own."""
    options = dict(options)
    first = f"from gptcli.optim import muon, optimizers; {options.pop('first', '')}"
    run = work / "run"
    shutil.rmtree(run, ignore_errors=True)
    never = 10**9
    fixed: Options = {
        "data_root": shards, "log_dir": run, "device": "cpu", "metrics": "none", "eval_every": never,
        "eval_iters": never, "sample_every": never, "save_every": never, "keep_best": False, "monitor": False,
    }  # fmt: skip
    words = [word for name, value in {**fixed, **options}.items() for word in _words(name, value)]
    environment = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    command = [sys.executable, "-c", f"{first}\nfrom gptcli.cli.main import main\nmain()", "train", *words]
    subprocess.run(command, check=True, env=os.environ | environment, capture_output=True)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [row["step_ms"] / 1000 for row in rows if row["kind"] == "train"]
    loss = [row["loss"] for row in rows if row["kind"] == "val"][-1]
    resolved = json.loads((run / "run.json").read_text(encoding="utf-8"))["resolved"]
    return Trained(loss, sum(steps), len(steps), resolved["parameters"])


def _words(name: str, value: object) -> list[str]:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{'' if value else 'no-'}{flag}"]
    return [] if value is None else [f"--{flag}", str(value)]


def write_characters(text: Path, folder: Path) -> Path:
    """Shards of a text, character by character: the first 90% to train on, the rest to validate."""
    characters = text.read_text(encoding="utf-8")
    number = {character: i for i, character in enumerate(sorted(set(characters)))}
    ids = np.array([number[character] for character in characters], dtype=np.uint16)
    folder.mkdir(parents=True, exist_ok=True)
    border = len(ids) * 9 // 10
    np.save(folder / "train_000001.npy", ids[:border])
    np.save(folder / "val_000000.npy", ids[border:])
    return folder


def write_books(text: Path, folder: Path) -> Path:
    """Shards of a Parquet file of texts, in a byte-level BPE of 4,096 tokens that is trained on it."""
    tokenizer, shards = folder / "tokenizer.json", folder / "shards"
    if not (shards / "manifest.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        learn = ["tokenizer", "train", str(text), "--vocab-size", "4096", "--output", str(tokenizer), "--fresh"]
        write = ["tokenize", str(text), "--tokenizer-model", str(tokenizer), "--local-dir", str(shards)]
        for words in (learn, [*write, "--val-tokens", "131072"]):
            subprocess.run([*GPT, *words], check=True, capture_output=True)
    return shards


def train_all(
    shards: Path, work: Path, arms: Mapping[str, Options], seeds: Sequence[int], threads: int | None
) -> dict[str, list[Trained]]:
    """Train all arms for all seeds, in turns."""
    results: dict[str, list[Trained]] = {name: [] for name in arms}
    for seed in seeds:
        for name, options in arms.items():
            trained = train(shards, work, {**options, "seed": seed}, threads)
            results[name].append(trained)
            told = f"  seed {seed}, {name}: {trained.loss:.4f} after {trained.seconds:.1f} s"
            print(told, file=sys.stderr, flush=True)
    return results


def print_beside_first(results: Mapping[str, list[Trained]]) -> None:
    """Print each arm beside the first."""
    first = next(iter(results.values()))
    print("| | parameters | steps | loss | seconds | steps, times fewer | time, times less |")
    print("|---|---|---|---|---|---|---|")
    for name, runs in results.items():
        loss, seconds = _median(run.loss for run in runs), _median(run.seconds for run in runs)
        ratios = [one.seconds / other.seconds for one, other in zip(first, runs, strict=True)]
        spread = f"{min(run.loss for run in runs):.4f} to {max(run.loss for run in runs):.4f}"
        print(
            f"| {name} | {runs[0].parameters:,} | {runs[0].steps} | {loss:.4f} ({spread}) | {seconds:.1f} | "
            f"{first[0].steps / runs[0].steps:.2f} | {_median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |"
        )


def print_widths(results: Mapping[str, list[Trained]], presets: Sequence[str], rates: Sequence[float]) -> None:
    """Print the losses of all rates by width."""
    print("| learning rates, times the preset's | " + " | ".join(f"width of `{preset}`" for preset in presets) + " |")
    print("|---" * (1 + len(presets)) + "|")
    for rate in rates:
        losses = [_median(run.loss for run in results[f"{preset} × {rate:g}"]) for preset in presets]
        print(f"| {rate:g} | " + " | ".join(f"{loss:.4f}" for loss in losses) + " |")


def _median(values: object) -> float:
    return statistics.median(values)  # type: ignore[call-overload,no-any-return]


def main() -> None:
    """Parse, train, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["characters", "books", "widths"])
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="of the modern recipe")
    parser.add_argument("--threads", type=int, help="of each run; all cores by default")
    parser.add_argument("--ablate", action="store_true")
    rates = [0.25, 0.5, 1.0, 2.0, 4.0]
    parser.add_argument("--rates", type=float, nargs="*", default=rates, help="for widths: times the preset's")
    given = parser.parse_args()
    seeds = range(1, given.seeds + 1)
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, seeds {list(seeds)}\n")
    if given.what == "characters":
        shards = write_characters(given.text, given.work / "characters")
        classic, modern = NANOGPT, {"preset": "modern-d2", "max_iters": given.steps or 300}
        shared = CHARACTERS
    else:
        shards = write_books(given.text, given.work / "books")
        classic, modern = ORIGINAL, {"preset": "modern-d6", "max_iters": given.steps or 90}
        shared = BOOKS
    arms: dict[str, Options] = {"classic": {**shared, **classic}, "modern": {**shared, **modern}}
    if given.what == "widths":
        presets = [f"modern-d{depth}" for depth in (2, 4, 8)]
        arms = {
            f"{preset} × {rate:g}": {**shared, **_scaled(preset, rate), "max_iters": given.steps or 60}
            for preset in presets
            for rate in given.rates
        }
        print_widths(train_all(shards, given.work, arms, seeds, given.threads), presets, given.rates)
        return
    if given.ablate:
        inner = {name: {"first": code} for name, code in INNER_PARTS.items()}
        arms = {"modern": arms["modern"], **{n: {**arms["modern"], **part} for n, part in {**PARTS, **inner}.items()}}
    print_beside_first(train_all(shards, given.work, arms, seeds, given.threads))


def _scaled(preset: str, rate: float) -> Options:
    """A preset of the depth rule, four layers deep, with all its learning rates times `rate`."""
    from gptcli.presets import PRESETS

    rates = {name: float(PRESETS[preset][name]) * rate for name in ("max_lr", "embedding_lr", "head_lr")}
    return {"preset": preset, "n_layers": 4, **rates}


if __name__ == "__main__":
    main()
