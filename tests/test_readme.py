"""What the README and the examples tell people to type is accepted, and its Python runs."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from small_runs import tiny

from gptcli import train
from gptcli.cli.config_file import table_of
from gptcli.cli.main import run
from gptcli.settings import COMMANDS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
QUICKSTART = (ROOT / "examples" / "quickstart.sh").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    lines = [line for block in blocks("sh") for line in block.splitlines()] + QUICKSTART.splitlines()
    return [re.split("  #| [<>] ", line)[0].strip() for line in lines if line.startswith("gpt ")]


def test_there_are_commands_to_check() -> None:
    assert len(commands()) > 20
    assert {line.split()[1] for line in commands()} == {
        "tokenize",
        "tokenizer",
        "train",
        "eval",
        "generate",
        "export",
        "watch",
        "runs",
        "plot",
        "info",
        "doctor",
    }


@pytest.mark.parametrize("line", commands())
def test_every_command_is_accepted(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "medium.toml").write_text('[train]\npreset = "gpt2-medium"\n')
    words = [word for word in shlex.split(line)[1:] if word not in ("--print-config", "--json")]
    assert run([*words, "--print-config"]) == 0, capsys.readouterr().err
    command = next(name for name in (" ".join(words[:2]), words[0]) if name in COMMANDS)
    table = table_of(command)
    assert f"[{table}]" in capsys.readouterr().out


@pytest.mark.parametrize("block", blocks("python"))
def test_the_python_runs(block: str, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    train(tiny(shards, Path("log")))
    exec(compile(block, "README.md", "exec"), {})  # noqa: S102 (our own page)


@pytest.mark.parametrize("name", ["use_a_run", "continue_training"])
def test_the_python_examples_run(
    name: str, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    train(tiny(shards, Path("log"), eval_every=50, save_every=50, sample_every=50))
    monkeypatch.setattr("sys.argv", [f"{name}.py"])
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"))
    out = capsys.readouterr().out
    assert ("The mat sat on the cat. -" if name == "use_a_run" else "step 106, validation loss ") in out


def test_every_file_that_the_readme_links_to_is_there() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_example_scripts_are_valid() -> None:
    for script in (ROOT / "examples").glob("*.sh"):
        subprocess.run(["bash", "-n", str(script)], check=True)
