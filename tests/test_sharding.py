"""A model in shards is the same model: the same losses, the same checkpoints, under any sharding and any number of
processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_runs import MODERN, tiny
from test_distributed import start, train_losses, wait_for_step, words_of
from test_training import HELLASWAG_ROWS, stopping_at

from gptcli import train
from gptcli.model.locate import checkpoints_of
from gptcli.settings import TrainSettings
from gptcli.training.metrics import read

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def settings(shards: Path, tmp_path: Path) -> Callable[..., TrainSettings]:
    """Settings of a run by name, with a HellaSwag of which two processes get unequal shares."""
    data = tmp_path / "hellaswag.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in HELLASWAG_ROWS[:5]))

    def make(run: str, **changes: object) -> TrainSettings:
        return tiny(
            shards,
            tmp_path / run,
            n_batches=1,
            eval_iters=100,
            eval_every=2,
            metrics=("hellaswag",),
            hellaswag_data=str(data),
            **changes,
        )

    return make


def run(settings: TrainSettings, processes: int) -> None:
    process = start(words_of(settings, "--gpus", str(processes)))
    _, told = process.communicate(timeout=180)
    assert process.returncode == 0, told


def tensors_of(run: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    folder = checkpoints_of(run)[-1]
    return load_file(folder / "model.safetensors") | load_file(folder / "training/optimizer.safetensors")


@pytest.mark.parametrize("mode", [pytest.param("optimizer", marks=pytest.mark.slow), "full"])
def test_a_sharded_run_logs_scores_and_saves_what_a_whole_one_does(
    mode: str, settings: Callable[..., TrainSettings], tmp_path: Path
) -> None:
    train(settings("whole"))
    run(settings("sharded", shard=mode, activation_checkpointing="block"), 2)
    whole, sharded = tmp_path / "whole", tmp_path / "sharded"
    assert len(train_losses(whole)) == 6 + 4
    assert train_losses(sharded) == pytest.approx(train_losses(whole), abs=1e-5)
    norms = [
        [row["grad_norm"] for row in read(path / "metrics.jsonl") if row["kind"] == "train"]
        for path in (whole, sharded)
    ]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    scores = [
        [(row["step"], row["n"]) for row in read(path / "metrics.jsonl") if row["kind"] == "hellaswag"]
        for path in (whole, sharded)
    ]
    assert scores[0] == scores[1] == [(2, 5), (4, 5), (6, 5)]
    assert len(read(sharded / "samples.jsonl")) == len(read(whole / "samples.jsonl"))
    ours, theirs = tensors_of(whole), tensors_of(sharded)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name], tensor, atol=2e-4, rtol=0)


@pytest.mark.slow
def test_muon_moves_a_sharded_modern_network_as_it_does_a_whole_one(
    settings: Callable[..., TrainSettings], tmp_path: Path
) -> None:
    train(settings("whole", **MODERN))
    run(settings("sharded", shard="full", activation_checkpointing="block", **MODERN), 2)
    assert train_losses(tmp_path / "sharded") == pytest.approx(train_losses(tmp_path / "whole"), abs=1e-3)
    ours, theirs = tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "sharded")
    assert ours.keys() == theirs.keys()
    assert "blocks.0.mlp.up.weight.momentum_buffer" in ours
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name], tensor, atol=5e-3, rtol=0, msg=name)


@pytest.mark.slow
def test_a_run_goes_on_under_another_sharding_and_another_number_of_processes(shards: Path, tmp_path: Path) -> None:
    def settings(run: str, **changes: object) -> TrainSettings:
        often = {"eval_every": 5_000, "sample_every": 5_000, "save_every": 5_000, "max_lr": 1e-3}
        return tiny(shards, tmp_path / run, n_batches=1, max_iters=4_000, **{**often, **changes})

    run = tmp_path / "changing"
    stopped_at = train(settings("changing"), stopping_at(2)).step
    for mode in ("full", "optimizer", "none"):
        process = start(words_of(settings("changing", shard=mode), "--gpus", "2"))
        wait_for_step(run, stopped_at + 2)
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=120)
        assert process.returncode == 75, told
        assert int(checkpoints_of(run)[-1].name[5:]) > stopped_at
        stopped_at = int(checkpoints_of(run)[-1].name[5:])
    train(settings("whole"), stopping_at(stopped_at))
    assert len(train_losses(run)) == stopped_at + 1
    assert train_losses(run) == pytest.approx(train_losses(tmp_path / "whole"), abs=1e-4)
    assert tensors_of(run).keys() == tensors_of(tmp_path / "whole").keys()


MEMORY = """
import os, sys, torch, torch.distributed as dist
from gptcli.distributed import sharding
from gptcli.model.config import GPTConfig
from gptcli.model.network import GPT
from gptcli.optim.optimizers import Rates, make_adamw
mode, rank, store = sys.argv[1], int(sys.argv[2]), sys.argv[3]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
model = GPT.create(GPTConfig(512, 256, 32, 4, 4), 0)
if mode != "none":
    sharding.shard(model, model.blocks, mode, torch.device("cpu"), None)
optimizers = make_adamw(model, Rates(1.0, 1.0, 1.0), betas=(0.9, 0.95), weight_decay=0.1, fused=True)
model(torch.zeros(1, 8, dtype=torch.int64)).sum().backward()
optimizers.step(0, 1e-3, torch.zeros(()))
held = [sharding.part(p) for p in model.parameters()] + [sharding.part(p.grad) for p in model.parameters()]
held += [sharding.part(v) for part in optimizers.parts for s in part.state.values() for v in s.values()]
print(sum(t.numel() for t in held), 4 * model.n_parameters())
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.parametrize(("mode", "share"), [pytest.param("none", 1.0, marks=pytest.mark.slow), ("full", 0.5)])
def test_each_of_two_processes_holds_half_of_the_state(mode: str, share: float, tmp_path: Path) -> None:
    words = [sys.executable, "-c", MEMORY, mode]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [*words, str(rank), str(tmp_path / "store")], stdout=subprocess.PIPE, text=True, env=environment
        )
        for rank in range(2)
    ]
    for process in processes:
        told, _ = process.communicate(timeout=120)
        held, state = (int(number) for number in told.split())
        assert held == pytest.approx(share * state, rel=0.01)
