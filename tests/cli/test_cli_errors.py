"""What is told of an error, where, and the exit code that goes with it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptcli.cli import main as cli
from gptcli.cli.interruption import Terminated
from gptcli.errors import UsageError, UserError


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """`failing(error)` makes `gpt generate` end with that error."""

    def arrange(error: BaseException) -> None:
        def fail(settings: Any, call: Any) -> int:
            raise error

        monkeypatch.setattr("gptcli.cli.generate.run", fail)

    return arrange


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (UserError("The shard is damaged.", "Make it again."), 1, ["error: The shard is damaged.", "  Make it again."]),
        (UsageError("There is no such folder."), 2, ["error: There is no such folder."]),
        (KeyboardInterrupt(), 130, ["Interrupted."]),
        (Terminated(), 130, ["Interrupted."]),
    ],
)
def test_an_error_gives_its_exit_code_and_no_traceback(
    error: BaseException, code: int, told: list[str], gpt: Any, failing: Any
) -> None:
    failing(error)
    result = gpt("generate")
    assert (result.code, result.out) == (code, "")
    assert result.err.splitlines() == told


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device", "shard.npy"), "error: The disk is full: shard.npy."),
        (MemoryError(), "error: There is not enough memory."),
        (BrokenPipeError(32, "Broken pipe"), "error: Broken pipe."),  # one to another process: standard output is whole
        (ValueError("three is not four"), "error: ValueError: three is not four"),
    ],
)
def test_an_unexpected_error_is_one_line_with_a_hint_and_exit_code_1(
    error: BaseException, message: str, gpt: Any, failing: Any
) -> None:
    failing(error)
    result = gpt("generate")
    assert (result.code, result.out) == (1, "")
    first, hint = result.err.splitlines()
    assert first == message
    assert hint.startswith("  ")
    assert "Traceback" in gpt("generate", "--debug").err


def test_an_error_of_a_json_call_leaves_standard_output_empty(gpt: Any, stub: Any) -> None:
    def load(*_: Any) -> Any:
        raise UserError("There is no checkpoint under ./log.", "Train one: gpt train")

    stub("gptcli.inference.load", load=load)
    result = gpt("generate", "x", "--json")
    assert (result.code, result.out, result.faults) == (1, "", ["There is no checkpoint under ./log."])


def without_a_reader(code: str) -> tuple[int, str]:
    """Exit code and standard error of a process whose standard output nobody reads."""
    env = {
        **os.environ,
        "PYTHONPATH": str(Path(cli.__file__).parents[2]),
        "PYTHONUNBUFFERED": "",
    }  # buffered, as for a user
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    code_of_exit = process.wait(timeout=60)
    told = process.stderr.read()
    process.stderr.close()
    return code_of_exit, told


@pytest.mark.skipif(sys.platform == "win32", reason="a closed pipe is told in another way there")
@pytest.mark.parametrize("characters", [10, 10_000_000])  # fewer and more than a buffer holds
def test_a_reader_that_goes_away_ends_the_command_quietly(characters: int) -> None:
    code = (
        "import sys; from gptcli.cli import main, generate\n"
        "def run(settings, call):\n"
        f"    sys.stdout.write('x' * {characters}); return 0\n"
        "generate.run = run; sys.argv = ['gpt', 'generate']; main.main()"
    )
    assert without_a_reader(code) == (0, "")


@pytest.mark.skipif(sys.platform == "win32", reason="a closed pipe is told in another way there")
@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["train", "--print-config"], ["--version"]])
def test_help_that_nobody_reads_to_its_end_is_no_failure(words: list[str]) -> None:
    assert without_a_reader(f"import sys; sys.argv = {['gpt', *words]}; from gptcli.cli.main import main; main()") == (
        0,
        "",
    )


@pytest.mark.skipif(sys.platform == "win32", reason="a closed pipe is told in another way there")
def test_work_goes_on_when_nobody_reads_what_is_told_of_it(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from gptcli.cli import main, plot, report\n"
        "def run(settings, call):\n"
        "    for _ in range(10_000): report.say('a line for people')\n"
        f"    Path({str(tmp_path / 'done')!r}).touch(); return 0\n"
        "plot.run = run; sys.argv = ['gpt', 'plot']; main.main()"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])}
    process = subprocess.Popen([sys.executable, "-c", code], env=env, stderr=subprocess.PIPE)
    assert process.stderr
    process.stderr.close()
    assert process.wait(timeout=60) == 0
    assert (tmp_path / "done").exists()


def test_memory_that_torch_does_not_get_is_told_as_such(gpt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(settings: Any, call: Any) -> int:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:114] err == 0. DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("gptcli.cli.train.run", fail)
    result = gpt("train")
    assert result.code == 1
    assert "not enough memory" in result.err
