"""Runs of several processes: two over gloo on this machine, started as a user starts them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_runs import tiny
from test_training import stopping_at
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from gptcli import train
from gptcli.distributed.launch import _exit_code, check_processes
from gptcli.distributed.runtime import Ranks, _first_host, detect
from gptcli.errors import UsageError, UserError
from gptcli.model.locate import checkpoints_of
from gptcli.settings import TrainSettings
from gptcli.training.metrics import read

pytestmark = pytest.mark.timeout(240)
CHILDREN = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")


def words_of(settings: TrainSettings, *more: str) -> list[str]:
    """The command line that gives these settings."""
    words = ["train"]
    for name, value in settings.model_dump(exclude_unset=True).items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            words += [f"--{flag}", ",".join(value) if isinstance(value, tuple) else str(value)]
    return [*words, *more]


def start(words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "gptcli", *words], stderr=subprocess.PIPE, text=True)


def wait_for_step(run: Path, step: int) -> None:
    """Until the run has logged `step`; a minute is plenty."""
    for _ in range(600):
        if any(row["step"] >= step for row in read(run / "metrics.jsonl")):
            return
        time.sleep(0.1)
    pytest.fail(f"step {step} was not reached")


def ranks_of(process: subprocess.Popen[str]) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def train_losses(run: Path) -> list[float]:
    return [row["loss"] for row in read(run / "metrics.jsonl") if row["kind"] in ("train", "val")]


@pytest.mark.parametrize("numbers", [(2,), pytest.param((2, 4), marks=pytest.mark.slow)])
def test_more_processes_log_the_losses_of_one_and_continue_each_others_run(
    numbers: tuple[int, ...], shards: Path, tmp_path: Path
) -> None:
    def settings(run: str, **changes: object) -> TrainSettings:
        # Four micro-batches of one process, two for each of two, one for each of four; 65 validation windows, which
        # they can't share evenly.
        return tiny(shards, tmp_path / run, n_batches=1, eval_iters=100, max_iters=6, eval_every=2, **changes)

    assert train(settings("one")).step == 6
    assert train(settings("more"), stopping_at(1)).step == 1
    for processes in numbers:
        # A checkpoint of step 3 goes on with another number of processes: the one of step 6 is taken away.
        process = start(words_of(settings("more", save_every=3), "--gpus", str(processes)))
        _, told = process.communicate(timeout=180)
        assert process.returncode == 0, told
        assert told.count("Checkpoint:") == 1  # only the first process speaks
        one, more = (train_losses(tmp_path / name) for name in ("one", "more"))
        assert len(one) == 6 + 4
        assert more == pytest.approx(one, abs=1e-5)
        shutil.rmtree(checkpoints_of(tmp_path / "more")[-1])


def test_a_user_error_in_a_run_of_two_is_told_once_with_its_exit_code(shards: Path, tmp_path: Path) -> None:
    settings = tiny(shards, tmp_path / "run", max_lr=1e30, grad_clip=0, max_iters=40, save_every=40, eval_every=40)
    process = start(words_of(settings, "--gpus", "2"))
    _, told = process.communicate(timeout=120)
    assert process.returncode == 1, told
    assert told.count("error:") == 1
    assert "so the run stops" in told
    assert "Traceback" not in told


@pytest.mark.skipif(not CHILDREN.exists(), reason="needs /proc to see what processes there are")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 75), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_two_processes_that_are_stopped_save_and_continue_on_one(
    shards: Path, tmp_path: Path, number: int, code: int
) -> None:
    settings = tiny(shards, tmp_path / "run", max_iters=3_000, eval_every=3_000, sample_every=3_000, save_every=3_000)
    process = start(words_of(settings, "--gpus", "2"))
    wait_for_step(tmp_path / "run", 3)
    ranks = ranks_of(process)
    assert len(ranks) >= 2
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == code, told
    assert "The same command continues" in told
    assert not any(is_alive(pid) for pid in ranks)
    stopped_at = max(row["step"] for row in read(tmp_path / "run" / "metrics.jsonl"))

    def stop_soon(event: object) -> None:
        if getattr(event, "step", 0) == stopped_at + 2:
            signal.raise_signal(signal.SIGINT)

    assert train(settings, stop_soon).step == stopped_at + 2
    steps = [row["step"] for row in read(tmp_path / "run" / "metrics.jsonl") if row["kind"] == "train"]
    assert steps == list(range(1, stopped_at + 3))


@pytest.mark.skipif(not CHILDREN.exists(), reason="needs /proc to see what processes there are")
def test_a_rank_that_is_killed_ends_the_run_and_leaves_no_process(shards: Path, tmp_path: Path) -> None:
    settings = tiny(shards, tmp_path / "run", max_iters=3_000, eval_every=3_000, sample_every=3_000, save_every=3_000)
    process = start(words_of(settings, "--gpus", "2"))
    wait_for_step(tmp_path / "run", 3)
    ranks = ranks_of(process)
    os.kill(ranks[-1], signal.SIGKILL)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1, told
    assert "killed by SIGKILL" in told
    assert "should not have happened" not in told
    assert "Traceback" not in told
    assert not any(is_alive(pid) for pid in ranks)


@pytest.mark.skipif(not CHILDREN.exists(), reason="needs /proc to see what processes there are")
def test_a_launcher_that_is_killed_leaves_no_process_and_loses_no_step(shards: Path, tmp_path: Path) -> None:
    settings = tiny(shards, tmp_path / "run", max_iters=3_000, eval_every=3_000, sample_every=3_000, save_every=3_000)
    process = start(words_of(settings, "--gpus", "2"))
    wait_for_step(tmp_path / "run", 3)
    ranks = ranks_of(process)
    process.kill()
    _, told = process.communicate(timeout=60)  # until the ranks have closed standard error too
    assert "The same command continues" in told
    # A process closes its files a moment before it is gone.
    assert any(not any(map(is_alive, ranks)) or time.sleep(0.1) for _ in range(100))
    assert checkpoints_of(tmp_path / "run")


def failed(*exit_codes: int) -> ChildFailedError:
    failures = {
        rank: ProcessFailure(local_rank=rank, pid=1, exitcode=code, error_file="none")
        for rank, code in enumerate(exit_codes)
    }
    return ChildFailedError("train", failures)


@pytest.mark.parametrize(
    ("exit_codes", "whole"), [((75, 75), 75), ((75, 130), 130), ((1, 75), 1), ((75, 2), 2), ((1,), 1)]
)
def test_the_exit_code_of_the_whole_is_that_of_the_rank_that_failed(exit_codes: tuple[int, ...], whole: int) -> None:
    assert _exit_code(failed(*exit_codes)) == whole


@pytest.mark.skipif(sys.platform == "win32", reason="processes there are not killed by signals")
def test_a_killed_rank_is_named() -> None:
    with pytest.raises(UserError, match="Rank 1 was killed by SIGKILL"):
        _exit_code(failed(75, -9))


def test_more_processes_than_gpus_says_how_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    with pytest.raises(UsageError, match="has 4 GPUs"):
        check_processes(8, "auto")
    with pytest.raises(UsageError, match="names one GPU"):
        check_processes(2, "cuda:1")
    check_processes(4, "auto")


def test_rank_facts_come_from_torchrun_or_an_srun_step(monkeypatch: pytest.MonkeyPatch) -> None:
    assert detect() == Ranks()
    torchrun = {"TORCHELASTIC_RUN_ID": "x", "RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
    with monkeypatch.context() as patched:
        for name, value in torchrun.items():
            patched.setenv(name, value)
        assert detect() == Ranks(rank=3, local_rank=1, world_size=4, local_world_size=2, launched=True)
    slurm = {
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_PROCID": "2",
        "SLURM_LOCALID": "0",
        "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
        "SLURM_STEP_NODELIST": "node[003-004]",
        "SLURM_JOB_ID": "7",
    }
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    for name in ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    assert detect() == Ranks(rank=2, local_rank=0, world_size=4, local_world_size=2, launched=True)
    assert os.environ["MASTER_ADDR"] == "node003"


@pytest.mark.parametrize(
    ("nodelist", "first"),
    [
        ("alone", "alone"),
        ("a,b", "a"),
        ("n[1-3,7]", "n1"),
        ("n[08],m[1-2]", "n08"),
        ("a,n[1-2]", "a"),
        ("r[1-2]n[3-4]-ib", "r1n3-ib"),
    ],
)
def test_the_first_host_of_a_slurm_list_is_found(nodelist: str, first: str) -> None:
    assert _first_host(nodelist) == first
