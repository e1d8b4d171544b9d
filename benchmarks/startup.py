"""What the command line costs before it does anything: `gpt --help` against importing Typer, and `gpt COMMAND --help`
against a Typer application written by hand with as many options and pydantic-settings imported.

    python benchmarks/startup.py [--runs 15]

Prints the median ratio of alternating pairs of runs, each in a process of its own.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gptcli.settings import COMMANDS

COMMON_OPTIONS = 4  # --config, --print-config, --debug, --json
HAND_WRITTEN = """\
import pydantic_settings
import typer
from typing import Annotated

app = typer.Typer()

@app.command()
def command(
{parameters}
) -> None:
    "A command with as many options."

app()
"""


def hand_written(options: int) -> str:
    kinds = ("int", "float", "str", "bool")
    defaults = {"int": "1", "float": "0.5", "str": "'text'", "bool": "False"}
    parameters = []
    for i in range(options):
        kind = kinds[i % len(kinds)]
        option = f"typer.Option(help='What option {i} does.', rich_help_panel='Group {i % 6}')"
        parameters.append(f"    option_{i}: Annotated[{kind}, {option}] = {defaults[kind]},")
    return HAND_WRITTEN.format(parameters="\n".join(parameters))


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def ratio(ours: list[str], theirs: list[str], runs: int) -> str:
    seconds(ours), seconds(theirs)  # once for the caches of the disk
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(runs)]
    ratios = sorted(a / b for a, b in pairs)
    medians = [1000 * statistics.median(side) for side in zip(*pairs, strict=True)]
    spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
    return f"{statistics.median(ratios):.2f} ({spread}); {medians[0]:.0f} and {medians[1]:.0f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    python = sys.executable
    gpt = [python, "-c", "from gptcli.cli.main import main; main()"]
    print(f"gpt --help / import typer: {ratio([*gpt, '--help'], [python, '-c', 'import typer'], runs)}")
    with tempfile.TemporaryDirectory() as folder:
        for name, settings in COMMANDS.items():
            script = Path(folder) / f"{name}_by_hand.py"
            script.write_text(hand_written(len(settings.model_fields) + COMMON_OPTIONS), encoding="utf-8")
            ours, theirs = [*gpt, name, "--help"], [python, str(script), "--help"]
            print(f"gpt {name} --help / by hand: {ratio(ours, theirs, runs)}")


if __name__ == "__main__":
    main()
