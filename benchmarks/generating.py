"""Generation with GPT-2 124M (random weights): `gpt generate` beside `generate` of transformers.

    python benchmarks/generating.py --text book.txt [--parts stream,batch,first,cold] [--rounds 5]

`stream` is one text of 128 new tokens, `batch` 16 of them, `first` the first token after a prompt of 512, `cold` that
of a whole `gpt generate` from its start, beside importing torch and reading the file. Each side has a process of
its own, and they compute in turns; ratios are those of one round: the median, the smallest and the largest. Ours is
timed with its weights in fp32, bf16, int8 and as `--weights auto` decides by their loss on the text.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

from sides.gen_task import GenTask
from turns import MIB, Side, in_turns, spread

from gptcli import GPT, GPTConfig
from gptcli.model.huggingface import write_model
from gptcli.tokenizer import get_tokenizer
from gptcli.tokenizer_files import write_tokenizer

GPT2 = GPTConfig(vocab_size=50_304, emb_dim=768, context_length=1024, n_layers=12, n_heads=12, qkv_bias=True)
PARTS = {"stream": (1, 32, 128), "batch": (16, 32, 128), "first": (1, 512, 1)}  # rows, tokens of prompt, new ones
OURS = ("fp32", "bf16", "int8", "auto")
COLD = """\
import time, torch
from pathlib import Path
began = time.perf_counter()
Path({file!r}).read_bytes()
"""


def prepare(work: Path, text: Path, environment: dict[str, str]) -> Path:
    """Write the model, and let its weights be decided on the text."""
    folder = work / "model"
    folder.mkdir()
    write_model(folder, GPT.create(GPT2, seed=0), get_tokenizer("gpt2").eot)
    write_tokenizer(folder, get_tokenizer("gpt2"), GPT2.context_length)
    words = ["eval", "loss", "--weights", "auto", "--model", str(folder), "--text", str(text), "--limit", "4"]
    gpt = [sys.executable, "-c", "from gptcli.cli.main import main; main()"]
    subprocess.run([*gpt, *words], env=os.environ | environment, check=True)
    return folder


def compare(part: str, folder: Path, work: Path, environment: dict[str, str], rounds: int) -> None:
    """Print the tokens a second of each side and how many times that of transformers it is."""
    rows, prompt, new = PARTS[part]
    print(f"\n{part}: {rows} × ({prompt} + {new} tokens)")
    with ExitStack() as stack:
        sides = {}
        for weights in OURS:
            task = GenTask(str(folder), weights, rows, prompt, new)
            side = stack.enter_context(Side("gen_ours", task, work, sys.executable, environment))
            sides[f"ours, {weights}" + (f": {side.facts['weights']}" if weights == "auto" else "")] = side
        task = GenTask(str(folder), "fp32", rows, prompt, new)
        theirs = "transformers"
        sides[theirs] = stack.enter_context(Side("gen_transformers", task, work, sys.executable, environment))
        turns = in_turns(sides, rounds)
    for name, of_side in turns.items():
        speed = statistics.median(rows * new / turn.seconds for turn in of_side)
        ratios = [b.seconds / a.seconds for a, b in zip(of_side, turns[theirs], strict=True)]
        peak = max(turn.peak for turn in of_side) / MIB
        print(f"| {name} | {speed:.1f} | {peak:.0f} | {spread(ratios)} |")


def cold(folder: Path, environment: dict[str, str], rounds: int) -> None:
    """Print how long the first token of a whole command takes, beside importing torch and reading the file."""
    print("\ncold: the first token of `gpt generate`, beside `import torch` and reading model.safetensors")
    file = str(folder / "model.safetensors")
    sides = {"import torch": ([sys.executable, "-c", COLD.format(file=file)], environment)}
    for name, weights in (("fp32", "fp32"), ("auto", "auto"), ("int8, cached", "auto")):
        gpt = [sys.executable, "-c", "from gptcli.cli.main import main; main()", "generate", "On a clear day"]
        words = [*gpt, "--model", str(folder), "--weights", weights, "--max-new-tokens", "1"]
        own = {"XDG_CACHE_HOME": environment["XDG_CACHE_HOME"] + "_int8"} if name == "int8, cached" else environment
        sides[name] = (words, own)
    code = (
        "from pathlib import Path; import torch; from gptcli.inference.weight_choice import Decision, remember; "
        f"remember(Path({str(folder)!r}), torch.device('cpu'), Decision('int8', {{}}, {{}}))"
    )
    subprocess.run([sys.executable, "-c", code], env=os.environ | own, check=True)
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, (words, own) in sides.items():
            began = time.perf_counter()
            subprocess.run(words, env=os.environ | own, stdout=subprocess.DEVNULL, check=True)
            if number:
                times[name].append(time.perf_counter() - began)
    for name, seconds in times.items():
        ratios = [a / b for a, b in zip(seconds, times["import torch"], strict=True)]
        print(f"| {name} | {statistics.median(seconds):.2f} s | {spread(ratios)} |")


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--parts", default="stream,batch,first,cold")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    told = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    print(f"{platform.machine()}, Python {platform.python_version()}, {told}")
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        environment = {"XDG_CACHE_HOME": str(work / "cache")}
        folder = prepare(work, args.text, environment)
        for part in args.parts.split(","):
            if part == "cold":
                cold(folder, environment, args.rounds)
            else:
                compare(part, folder, work, environment, args.rounds)


if __name__ == "__main__":
    main()
