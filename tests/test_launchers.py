"""Ranks that others start: torchrun, and the tasks of an srun step; and what becomes of all when one of them fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from small_runs import tiny
from test_distributed import failed, is_alive, train_losses, wait_for_step, words_of
from test_nodes import LONG, free_port

from gptcli import train
from gptcli.distributed.launch import _exit_code, check_launched
from gptcli.distributed.runtime import Ranks, detect
from gptcli.errors import UsageError, UserError
from gptcli.model.locate import checkpoints_of
from gptcli.settings import TrainSettings

pytestmark = pytest.mark.timeout(240)
ON_POSIX = pytest.mark.skipif(os.name != "posix", reason="processes there are not stopped by signals")
ON_LINUX = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")

STEP = {  # what srun tells each of two tasks
    "SLURM_JOB_ID": "42",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_TASKS_PER_NODE": "2",
    "SLURM_STEP_NODELIST": "localhost",
}

# Python imports a module of this name when it starts. In the second rank of a run a fault follows the backward pass of
# the fourth step and those after it; the first one then waits for it in the next thing that they do together.
SITECUSTOMIZE = """
import os
if os.environ.get("RANK", os.environ.get("SLURM_PROCID")) == "1":
    from gptcli.distributed.group import Group
    grad_norm, calls = Group.grad_norm, []
    def faulty_norm(self, model):
        calls.append(None)
        if len(calls) > 3:
            fault(len(calls))
        return grad_norm(self, model)
    def fault(step):
{fault}
    Group.grad_norm = faulty_norm
"""
RAISES = "raise LookupError('nobody foresaw this')"
# Waits for ever, whatever signal comes; ctypes releases the interpreter's lock for it, as torch does while it waits for
# a GPU.
HANGS = """
import ctypes
lock, library = ctypes.create_string_buffer(128), ctypes.CDLL(None)
print("hanging", flush=True)
library.pthread_mutex_lock(lock), library.pthread_mutex_lock(lock)
"""
LEAKS = """
import resource, torch
if step == 4:
    held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + 300 * 2**20,) * 2)
