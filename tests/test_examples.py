"""The scripts that people copy, run as they stand: Slurm's own commands are played by small stand-ins."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import tiny
from test_distributed import train_losses, wait_for_step, words_of
from test_nodes import LONG, free_port

from gptcli import train
from gptcli.model.locate import checkpoints_of

EXAMPLES = Path(__file__).parents[1] / "examples"
pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(shutil.which("bash") is None or os.name != "posix", reason="shell scripts"),
]

# Starts its command as two tasks, with what Slurm tells them, and ends with the largest code. SIGUSR1 it passes on to
# both, at SIGTERM it kills them, as srun does.
SRUN = """#!{python}
import os, signal, subprocess, sys
words = sys.argv[3:]
assert sys.argv[1:3] == ["--cpus-per-task=1", "--kill-on-bad-exit=0"]
told = dict(SLURM_STEP_NUM_TASKS="2", SLURM_STEP_TASKS_PER_NODE="2", SLURM_STEP_NODELIST="localhost")
told["MASTER_PORT"] = "{port}"
tasks = []
for number, passed_on in ((signal.SIGUSR1, signal.SIGUSR1), (signal.SIGTERM, signal.SIGKILL)):
    signal.signal(number, lambda *_, passed_on=passed_on: [task.send_signal(passed_on) for task in tasks])
for rank in range(2):
    tasks.append(subprocess.Popen(words, env=os.environ | told | dict(SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank))))
sys.exit(max(task.wait() for task in tasks))
"""
SCONTROL = """#!/bin/sh
echo "$@" >> "{folder}/scontrol"
"""
GPT = """#!/bin/sh
exec {python} -m gptcli "$@"
"""


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """The environment of a job, with stand-ins of the commands in its PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, "gpt": GPT}.items():
        script = folder / name
        script.write_text(text.format(python=sys.executable, port=free_port(), folder=tmp_path))
        script.chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "SLURM_JOB_ID": "42", "SLURM_CPUS_PER_TASK": "1"}


def start_job(command: str, cluster: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", str(EXAMPLES / "slurm.sh")],
        env=cluster | {"GPT_COMMAND": command},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize(
    ("name", "queued"),  # Windows, which skips this, has not both
    [
        pytest.param("SIGUSR1", True, id="its time is nearly over"),
        pytest.param("SIGTERM", False, id="its script gets SIGTERM", marks=pytest.mark.slow),
    ],
)
def test_a_job_that_is_stopped_saves_and_queues_itself_again_when_its_time_is_over(
    name: str, queued: bool, shards: Path, tmp_path: Path, cluster: dict[str, str]
) -> None:
    settings = tiny(shards, tmp_path / "run", **LONG)
    job = start_job(" ".join(["gpt", *words_of(settings)]), cluster)
    wait_for_step(tmp_path / "run", 3)
    job.send_signal(signal.Signals[name])  # as Slurm does, to the script alone
    told, _ = job.communicate(timeout=120)
    assert job.returncode == 75, told
    assert told.count("The same command continues") == 1
    assert (tmp_path / "scontrol").exists() == queued
    assert not queued or (tmp_path / "scontrol").read_text() == "requeue 42\n"
    assert int(checkpoints_of(tmp_path / "run")[-1].name[5:]) >= 3


@pytest.mark.parametrize("code", [0, 1, 2, 130])
def test_a_job_that_is_done_or_has_failed_is_not_queued_again(
    code: int, tmp_path: Path, cluster: dict[str, str]
) -> None:
    job = start_job(f"{sys.executable} -c exit({code})", cluster)
    told, _ = job.communicate(timeout=60)
    assert job.returncode == code, told
    assert not (tmp_path / "scontrol").exists()


@pytest.mark.slow
def test_two_machines_by_hand_are_one_run(shards: Path, tmp_path: Path, cluster: dict[str, str]) -> None:
    settings = tiny(shards, tmp_path / "run", n_batches=1, max_iters=3)
    options = {
        "MEETING": f"127.0.0.1:{free_port()}",
        "PROCESSES": "1",
        "OPTIONS": " ".join(words_of(settings)[1:]),
    }
    machines = [
        subprocess.Popen(
            ["bash", str(EXAMPLES / "multinode.sh"), str(rank)], env=cluster | options, stderr=subprocess.PIPE
        )
        for rank in range(2)
    ]
    for machine in machines:
        _, told = machine.communicate(timeout=150)
        assert machine.returncode == 0, told
    train(tiny(shards, tmp_path / "one", n_batches=1, max_iters=3))
    assert train_losses(tmp_path / "run") == pytest.approx(train_losses(tmp_path / "one"), abs=1e-5)


@pytest.mark.parametrize("script", sorted(path.name for path in EXAMPLES.glob("*.sh")))
def test_a_script_has_no_error_that_bash_finds(script: str) -> None:
    subprocess.run(["bash", "-n", str(EXAMPLES / script)], check=True)
