"""The worked examples of CONTRIBUTING.md are true: each section's patches apply to the code as it is, and its commands,
run on the patched copy, do what the page says."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from small_runs import tiny, write_shards

from gptcli import GPT, GPTConfig, train
from gptcli.schedules import learning_rate

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
STEPS, WARMUP = 40, 4
SMALL = {  # what makes the page's commands small; a flag on the page beats these
    "N_LAYERS": 1, "N_HEADS": 2, "EMB_DIM": 16, "CONTEXT_LENGTH": 16, "N_BATCHES": 2, "TOTAL_BATCH_SIZE": 32,
    "EVAL_EVERY": 1000, "EVAL_ITERS": 1, "SAMPLE_EVERY": 1000, "SAVE_EVERY": 1000, "KEEP_BEST": "false",
    "WARMUP_ITERS": WARMUP, "MAX_LR": 1e-2, "MIN_LR": 1e-3, "METRICS": "none", "DEVICE": "cpu", "BATCH_TOKENS": 512,
}  # fmt: skip


@dataclass(frozen=True)
class Example:
    """A section with its patches, the files that it shows (by their names), and its commands."""

    patches: list[str]
    files: dict[str, str]
    commands: list[list[str]]


def example(title: str) -> Example:
    blocks = BLOCK.findall(SECTIONS[title])
    return Example(
        [text for kind, _, text in blocks if kind == "diff"],
        {name: text for _, name, text in blocks if name},
        [shlex.split(line) for kind, _, text in blocks if kind == "sh" for line in text.splitlines()],
    )


def copy_of_the_code(folder: Path) -> Path:
    """What the examples need of the project, in a folder of its own; their tests use none of the suite's fixtures."""
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("*.egg-info"))
    shutil.copyfile(ROOT / "pyproject.toml", folder / "pyproject.toml")
    return folder


