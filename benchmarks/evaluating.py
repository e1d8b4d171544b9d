"""HellaSwag on GPT-2 124M (random weights): `gpt eval` beside lm-evaluation-harness and gpt-from-scratch 1.1.

    python benchmarks/evaluating.py --data hellaswag_val.jsonl.xz [--make-peer FOLDER] [--rounds 4] [--per-turn 100]

The examples are spread over the file, which begins with short ones. Each side has a process of its own, and they
compute in turns, the same examples in each; ratios are those of one round: the median, the smallest and the largest.
lm-evaluation-harness (the extra lm-eval) is taken at several batch sizes, of which its fastest counts.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from original import environment_of, make_environment
from sides.eval_task import EvalTask
from turns import MIB, Side, in_turns, spread

from gptcli import GPT, GPTConfig
from gptcli.evals.hellaswag import HELLASWAG
from gptcli.evals.origin import Row, locate, read
from gptcli.evals.origin import spread as spread_over
from gptcli.model.huggingface import write_model
from gptcli.tokenizer import get_tokenizer
from gptcli.tokenizer_files import write_tokenizer

GPT2 = GPTConfig(vocab_size=50_304, emb_dim=768, context_length=1024, n_layers=12, n_heads=12, qkv_bias=True)
# The program of each side, its batch size, and its precision where it does not choose that.
SIDES = {
    "ours": ("eval_ours", 0, ""),
    "lm-eval, batch 1": ("eval_lm_eval", 1, ""),
    "lm-eval, batch 4": ("eval_lm_eval", 4, ""),
    "lm-eval, batch 16": ("eval_lm_eval", 16, ""),
    "original": ("eval_original", 0, ""),
    "original in fp32": ("eval_original", 0, "fp32"),
}


def whole(row: Row, index: int) -> Row:
    """A row as it stands."""
    return row


def prepare(data: Path | None, n: int, per_turn: int, work: Path) -> EvalTask:
    """Write the model and the examples."""
    folder, examples = work / "model", work / "examples.jsonl"
    folder.mkdir()
    write_model(folder, GPT.create(GPT2, seed=0), get_tokenizer("gpt2").eot)
    write_tokenizer(folder, get_tokenizer("gpt2"), GPT2.context_length)
    rows = spread_over(read(locate(HELLASWAG.origin, data and str(data)), whole), n)
    examples.write_text("".join(json.dumps(dict(row)) + "\n" for row in rows), encoding="utf-8")
    return EvalTask(str(folder), str(examples), per_turn)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="HellaSwag's validation file; default: from the cache or the Hub")
    parser.add_argument("--examples", type=int, default=400)
    parser.add_argument("--per-turn", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument(
        "--sides", type=lambda text: text.split(";"), help=f"with semicolons between, of {'; '.join(SIDES)}"
    )
    parser.add_argument(
        "--make-peer", type=Path, metavar="FOLDER", help="environment of the original, made unless there"
    )
    given = parser.parse_args()
    names = given.sides or [name for name in SIDES if given.make_peer or not name.startswith("original")]
    peer = make_environment(given.make_peer.resolve()) if given.make_peer else None
    releases = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "lm-eval"))
    print(f"{platform.platform()}, Python {platform.python_version()}, {releases}\n")
    with tempfile.TemporaryDirectory(prefix="evaluating_") as folder, ExitStack() as stack:
        work = Path(folder)
        task = prepare(given.data, given.examples, given.per_turn, work)
        sides = {}
        for name in names:
            program, batch, precision = SIDES[name]
            python, environment = sys.executable, dict[str, str]()
            if program == "eval_original":
                assert peer, "the original needs --make-peer"
                python, environment = str(peer), environment_of(peer, work)
            of_side = replace(task, batch=batch, precision=precision)
            sides[name] = stack.enter_context(Side(program, of_side, work, python, environment))
        turns = in_turns(sides, given.rounds)
    print("| | examples a second | peak memory, MiB | speed of the first, times its |\n|---|---|---|---|")
    for name, of_side in turns.items():
        ratios = [its.seconds / first.seconds for its, first in zip(of_side, turns[names[0]], strict=True)]
        rate = task.per_turn / statistics.median(turn.seconds for turn in of_side)
        print(f"| {name} | {rate:.2f} | {of_side[-1].peak / MIB:.0f} | {spread(ratios)} |")


if __name__ == "__main__":
    main()