calls.append(torch.ones(2**24))  # 64 MiB
"""
# Exit codes of the processes that were started, and what they and their ranks said.
Start = Callable[[list[str], dict[str, str]], tuple[list[int], str]]


def with_fault(folder: Path, fault: str) -> dict[str, str]:
    """The environment in which the second rank of a run has `fault`."""
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE.format(fault=textwrap.indent(fault.strip(), " " * 8)))
    return {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])}


def tasks_of_step(words: list[str], environment: dict[str, str]) -> list[subprocess.Popen[str]]:
    """An srun step of two tasks: a process for each, with the environment that Slurm gives it."""
    step = STEP | {"MASTER_PORT": str(free_port())}
    return [
        process([sys.executable, "-m", "gptcli", *words], environment | step | task)
        for task in ({"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(2))
    ]


def process(words: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        words, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def ended(processes: list[subprocess.Popen[str]]) -> tuple[list[int], str]:
    try:
        told = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()  # does nothing where it has ended
    return [process.returncode for process in processes], "".join(told)


def by_srun(words: list[str], environment: dict[str, str]) -> tuple[list[int], str]:
    return ended(tasks_of_step(words, environment))


def by_torchrun(words: list[str], environment: dict[str, str]) -> tuple[list[int], str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "gptcli"]
    return ended([process([*command, *words], environment)])


def by_gpt(words: list[str], environment: dict[str, str]) -> tuple[list[int], str]:
    return ended([process([sys.executable, "-m", "gptcli", *words, "--gpus", "2"], environment)])


@pytest.mark.slow
@pytest.mark.parametrize("start", [by_torchrun, by_srun])
def test_ranks_that_others_start_log_the_losses_of_one_process_and_the_first_speaks(
    start: Start, shards: Path, tmp_path: Path
) -> None:
    def settings(run: str) -> TrainSettings:
        return tiny(shards, tmp_path / run, n_batches=1, max_iters=4)

    codes, told = start(words_of(settings("two")), {})
    assert not any(codes), told
    assert told.count("Checkpoint:") == 1
    assert "2 processes" in told
    train(settings("one"))
    assert train_losses(tmp_path / "two") == pytest.approx(train_losses(tmp_path / "one"), abs=1e-5)


def test_two_steps_of_a_job_do_not_meet_at_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    def port(step: str) -> int:
        with monkeypatch.context() as patched:
            for name in ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK"):
                patched.setenv(name, "")
                patched.delenv(name)
            for name, value in {**STEP, "SLURM_STEP_ID": step, "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}.items():
                patched.setenv(name, value)
            detect()
            return int(os.environ["MASTER_PORT"])

    assert len({port("0"), port("0"), port("1"), port("2")}) == 3


@ON_POSIX
@pytest.mark.slow
def test_tasks_of_a_step_that_are_stopped_all_end_with_75_and_one_process_continues(
    shards: Path, tmp_path: Path
) -> None:
    settings = tiny(shards, tmp_path / "run", **LONG)
    tasks = tasks_of_step(words_of(settings), {})
    wait_for_step(tmp_path / "run", 3)
    tasks[1].send_signal(signal.SIGUSR1)  # to one of them alone
    codes, told = ended(tasks)
    assert codes == [75, 75], told
    assert told.count("The same command continues") == 1
    (folder,) = checkpoints_of(tmp_path / "run")
    assert train_losses(tmp_path / "run")[int(folder.name[5:]) :]  # the validation at step 0, and as many as were saved


@pytest.mark.slow
@pytest.mark.parametrize(("start", "codes"), [(by_srun, [2, 2]), (by_torchrun, [1])])
def test_wrong_usage_is_told_by_one_of_the_ranks(start: Start, codes: list[int], shards: Path, tmp_path: Path) -> None:
    found, told = start(words_of(tiny(shards, tmp_path / "run", total_batch_size=65)), {})
    assert found == codes, told  # torchrun turns every failure into 1
    assert told.count("error:") == told.count("--total-batch-size 65 can't be divided") == 1


@pytest.mark.slow
@pytest.mark.parametrize(("start", "codes"), [(by_gpt, [1]), (by_srun, [1, 1])])
def test_what_nobody_foresaw_in_one_rank_is_told_once_with_its_rank_and_traceback_and_ends_all(
    start: Start, codes: list[int], shards: Path, tmp_path: Path
) -> None:
    found, told = start(words_of(tiny(shards, tmp_path / "run", **LONG)), with_fault(tmp_path, RAISES))
    assert found == codes, told
    assert told.count("Traceback") == told.count("rank 1: Traceback (most recent call last):") == 1
    assert told.count("LookupError: ") == told.count("rank 1: LookupError: nobody foresaw this") == 1
    assert "in take_step" in told
    assert "should not have happened" not in told
    assert "killed by" not in told


@pytest.mark.parametrize(
    ("exit_codes", "whole"), [((-signal.SIGTERM, 1), 1), ((2, -signal.SIGTERM), 2), ((75, -signal.SIGTERM, 1), 1)]
)
def test_a_rank_that_was_ended_since_another_failed_is_not_the_cause(exit_codes: tuple[int, ...], whole: int) -> None:
    assert _exit_code(failed(*exit_codes)) == whole


@ON_POSIX
@pytest.mark.parametrize("exit_codes", [(-9, 1), (1, -9), (-signal.SIGTERM, -9), (75, -9)])
def test_a_rank_that_something_else_killed_is_the_cause(exit_codes: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=f"Rank {exit_codes.index(-9)} was killed by SIGKILL"):
        _exit_code(failed(*exit_codes))


@ON_LINUX
def test_a_rank_that_hangs_in_native_code_ends_when_the_other_is_killed(shards: Path, tmp_path: Path) -> None:
    tasks = tasks_of_step(words_of(tiny(shards, tmp_path / "run", **LONG)), with_fault(tmp_path, HANGS))
    assert tasks[1].stdout
    assert tasks[1].stdout.readline() == "hanging\n"
    began = time.monotonic()
    tasks[0].kill()
    codes, told = ended(tasks)
    assert codes == [-signal.SIGKILL, 1], told
    assert "rank 1: another process of the run has ended" in told
    assert time.monotonic() - began < 30  # 5 s on a machine that is not busy
    assert not any(is_alive(task.pid) for task in tasks)


@ON_LINUX
@pytest.mark.parametrize(("start", "codes"), [(by_srun, [1, 1]), pytest.param(by_gpt, [1], marks=pytest.mark.slow)])
def test_a_rank_that_runs_out_of_memory_ends_all(start: Start, codes: list[int], shards: Path, tmp_path: Path) -> None:
    found, told = start(words_of(tiny(shards, tmp_path / "run", **LONG)), with_fault(tmp_path, LEAKS))
    assert found == codes, told
    assert "rank 1: " in told
    assert "memory" in told  # in what torch raises, or Python


@pytest.mark.parametrize("without", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_task_that_has_no_device_ends_all_before_they_are_a_group(without: int, shards: Path, tmp_path: Path) -> None:
    words = words_of(tiny(shards, tmp_path / "run"))
    at = words.index("--device")
    del words[at : at + 2]
    step = STEP | {"MASTER_PORT": str(free_port())}
    devices = ["cuda:99" if rank == without else "cpu" for rank in range(2)]
    tasks = [
        {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "GPTCLI_DEVICE": device}
        for rank, device in enumerate(devices)
    ]
    codes, told = ended([process([sys.executable, "-m", "gptcli", *words], step | task) for task in tasks])
    assert codes == [2, 2], told
    assert told.count("error:") == 1
    assert not (tmp_path / "run").exists()


def test_options_that_contradict_the_launcher_are_refused() -> None:
    ranks = Ranks(rank=0, world_size=4, local_world_size=2, launched=True)
    with pytest.raises(UsageError) as error:
        check_launched(TrainSettings(gpus=8, nodes=3), ranks)
    assert len(error.value.faults) == 2
    check_launched(TrainSettings(gpus=2, nodes=2), ranks)
    check_launched(TrainSettings(), ranks)
