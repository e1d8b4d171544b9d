"""What a signal does to a command before, or without, something to save."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals there end a process at once")


@pytest.fixture
def signalled(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, signal.Signals], list[str]]:
    """`signalled(command, number)` makes a command get that signal; what it closed on its way out is in the list."""

    def arrange(command: str, number: signal.Signals) -> list[str]:
        closed: list[str] = []

        def run(settings: Any, call: Any) -> int:
            try:
                signal.raise_signal(number)
            finally:
                signal.raise_signal(signal.SIGTERM)  # a second one, which must not break the closing
                closed.append(command)
            return 0

        monkeypatch.setattr(f"gptcli.cli.{command}.run", run)
        return closed

    return arrange


@pytest.mark.parametrize("command", ["eval", "generate", "plot"])
def test_a_command_that_starts_over_is_interrupted_by_sigterm(command: str, gpt: Any, signalled: Any) -> None:
    closed = signalled(command, signal.SIGTERM)
    result = gpt(command)
    assert (result.code, result.out, result.err) == (130, "", "Interrupted.\n")
    assert closed == [command]


@pytest.mark.parametrize("command", ["tokenize", "train"])
@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_command_that_goes_on_when_given_again_says_so(command: str, name: str, gpt: Any, signalled: Any) -> None:
    closed = signalled(command, getattr(signal, name))
    result = gpt(command)
    assert (result.code, result.out, result.err) == (75, "", "The same command goes on.\n")
    assert closed == [command]


def test_the_handlers_of_before_come_back(gpt: Any, calls: list[Any]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    gpt("plot")
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 75), ("SIGUSR1", 75)])
@pytest.mark.parametrize("gpus", ["1", "2"])
def test_a_run_that_is_stopped_before_its_first_step_has_lost_nothing(
    name: str, code: int, gpus: str, gpt: Any, stub: Any
) -> None:
    def stopped(*_: Any) -> None:
        signal.raise_signal(getattr(signal, name))

    stub("gptcli.training.run", train=stopped)
    stub("gptcli.training.setup", preflight=lambda settings: None)
    stub("gptcli.distributed.launch", launch=stopped)
    stub("gptcli.distributed.runtime", detect=lambda: SimpleNamespace(rank=0, launched=False), launcher=lambda: None)
    result = gpt("train", "--gpus", gpus)
    assert (result.code, result.err) == (code, "Stopped before the first step; nothing was lost.\n")


def test_a_rank_leaves_it_to_its_launcher_to_tell_of_a_stop(gpt: Any, stub: Any) -> None:
    stub("gptcli.training.run", train=lambda *_: signal.raise_signal(signal.SIGTERM))
    stub("gptcli.distributed.runtime", detect=lambda: SimpleNamespace(rank=0, launched=True), launcher=lambda: 1)
    result = gpt("train", "--gpus", "2")
    assert (result.code, result.err) == (75, "")


def test_a_second_interruption_of_a_run_with_steps_that_are_not_saved_has_failed(gpt: Any, stub: Any) -> None:
    def stepped(*_: Any) -> None:
        Path("log").mkdir()
        Path("log/metrics.jsonl").write_text('{"kind": "train", "step": 1}\n')
        raise KeyboardInterrupt

    stub("gptcli.training.run", train=stepped)
    stub("gptcli.distributed.runtime", detect=lambda: SimpleNamespace(rank=0, launched=False), launcher=lambda: None)
    result = gpt("train")
    assert result.code == 1
    assert "stopped before it could save" in result.err


LATE = """
import signal, sys
from gptcli.cli import main
main.run = lambda words: 75
import atexit
atexit.register(lambda: signal.raise_signal(getattr(signal, sys.argv[1])))
main.main()
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_a_second_signal_while_the_process_ends_leaves_its_exit_code(name: str) -> None:
    assert subprocess.run([sys.executable, "-c", LATE, name], timeout=60).returncode == 75
