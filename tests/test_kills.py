"""A run that is killed again and again, at any moment, is in the end the run that nobody disturbed."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_runs import tiny
from test_distributed import words_of
from test_stopping import equal_runs

from gptcli import train
from gptcli.model.locate import checkpoints_of
from gptcli.settings import TrainSettings
from gptcli.training.metrics import read


def settings(shards: Path, run: Path) -> TrainSettings:
    """A run of which a good part of the time goes into saving."""
    return tiny(
        shards,
        run,
        emb_dim=48,
        max_iters=60,
        eval_every=10,
        sample_every=15,
        save_every=4,
        drop_rate=0.1,
    )


def newest_step(run: Path) -> int:
    return max((row["step"] for row in read(run / "metrics.jsonl")), default=0)


def kill_soon_after(step: int, delay: float, run: Path, words: list[str]) -> bool:
    """Run `gpt` until `step` is logged and a little longer, then kill it; False where it was done before."""
    with subprocess.Popen([sys.executable, "-m", "gptcli", *words], stderr=subprocess.PIPE, text=True) as process:
        try:
            while newest_step(run) < step:
                if process.poll() is not None:
                    assert process.stderr
                    assert process.returncode == 0, process.stderr.read()
                    return False
                time.sleep(0.002)
            time.sleep(delay)
        finally:
            process.kill()
    return True


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kills", [1, pytest.param(40, marks=pytest.mark.slow)])
def test_a_run_that_is_killed_at_random_moments_equals_an_uninterrupted_one_bit_for_bit(
    kills: int, shards: Path, tmp_path: Path
) -> None:
    train(settings(shards, tmp_path / "whole"))
    run = tmp_path / "killed"
    words = words_of(settings(shards, run))
    chance = random.Random(kills)
    for _ in range(kills):
        saved = int(checkpoints_of(run)[-1].name[5:]) if checkpoints_of(run) else 0
        # Mostly some steps further than the last checkpoint, so that the run gets somewhere; sometimes at its start.
        after = saved + chance.randrange(1, 9) if chance.random() < 0.8 else 0
        kill_soon_after(after, chance.random() * 0.1, run, words)
    done = subprocess.run([sys.executable, "-m", "gptcli", *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    equal_runs(tmp_path / "whole", run)
    assert not list((run / "checkpoints").glob(".*"))
    assert not list((run / "checkpoints").glob("damaged*"))
