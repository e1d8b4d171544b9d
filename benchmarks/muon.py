"""One update of the hidden matrices: our Muon beside `torch.optim.Muon`.

    python benchmarks/muon.py --depths 6 12 --runs 7

Both move the same matrices of `--preset modern-d…` by the same gradients, in turns; ours in each precision. torch's
takes the stacked weights of queries, keys and values, and of SwiGLU, as one matrix each.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch

from gptcli import GPT, GPTConfig
from gptcli.model.config import stacked
from gptcli.optim.muon import Matrix, Muon
from gptcli.presets import PRESETS


def updates(depth: int) -> dict[str, Callable[[], object]]:
    """One update by each side, of copies of the same matrices."""
    shape = {
        name: value for name, value in PRESETS[f"modern-d{depth}"].items() if name in GPTConfig.__dataclass_fields__
    }
    config = GPTConfig(vocab_size=128, **shape)  # type: ignore[arg-type]
    heights = stacked(config)
    sides: dict[str, Callable[[], object]] = {}
    for name in ("torch", "ours, bf16", "ours, fp32"):
        model = GPT.create(config, seed=0)
        hidden = {name: p for name, p in model.blocks.named_parameters() if p.dim() == 2}
        for parameter in hidden.values():
            parameter.grad = torch.randn(parameter.shape)
        if name == "torch":
            sides[name] = torch.optim.Muon(list(hidden.values()), lr=1e-3).step
            continue
        matrices = [
            Matrix(p, next((h for end, h in heights.items() if name.endswith(f"{end}.weight")), (p.shape[0],)))
            for name, p in hidden.items()
        ]
        dtype = torch.bfloat16 if "bf16" in name else torch.float32
        sides[name] = Muon(matrices, weight_decay=0.0, dtype=dtype).step
    return sides


def main() -> None:
    """Time all sides in turns, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depths", type=int, nargs="+", default=[6, 12])
    parser.add_argument("--runs", type=int, default=7)
    given = parser.parse_args()
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| depth | side | ms | times torch's speed |\n|---|---|---|---|")
    for depth in given.depths:
        sides = updates(depth)
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for run in range(given.runs + 1):
            for name, update in sides.items():
                began = time.perf_counter()
                update()
                if run:  # the first warms up
                    seconds[name].append(time.perf_counter() - began)
        for name, of_side in seconds.items():
            ratios = [theirs / ours for theirs, ours in zip(seconds["torch"], of_side, strict=True)]
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            print(f"| {depth} | {name} | {1e3 * statistics.median(of_side):.0f} | {spread} |")


if __name__ == "__main__":
    main()
