"""Help and shell completion: what they show, and that they import nothing heavy."""

from __future__ import annotations

import re
from typing import Any

import pytest

from gptcli.cli import main as cli
from gptcli.cli.fields import fields_of
from gptcli.settings import COMMANDS


@pytest.mark.parametrize(
    "words", [["--help"], *([*command.split(), "--help"] for command in COMMANDS), ["train", "--max-lrr"]]
)
def test_help_and_a_mistyped_flag_import_nothing_heavy(words: list[str], python: Any) -> None:
    shown = python(
        f"import sys; from gptcli.cli.main import run; run({words!r});"
        "print('HEAVY', sorted({'torch', 'datasets', 'tiktoken', 'numpy', 'gigatoken'} & set(sys.modules)))"
        + ("; print('LIGHT', 'pydantic' not in sys.modules)" if words == ["--help"] else "")
    )
    assert "HEAVY []" in shown
    assert words != ["--help"] or "LIGHT True" in shown


def test_gpt_alone_shows_its_help_with_every_command(gpt: Any) -> None:
    result = gpt()
    assert result.code == 0
    assert all(re.search(rf"│ {command.split()[0]} ", result.out) for command in COMMANDS)


@pytest.mark.parametrize("command", list(COMMANDS))
def test_help_shows_every_option_with_its_default_under_its_group(command: str, gpt: Any) -> None:
    shown = gpt(*command.split(), "--help").out
    for option in fields_of(COMMANDS[command]).values():
        name = option.flag
        assert re.search(rf"│ +{re.escape(name)}\b", shown), name
        assert option.positional or f"─ {option.group} ─" in shown
        if option.kind in (int, float) and option.default is not None:
            assert f"[default: {option.default:g}]" in shown or f"[default: {option.default}]" in shown


def test_the_summary_table_of_the_group_has_the_commands_of_the_settings() -> None:
    assert list(cli._COMMANDS) == list(COMMANDS)


@pytest.mark.parametrize(
    ("line", "word", "expected"),
    [
        ("gpt t", 1, ["tokenize", "tokenizer", "train"]),
        ("gpt tokenizer ", 2, ["train"]),
        ("gpt tokenizer train --sp", 3, ["--split"]),
        ("gpt tokenizer train --split g", 4, ["gpt2", "gpt4"]),
        ("gpt train --devi", 2, ["--device"]),
        ("gpt train --device c", 3, ["cpu", "cuda"]),
        ("gpt train --compile o", 3, ["on", "off"]),
        ("gpt train --preset gpt2-", 3, ["gpt2-medium", "gpt2-large", "gpt2-xl"]),
        ("gpt train --metrics none,h", 3, ["none,hellaswag"]),
    ],
)
def test_the_shell_completes_commands_options_and_values(
    line: str, word: int, expected: list[str], python: Any
) -> None:
    code = "from gptcli.cli.main import main; main()"
    offered = python(code, _GPT_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(word))
    assert offered.split() == expected


def test_the_shell_can_be_taught_to_complete(python: Any) -> None:
    code = "import shellingham; shellingham.detect_shell = lambda: ('bash', '/bin/bash')\n"  # whoever runs the tests
    code += "import sys; sys.argv = ['gpt', '--show-completion']; from gptcli.cli.main import main; main()"
    assert "_GPT_COMPLETE" in python(code, SHELL="/bin/bash")


@pytest.mark.parametrize(("told", "expected"), [({}, "1000 False"), ({"GOMP_SPINCOUNT": "5"}, "5 False")])
def test_how_long_threads_spin_is_settled_before_torch_is_imported(
    told: dict[str, str], expected: str, python: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    code = "import os, sys; from gptcli.cli import main; main.load('train')\n"
    code += "print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    assert python(code, **told).strip() == expected
    assert python(code, OMP_WAIT_POLICY="active").strip() == "None False"
