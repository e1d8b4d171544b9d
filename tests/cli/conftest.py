"""How these tests call the command line: in this process with what it prints caught, or in one of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gptcli.cli import main as cli
from gptcli.settings import COMMANDS

FAULT = re.compile(r"^error: (.*)$", re.MULTILINE)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("GPTCLI_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Settings that the commands were called with; the commands themselves do nothing."""
    seen: list[Any] = []

    def record(settings: Any, call: Any) -> int:
        seen.append((settings, call))
        return 0

    for name in COMMANDS:
        monkeypatch.setattr(f"gptcli.cli.{name.replace(' ', '_')}.run", record)
    return seen


@dataclass
class Output:
    code: int
    out: str
    err: str

    @property
    def faults(self) -> list[str]:
        return FAULT.findall(self.err)


@pytest.fixture
def gpt(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*words: str) -> Output:
        try:
            code = cli.run(list(words))
        except SystemExit as end:
            code = int(end.code or 0)
        return Output(code, *capsys.readouterr())

    return call


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`stub(module, name=member, ...)` puts a module of these members in the place of one of the core's."""

    def replace(module: str, **members: Any) -> None:
        made = ModuleType(module)
        for name, member in members.items():
            setattr(made, name, member)
        monkeypatch.setitem(sys.modules, module, made)

    return replace


@pytest.fixture
def python() -> Callable[..., str]:
    """`python(code, VARIABLE=value, ...)` runs code in a process of its own and gives all that it printed."""

    def call(code: str, **environ: str) -> str:
        source = str(Path(cli.__file__).parents[2])
        env = {**os.environ, "PYTHONPATH": source, **environ}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
        return done.stdout + done.stderr

    return call
