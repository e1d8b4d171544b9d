"""Files that appear whole, through links and into pipes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gptcli.data import durable
from gptcli.data.durable import check_writable, write_bytes

posix = pytest.mark.skipif(os.name != "posix", reason="links, pipes and permissions are POSIX's")


@posix
def test_a_symbolic_link_stays_one_and_its_target_is_written(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    target, link, chain = tmp_path / "there" / "rows.jsonl", tmp_path / "link", tmp_path / "chain"
    link.symlink_to(target)  # dangling, at first
    chain.symlink_to(link)
    for content in (b"one", b"two"):
        check_writable(chain)
        write_bytes(chain, content)
        assert target.read_bytes() == content
    assert link.is_symlink()
    assert chain.is_symlink()
    assert [path.name for path in target.parent.iterdir()] == ["rows.jsonl"]


@posix
def test_a_pipe_is_written_into_and_stays_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    check_writable(pipe)
    write_bytes(pipe, b"rows")
    reader.join(timeout=10)
    assert read == [b"rows"]
    assert pipe.is_fifo()


@posix
@pytest.mark.parametrize("redirected", [True, False])
def test_standard_output_is_written_into_whatever_it_is(redirected: bool, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from gptcli.data.durable import check_writable, write_bytes\n"
        "print('before', flush=True); out = Path('/dev/stdout'); check_writable(out); write_bytes(out, b'rows\\n')\n"
        "print('after')"
    )
    if redirected:
        with (tmp_path / "out").open("wb") as out:
            subprocess.run([sys.executable, "-c", code], stdout=out, check=True, timeout=60)
        told = (tmp_path / "out").read_text()
    else:
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout
    assert told == "before\nrows\nafter\n"


@posix
def test_a_device_is_not_replaced(tmp_path: Path) -> None:
    check_writable(Path(os.devnull))
    write_bytes(Path(os.devnull), b"rows")
    assert Path(os.devnull).is_char_device()


def test_what_can_not_be_written_is_known_before(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder")
    for path in (tmp_path / "missing" / "rows", file / "rows", tmp_path / ("x" * 300)):
        with pytest.raises(OSError):
            check_writable(path)
    check_writable(file)
    assert file.read_text() == "not a folder"
    check_writable(tmp_path / "rows")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(("tries", "is_there"), [(3, True), (2, False)])
def test_a_file_that_somebody_reads_for_a_moment_is_replaced_when_they_are_done(
    tries: int, is_there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Windows has it: a file that is open can't be replaced."""
    refusals, replace = iter([True, True]), Path.replace

    def refusing(source: Path, target: Path) -> Path:
        if next(refusals, False):
            raise PermissionError
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", refusing)
    monkeypatch.setattr(durable, "_TRIES", tries)
    monkeypatch.setattr(durable, "_SECONDS_BETWEEN_TRIES", 0)
    if is_there:
        write_bytes(tmp_path / "rows", b"new")
    else:
        with pytest.raises(PermissionError):
            write_bytes(tmp_path / "rows", b"new")
    assert [path.name for path in tmp_path.iterdir()] == (["rows"] if is_there else [])
