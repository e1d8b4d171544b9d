"""Whole training steps: how fast they are, what they take, and how both grow.

    python benchmarks/training.py steps --shape 124M-256 6x384 --make-peer FOLDER [--rounds 5]
    python benchmarks/training.py processes [--shape 124M-256]
    python benchmarks/training.py growth
    python benchmarks/training.py loss

`steps`: forward, backward, clipping and update by `gpt train`, by transformers, by gpt-from-scratch 1.1 (in an
environment of its own), and the bare matrix products of such a step. `processes`: `gpt train --gpus 2` on the cores of
a CPU beside one process that has them all. `growth`: steps of `gpt train` over width, depth, context and vocabulary,
one at a time, beside the arithmetic that is counted. `loss`: the loss alone, ours and torch's.

All on the CPU, in processes of their own and in turns; ratios are those of the same round: the median, the smallest and
the largest. The sides of `steps` stay alive while others have their turn, so memory has to hold them all; `--sides`
leaves some out.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from original import environment_of, make_environment
from sides.loss import LossTask
from sides.task import Task
from turns import MIB, Side, in_turns, spread
from whole_runs import Run, train, write_shards

from gptcli import GPT, GPTConfig
from gptcli.model.arithmetic import flops_per_token
from gptcli.training.numerics import fastest_matmul, precision_of

# GPT-2's network; `tiny` only shows that all works.
SHAPES = {
    "tiny": Task(n_layers=2, n_heads=2, emb_dim=128, n_batches=4, n_tokens=128),
    "6x384": Task(n_layers=6, n_heads=6, emb_dim=384, n_batches=16, n_tokens=256),
    "124M-256": Task(n_layers=12, n_heads=12, emb_dim=768, n_batches=4, n_tokens=256),
    "124M-1024": Task(n_layers=12, n_heads=12, emb_dim=768, n_batches=4, n_tokens=1024),
}
# The program of each side and what it computes in: what it chooses itself, or for the products what ours has chosen,
# where that is empty. `original-fp32` has to be asked for.
SIDES = {
    "ours": ("ours", ""),
    "transformers": ("transformers_gpt2", "fp32"),
    "original": ("original_gpt", "bf16"),
    "original-fp32": ("original_gpt", "fp32"),
    "products": ("products", ""),
}
ORIGINALS = ("original", "original-fp32")
GPT2_IDS = 50_257
PROCESSES, MICRO_BATCHES, STEPS = 2, 4, 5  # of `processes`: how many, micro-batches and steps of a run

# A factor at a time is changed from the base; a step is always of as many tokens.
GROWTH_TOKENS, GROWTH_STEPS = 1024, 12
BASE = {"width": 256, "depth": 4, "context": 256, "vocabulary": 8192}
GROWTH = {
    "width": (128, 512, 1024),
    "depth": (2, 8, 16),
    "context": (128, 512, 1024),
    "vocabulary": (2048, 32_768, 65_536),
}
LOSSES = ((1024, 768, 50_304), (4096, 384, 8192), (4096, 128, 128))  # tokens, width, vocabulary


def config_of(task: Task) -> GPTConfig:
    """The network of a task as ours has it."""
    return GPTConfig(
        vocab_size=task.vocab_size,
        emb_dim=task.emb_dim,
        context_length=task.context_length,
        n_layers=task.n_layers,
        n_heads=task.n_heads,
        qkv_bias=True,
    )


def flops_of(task: Task) -> int:
    """The arithmetic of a step as it is counted: with attention, whatever a side leaves out or does twice."""
    config = config_of(task)
    with torch.device("meta"):
        parameters = GPT(config).n_parameters()
    return flops_per_token(config, parameters, task.n_tokens) * task.tokens


def compare_steps(names: Sequence[str], task: Task, rounds: int, work: Path, peer: Path | None) -> None:
    """A row for each side; the first is the one that the others are compared with."""
    shards, chosen = str(write_shards(work / "shards", GPT2_IDS)), ""
    running: dict[str, Side] = {}
    with ExitStack() as stack:
        for name in names:
            program, precision = SIDES[name]
            given = replace(task, shards=shards, run=str(work / f"run_of_{name}"), precision=precision or chosen)
            python, environment = sys.executable, dict[str, str]()
            if name in ORIGINALS and peer:
                python, environment = str(peer), environment_of(peer, work)
            running[name] = stack.enter_context(Side(program, given, work, python, environment))
            chosen = running[name].facts["precision"] if name == "ours" else chosen
        turns = in_turns(running, rounds)
    rows = []
    for name, of_side in turns.items():
        facts = running[name].facts
        seconds = statistics.median(turn.seconds for turn in of_side)
        gflops = facts.get("flops", flops_of(task)) / seconds / 1e9
        ratios = [its.seconds / first.seconds for its, first in zip(of_side, turns[names[0]], strict=True)]
        speed = f"{task.tokens / seconds:.0f} | {gflops:.0f} | {of_side[-1].peak / MIB:.0f}"
        rows.append(f"{name} | {facts.get('precision') or SIDES[name][1]} | {speed} | {spread(ratios)}")
    print_table(f" | precision | tokens/s | GFLOP/s | peak memory, MiB | speed of {names[0]}, times its", rows)


def print_table(head: str, rows: Sequence[str]) -> None:
    """A table in Markdown, of lines with bars between the columns."""
    print(f"| {head} |\n{'|---' * (head.count('|') + 1)}|")
    for row in rows:
        print(f"| {row} |", flush=True)


def compare_processes(task: Task, rounds: int, work: Path) -> None:
    """Runs by one process and by several with the same micro-batches and the same total, in turns."""
    shards = write_shards(work / "shards", GPT2_IDS)
    options = {**_model_options(task), "preset": "gpt2", "n-batches": task.n_batches, "n-tokens": task.n_tokens}
    options |= {"total-batch-size": MICRO_BATCHES * task.tokens, "max-iters": STEPS}
    sides = {str(number): partial(train, shards, work, {**options, "gpus": number}) for number in (1, PROCESSES)}
    runs = _runs_in_turns(sides, rounds)
    rows = []
    for name, of_side in runs.items():
        rate = spread([MICRO_BATCHES * task.tokens / run.seconds for run in of_side], 0)
        ratios = [one.seconds / run.seconds for one, run in zip(runs["1"], of_side, strict=True)]
        peak = statistics.median(run.peak for run in of_side) / MIB
        told = f"{name} | {_precisions(of_side)} | {rate} | {peak:.0f} | {_waited(of_side)}"
        rows.append(f"{told} | {spread(ratios)}")
    columns = "precision | tokens/s | peak memory of each, MiB | waited for data | speed, times that of one"
    print_table(f"processes | {columns}", rows)


def _waited(runs: Sequence[Run]) -> str:
    shares = [run.waited for run in runs if run.waited is not None]
    return f"{100 * statistics.median(shares):.2f}%" if shares else "not told"


def _precisions(runs: Sequence[Run]) -> str:
    return ", ".join(sorted({run.precision for run in runs}))


def _runs_in_turns(sides: Mapping[str, Callable[[], Run]], rounds: int) -> dict[str, list[Run]]:
    runs: dict[str, list[Run]] = {name: [] for name in sides}
    names = list(sides)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            runs[name].append(sides[name]())
            told = f"  round {number + 1}: {name}, {runs[name][-1].seconds:.3f} s"
            print(told, file=sys.stderr, flush=True)
    return runs


def _model_options(task: Task) -> dict[str, object]:
    names = ("n_layers", "n_heads", "emb_dim", "context_length", "vocab_size")
    return {name.replace("_", "-"): getattr(task, name) for name in names}


def measure_growth(rounds: int, work: Path) -> None:
    """Every point in every round, each beside the base of its round."""
    points = {f"{factor} {value}": {**BASE, factor: value} for factor, values in GROWTH.items() for value in values}
    tasks = {name: _task_at(point) for name, point in {"base": BASE, **points}.items()}

    def run(task: Task) -> Run:
        shards = write_shards(work / "shards", task.vocab_size)
        options = {"n-batches": task.n_batches, "total-batch-size": task.tokens, "max-iters": GROWTH_STEPS}
        return train(shards, work, {"preset": "gpt2", **_model_options(task), **options})

    runs = _runs_in_turns({name: partial(run, task) for name, task in tasks.items()}, rounds)
    rows = []
    for name, of_point in runs.items():
        flops, grown = flops_of(tasks[name]), flops_of(tasks[name]) / flops_of(tasks["base"])
        ratios = [one.seconds / base.seconds for one, base in zip(of_point, runs["base"], strict=True)]
        milliseconds = 1000 * statistics.median(one.seconds for one in of_point)
        peak = statistics.median(one.peak for one in of_point) / MIB
        told = f"{name} | {_precisions(of_point)} | {flops / 1e9:.1f} | {milliseconds:.0f} | {spread(ratios)}"
        rows.append(f"{told} | {spread([ratio / grown for ratio in ratios])} | {peak:.0f}")
    told = ", ".join(f"{factor} {value:,}" for factor, value in BASE.items())
    print(f"Base: {told}; {GROWTH_TOKENS:,} tokens a step.\n")
    columns = "precision | GFLOP a step | ms | time, times the base's | the same for each FLOP | peak memory, MiB"
    print_table(f" | {columns}", rows)


def _task_at(point: Mapping[str, int]) -> Task:
    return Task(
        n_layers=point["depth"],
        n_heads=point["width"] // 64,
        emb_dim=point["width"],
        n_batches=GROWTH_TOKENS // point["context"],
        n_tokens=point["context"],
        context_length=point["context"],
        vocab_size=point["vocabulary"],
    )


def compare_losses(rounds: int, work: Path) -> None:
    """Both in the precision that training at that width would have here."""
    device, rows = torch.device("cpu"), []
    measured = fastest_matmul(device)
    for tokens, width, vocab_size in LOSSES:
        task = LossTask("", tokens, width, vocab_size, precision_of(device, width, lambda: measured))
        with ExitStack() as stack:
            sides = {by: Side("loss", replace(task, by=by), work, sys.executable) for by in ("ours", "torch")}
            for side in sides.values():
                stack.enter_context(side)
            turns = in_turns(sides, rounds)
        for by, of_side in turns.items():
            ratios = [its.seconds / ours.seconds for its, ours in zip(of_side, turns["ours"], strict=True)]
            figures = f"{1000 * statistics.median(turn.seconds for turn in of_side):.0f} | {of_side[-1].peak / MIB:.0f}"
            shape = f"{tokens:,} × {width}, {vocab_size:,}"
            rows.append(f"{shape} | {task.precision} | {by} | {figures} | {spread(ratios)}")
    columns = "precision | loss | ms | peak memory, MiB | speed of ours, times its"
    print_table(f"tokens × width, vocabulary | {columns}", rows)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["steps", "processes", "growth", "loss"], default="steps")
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=["124M-256"], help="of steps and processes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--sides", type=lambda text: text.split(","), help=f"of steps, with commas between, of {','.join(SIDES)}"
    )
    parser.add_argument("--work", type=Path, help="folder for data and runs; default: a temporary one")
    peer = parser.add_mutually_exclusive_group()
    peer.add_argument("--peer-python", type=Path, help="Python of an environment that has the original")
    peer.add_argument("--make-peer", type=Path, metavar="FOLDER", help="make such an environment there, unless it is")
    given = parser.parse_args()
    has_peer = given.peer_python or given.make_peer
    given.sides = given.sides or [name for name in SIDES if name not in ORIGINALS or (name == "original" and has_peer)]
    if unknown := set(given.sides) - set(SIDES):
        parser.error(f"--sides: there is no {', '.join(sorted(unknown))}")
    if given.what == "steps" and set(ORIGINALS) & set(given.sides) and not has_peer:
        parser.error("the original needs --peer-python or --make-peer")
    return given


def main() -> None:
    """Measure, and print the tables."""
    given = parse()
    peer = make_environment(given.make_peer.resolve()) if given.make_peer else given.peer_python
    releases = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    print(f"{platform.platform()}, Python {platform.python_version()}, {torch.get_num_threads()} threads, {releases}")
    with tempfile.TemporaryDirectory(prefix="training_", dir=given.work) as folder:
        work = Path(folder)
        if given.what == "growth":
            print()
            measure_growth(given.rounds, work)
        elif given.what == "loss":
            print()
            compare_losses(given.rounds, work)
        else:
            for name in given.shape:
                task = SHAPES[name]
                print(f"\n{name}: {task.n_layers} layers, width {task.emb_dim}, {task.n_batches} × {task.n_tokens}\n")
                if given.what == "processes":
                    compare_processes(task, given.rounds, work)
                else:
                    compare_steps(given.sides, task, given.rounds, work, peer and peer.absolute())


if __name__ == "__main__":
    main()