def apply(folder: Path, patches: list[str]) -> None:
    """`git apply`, as the page has it; git is kept from seeing a repository around the folder."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    for patch in patches:
        done = subprocess.run(
            ["git", "apply", "--whitespace=error-all", "-"],
            input=patch.encode(),
            cwd=folder,
            env=os.environ | {"GIT_CEILING_DIRECTORIES": str(folder.parent)},
            capture_output=True,
        )
        assert done.returncode == 0, f"{done.stderr.decode()}\n{patch}"


def call(folder: Path, words: list[str]) -> str:
    """What a command prints to standard output, with the code of the folder in the place of ours."""
    program = {"gpt": ["-m", "gptcli"], "python": []}[words[0]]
    env = {name: value for name, value in os.environ.items() if not name.startswith("GPTCLI_")}
    env |= {f"GPTCLI_{name}": str(value) for name, value in SMALL.items()}
    env |= {"PYTHONPATH": str(folder / "src"), "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
    done = subprocess.run(
        [sys.executable, *program, *words[1:]], cwd=folder, env=env, capture_output=True, encoding="utf-8", timeout=200
    )
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def check_schedule(folder: Path, printed: str) -> None:
    file = folder / "log" / "wsd-sqrt" / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    rates = [line["lr"] for line in lines if line["kind"] == "train"]
    straight = [
        learning_rate(n, steps=STEPS, warmup=WARMUP, max_lr=1e-2, min_lr=1e-3, schedule="wsd", decay_share=0.4)
        for n in range(STEPS)
    ]
    falling = next(n for n, rate in enumerate(straight) if n > WARMUP and rate < 1e-2)
    assert len(rates) == STEPS
    assert rates[:falling] == pytest.approx(straight[:falling])
    assert all(rate < other for rate, other in zip(rates[falling:], straight[falling:], strict=True))
    assert rates[falling:] == sorted(rates[falling:], reverse=True)
    assert rates[-1] > 1e-3


def check_task(folder: Path, printed: str) -> None:
    results = json.loads(printed)["results"]
    assert [(result["task"], result["style"], result["n"]) for result in results] == [
        ("commonsense-qa", "completion", 2),
        ("commonsense-qa", "lm-eval", 2),
    ]
    assert all(result["acc"] in (0, 0.5, 1) for result in results)
    assert results[1]["acc"] == results[1]["acc_norm"]  # letters are all as long


def check_format(folder: Path, printed: str) -> None:
    end, said = 256, list(b"Is it you?\n- No.")
    ids = [int(n) for file in sorted((folder / "data" / "film").glob("*.npy"), reverse=True) for n in np.load(file)]
    manifest = json.loads((folder / "data" / "film" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["totals"]["documents"] == 1
    assert sorted(ids) == sorted([end, *said])
    assert len(ids) == 1 + len(said)


def check_export(folder: Path, printed: str) -> None:
    with np.load(folder / "model.npz") as arrays:
        config = GPTConfig(**json.loads(str(arrays["config"])))
        shapes = {name: arrays[name].shape for name in arrays if name != "config"}
    expected = {name: tuple(tensor.shape) for name, tensor in GPT(config).state_dict().items()}
    assert config.vocab_size == 50_257
    assert shapes == {name: shape for name, shape in expected.items() if name != "head.weight"}


CHECKS: dict[str, Callable[[Path, str], None]] = {
    "A schedule": check_schedule,
    "A task": check_task,
    "A format of text": check_format,
    "An export": check_export,
}
NEEDS_A_RUN = ("A task", "An export")


@pytest.mark.parametrize("title", CHECKS)
def test_a_worked_example_applies_and_does_what_it_says(title: str, tmp_path: Path) -> None:
    folder, shown = copy_of_the_code(tmp_path), example(title)
    apply(folder, shown.patches)
    for name, text in shown.files.items():
        (folder / name).write_text(text, encoding="utf-8")
    write_shards(folder / "data" / "mine")
    if title in NEEDS_A_RUN:
        small = {"context_length": 64, "n_batches": 1, "max_iters": 1, "warmup_iters": 0}
        train(tiny(folder / "data" / "mine", folder / "log", **small))
    printed = [call(folder, words) for words in shown.commands]
    CHECKS[title](folder, printed[-1])


def test_only_the_worked_examples_have_patches_and_each_has_a_test_of_its_own() -> None:
    patched = [title for title in SECTIONS if example(title).patches]
    assert patched == list(CHECKS)
    for title in patched:
        tests = re.findall(r"^\+\+\+ b/(tests/\S+)", "".join(example(title).patches), re.MULTILINE)
        assert [["python", "-m", "pytest", test] for test in tests] == example(title).commands[:1]


@pytest.mark.parametrize("title", CHECKS)
def test_a_worked_example_is_a_file_and_a_registration_beside_its_test(title: str) -> None:
    touched = re.findall(r"^--- (\S+)\n\+\+\+ b/(src/\S+)", "".join(example(title).patches), re.MULTILINE)
    new = [file for old, file in touched if old == "/dev/null"]
    changed = [file for old, file in touched if old != "/dev/null"]
    assert len(changed) == 1
    assert len(new) <= 1


def test_the_code_of_the_examples_is_formatted(tmp_path: Path) -> None:
    folder = copy_of_the_code(tmp_path)
    for title in CHECKS:
        apply(folder, example(title).patches)
    for words in (["check"], ["format", "--check"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *words, "."], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_code_of_the_examples_passes_the_static_checks(tmp_path: Path) -> None:
    folder = copy_of_the_code(tmp_path)
    for title in CHECKS:
        apply(folder, example(title).patches)
    linter = "import sys; from importlinter.cli import lint_imports_command; lint_imports_command()"
    for words in (["-m", "mypy"], ["-c", linter, "--config", "pyproject.toml"]):
        done = subprocess.run(
            [sys.executable, *words],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(folder / "src")},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
