"""Several machines, each played by one process on this one: they meet over loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from small_runs import tiny, write_shards
from test_distributed import CHILDREN, is_alive, ranks_of, train_losses, wait_for_step, words_of
from test_training import stopping_at

from gptcli import train
from gptcli.distributed.launch import check_nodes
from gptcli.errors import UsageError
from gptcli.model.locate import checkpoints_of
from gptcli.settings import TrainSettings

pytestmark = pytest.mark.timeout(240)
LONG = {"max_iters": 4_000, "eval_every": 5_000, "sample_every": 5_000, "save_every": 5_000, "max_lr": 1e-3}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Machines:
    """Two machines of one process each: the same command but for the number of the machine and its own folders."""

    def __init__(self, make: Callable[[int], TrainSettings], environment: dict[str, str] | None = None) -> None:
        port = free_port()
        self.processes = []
        for rank in range(2):
            meeting = ["--nodes", "2", "--node-rank", str(rank), "--rdzv-endpoint", f"127.0.0.1:{port}"]
            words = [sys.executable, "-m", "gptcli", *words_of(make(rank), *meeting)]
            self.processes.append(
                subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=os.environ | (environment or {}))
            )

    def end(self) -> list[tuple[int, str]]:
        """Exit code of each, and what it said."""
        told = [process.communicate(timeout=150)[1] for process in self.processes]
        return [(process.returncode, text) for process, text in zip(self.processes, told, strict=True)]


def test_two_machines_log_the_losses_of_one_and_only_the_first_one_writes(shards: Path, tmp_path: Path) -> None:
    def settings(run: str) -> TrainSettings:
        return tiny(shards, tmp_path / run, n_batches=1)

    train(settings("one"))
    ended = Machines(lambda rank: settings(f"machine {rank}")).end()
    assert [code for code, _ in ended] == [0, 0], ended
    assert train_losses(tmp_path / "machine 0") == pytest.approx(train_losses(tmp_path / "one"), abs=1e-5)
    assert not (tmp_path / "machine 1").exists()
    assert ["Checkpoint:" in text for _, text in ended] == [True, False]


def test_a_signal_to_one_machine_stops_both_with_its_code(shards: Path, tmp_path: Path) -> None:
    machines = Machines(lambda rank: tiny(shards, tmp_path / str(rank), **LONG))
    wait_for_step(tmp_path / "0", 3)
    machines.processes[1].send_signal(signal.SIGTERM)
    ended = machines.end()
    assert [code for code, _ in ended] == [75, 75], ended
    assert "The same command continues" in ended[0][1]
    (folder,) = checkpoints_of(tmp_path / "0")
    stopped_at = int(folder.name[5:])
    # One machine goes on alone, with the losses that it would have had.
    train(tiny(shards, tmp_path / "0", **LONG), stopping_at(stopped_at + 2))
    train(tiny(shards, tmp_path / "alone", **LONG), stopping_at(stopped_at + 2))
    assert train_losses(tmp_path / "0") == pytest.approx(train_losses(tmp_path / "alone"), abs=1e-4)


@pytest.mark.skipif(not CHILDREN.exists(), reason="needs /proc to see what processes there are")
def test_a_process_that_dies_on_one_machine_ends_both_and_leaves_none(shards: Path, tmp_path: Path) -> None:
    machines = Machines(lambda rank: tiny(shards, tmp_path / str(rank), **LONG))
    wait_for_step(tmp_path / "0", 3)
    pids = [pid for process in machines.processes for pid in ranks_of(process)]
    began = time.monotonic()
    os.kill(ranks_of(machines.processes[1])[-1], signal.SIGKILL)
    ended = machines.end()
    assert [code for code, _ in ended] == [1, 1], ended
    assert "killed by SIGKILL" in ended[1][1]
    assert "lost the connection" in ended[0][1] or "another process of the run has ended" in ended[0][1]
    assert not any(is_alive(pid) for pid in pids)
    assert time.monotonic() - began < 60  # 15 s on a machine that is not busy


@pytest.mark.slow
def test_machines_with_different_data_or_options_are_told_apart(shards: Path, tmp_path: Path) -> None:
    other = write_shards(tmp_path / "other", train_tokens=5_000)
    folders = [shards, other]
    machines = Machines(lambda rank: tiny(folders[rank], tmp_path / str(rank), max_lr=[1e-2, 2e-2][rank]))
    ended = machines.end()
    assert [code for code, _ in ended] == [2, 2], ended
    told = " ".join(ended[0][1].split())
    assert "data with fingerprint" in told
    assert "has --max-lr 0.01; rank 1 on" in told
    assert "error:" not in ended[1][1]


@pytest.mark.skipif(os.name != "posix", reason="signals there end a process at once")
@pytest.mark.parametrize(("number", "code", "rank"), [(signal.SIGINT, 130, 0), (signal.SIGTERM, 75, 1)])
def test_a_machine_that_waits_for_another_can_be_stopped(
    number: int, code: int, rank: int, shards: Path, tmp_path: Path
) -> None:
    meeting = ["--nodes", "2", "--node-rank", str(rank), "--rdzv-endpoint", f"127.0.0.1:{free_port()}"]
    words = [sys.executable, "-m", "gptcli", *words_of(tiny(shards, tmp_path / "run"), *meeting)]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        assert "meeting the others" in process.stderr.readline()
        time.sleep(1.5)  # it is in torch's native code, or will be
        process.send_signal(number)
        assert process.wait(timeout=60) == code


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"node_rank": 1}, "--node-rank 1: with --nodes 1 it is at most 0"),
        ({"nodes": 2}, "--nodes needs --rdzv-endpoint"),
        ({"rdzv_endpoint": "localhost:1234"}, "--rdzv-endpoint is where several machines meet"),
        ({"nodes": 2, "rdzv_endpoint": "localhost"}, "not of the form HOST:PORT"),
        ({"nodes": 2, "rdzv_endpoint": "localhost:99999"}, "not of the form HOST:PORT"),
        ({"nodes": 2, "rdzv_endpoint": "no such host:29400"}, "there is no host"),
    ],
)
def test_options_of_machines_that_do_not_fit_are_refused(options: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        check_nodes(TrainSettings(**options))


def test_a_port_that_is_in_use_is_told_before_anything_starts() -> None:
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} can't be used here"):
            check_nodes(TrainSettings(nodes=2, rdzv_endpoint=f"localhost:{port}"))
    check_nodes(TrainSettings(nodes=2, rdzv_endpoint=f"localhost:{port}"))
    check_nodes(TrainSettings(nodes=2, node_rank=1, rdzv_endpoint=f"[::1]:{port}"))
