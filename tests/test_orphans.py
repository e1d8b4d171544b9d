"""Processes that their launcher left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gptcli.distributed.runtime import announce_launcher, launcher

pytestmark = pytest.mark.skipif(os.name != "posix", reason="an orphan has no sign there")

RANK = """
import signal, sys, time
from pathlib import Path
from gptcli.distributed import orphans
orphans.SECONDS_BETWEEN_LOOKS, orphans.SECONDS_TO_SAVE = 0.05, 0.5
out, deaf = Path(sys.argv[1]), sys.argv[2] == "deaf"
def heard(*_):
    (out / "heard").touch()
    if not deaf: raise SystemExit
signal.signal(signal.SIGTERM, heard)
with orphans.ending_with(None):
    (out / "ready").touch()
    time.sleep(60)
    time.sleep(60)
"""
LAUNCHER = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[1:]])"


def appears(path: Path) -> bool:
    return any(path.exists() or time.sleep(0.05) for _ in range(400))


@pytest.mark.parametrize("hearing", ["well", "deaf"])
def test_a_rank_whose_launcher_is_killed_is_asked_to_save_and_ends(hearing: str, tmp_path: Path) -> None:
    # The end of the pipe that the rank holds closes when the rank is gone.
    read, write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, RANK, str(tmp_path), hearing], pass_fds=[], stdout=write
    )
    os.close(write)
    assert appears(tmp_path / "ready")
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=10)
    assert os.read(read, 1) == b""  # blocks until then
    os.close(read)
    assert (tmp_path / "heard").exists()


def test_a_launcher_is_known_to_the_processes_it_starts_and_is_none_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_GPTCLI_LAUNCHER", "")
    assert launcher() is None
    announce_launcher()
    assert launcher() is None
    code = "from gptcli.distributed.runtime import launcher; print(launcher())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout
    assert int(told) == os.getpid()
