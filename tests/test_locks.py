from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gptcli.data.locks import FolderLock
from gptcli.errors import UserError

HOLDER = """
import sys, time
from pathlib import Path
from gptcli.data.locks import FolderLock
with FolderLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def hold_in_another_process(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_holder_is_told_the_process_and_host_of_the_first(tmp_path: Path) -> None:
    process = hold_in_another_process(tmp_path / "run")
    try:
        with pytest.raises(UserError, match=f"process {process.pid} on "), FolderLock(tmp_path / "run"):
            pass
    finally:
        process.kill()
        process.wait()


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    process = hold_in_another_process(tmp_path)
    process.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    process.wait()
    with FolderLock(tmp_path):
        assert json.loads((tmp_path / ".lock-owner.json").read_text())["pid"] == os.getpid()


def test_a_second_holder_in_the_same_process_is_refused(tmp_path: Path) -> None:
    with FolderLock(tmp_path):
        with pytest.raises(UserError, match="being written"), FolderLock(tmp_path):
            pass
        assert (tmp_path / ".lock-owner.json").exists(), "the refused one took the first one's name away"
    with FolderLock(tmp_path):
        pass


def test_an_owner_that_can_not_be_read_is_another_process(tmp_path: Path) -> None:
    with FolderLock(tmp_path):
        (tmp_path / ".lock-owner.json").write_text("[")
        with pytest.raises(UserError, match="by another process"), FolderLock(tmp_path):
            pass


def test_a_folder_that_the_lock_made_and_nobody_used_is_removed(tmp_path: Path) -> None:
    with FolderLock(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_there_before_or_is_used_stays(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    with FolderLock(tmp_path / "old"):
        pass
    with FolderLock(tmp_path / "new"):
        (tmp_path / "new" / "file").write_text("used")
    assert (tmp_path / "old").is_dir()
    assert (tmp_path / "new" / "file").read_text() == "used"


def test_a_file_in_the_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="there is a file of that name"), FolderLock(tmp_path / "file"):
        pass
