"""`--n-batches auto`: chosen by the plan, tried where a device can be out of memory, remembered."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import MODERN, tiny, write_shards
from torch import Tensor

from gptcli import train
from gptcli.distributed import machine_memory
from gptcli.distributed.group import Group
from gptcli.distributed.runtime import Ranks
from gptcli.errors import UserError
from gptcli.model.network import GPT
from gptcli.settings import TrainSettings
from gptcli.training import metrics, micro_batch, numerics
from gptcli.training.micro_batch import Memo, confirmed, sizes
from gptcli.training.run import optimizers_of
from gptcli.training.setup import Setup, prepare
from gptcli.training.step import Trainee


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("data"))


@pytest.fixture
def made() -> Callable[[TrainSettings], tuple[Trainee, Setup]]:
    def make(settings: TrainSettings) -> tuple[Trainee, Setup]:
        setup, device = prepare(settings), torch.device("cpu")
        choices, _ = numerics.choose(settings, device, Ranks(), 16, lambda: "fp32")
        model = GPT.create(setup.config, 1).train()
        optimizers = optimizers_of(setup, model, choices)
        return Trainee(model, model, optimizers, Group(Ranks(), device), choices, choices.scaler(device)), setup

    return make


def out_of_memory_above(trainee: Trainee, most: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have passes of more than `most` sequences end as on a GPU without memory; returns those that were tried."""
    tried: list[int] = []
    forward = trainee.model.forward

    def limited(ids: Tensor, **others: Any) -> Tensor:
        tried.append(len(ids))
        if len(ids) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(ids, **others)

    monkeypatch.setattr(trainee.model, "forward", limited)
    return tried


@pytest.mark.parametrize("changes", [{}, MODERN])
def test_a_micro_batch_that_is_too_large_gives_way_to_the_next_that_makes_up_a_step(
    changes: dict[str, object], shards: Path, tmp_path: Path, made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainee, setup = made(tiny(shards, tmp_path, n_batches="auto", total_batch_size=16 * 12, **changes))
    before = {name: p.clone() for name, p in trainee.model.named_parameters()}
    tried = out_of_memory_above(trainee, 3, monkeypatch)
    assert confirmed(trainee, replace(setup, micro_batch=6)).micro_batch == 3
    assert tried == [6, 4, 3, 3]  # what fits, once more beside its gradients
    # The trial has moved nothing and counted nothing.
    assert all(torch.equal(p, before[name]) for name, p in trainee.model.named_parameters())
    assert all(p.grad is None for p in trainee.model.parameters())
    assert trainee.optimizers.updates() == 0
    assert not any(moment.any() for moment in trainee.optimizers.moments().values())


def test_where_not_one_sequence_fits_the_way_out_is_told(
    shards: Path, tmp_path: Path, made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainee, setup = made(tiny(shards, tmp_path, n_batches="auto"))
    out_of_memory_above(trainee, 0, monkeypatch)
    with pytest.raises(UserError, match="out of memory") as caught:
        confirmed(trainee, replace(setup, micro_batch=4))
    assert "--activation-checkpointing block" in caught.value.faults[0].hint


def test_sizes_make_up_a_step_evenly(shards: Path, tmp_path: Path) -> None:
    setup = prepare(tiny(shards, tmp_path, n_batches="auto", total_batch_size=16 * 12))
    assert sizes(setup, 1) == [12, 6, 4, 3, 2, 1]
    assert sizes(setup, 2) == [6, 3, 2, 1]


def test_what_was_confirmed_is_remembered_for_its_configuration_alone(shards: Path, tmp_path: Path, made: Any) -> None:
    trainee, setup = made(tiny(shards, tmp_path, n_batches="auto"))
    memo = Memo(setup, trainee.numerics, tmp_path / "cache")
    assert memo.read() is None
    memo.write(8)
    assert Memo(setup, trainee.numerics, tmp_path / "cache").read() == 8
    other = prepare(tiny(shards, tmp_path, n_batches="auto", emb_dim=32))
    assert Memo(other, trainee.numerics, tmp_path / "cache").read() is None
    memo.file.write_text("{", encoding="utf-8")
    assert memo.read() is None


def test_a_run_goes_on_with_the_micro_batch_that_it_began_with(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny(shards, tmp_path, n_batches="auto", total_batch_size=64)
    monkeypatch.setattr(micro_batch.Memo, "read", lambda self: None)
    train(settings)
    resolved = json.loads((tmp_path / "run.json").read_text())["resolved"]
    assert (resolved["n_batches"], resolved["micro_batch"], resolved["accumulation"]) == (4, 4, 1)
    monkeypatch.setattr(machine_memory, "free_memory", lambda device: 1)
    train(tiny(shards, tmp_path, n_batches="auto", total_batch_size=64, max_iters=8))
    assert json.loads((tmp_path / "run.json").read_text())["resolved"]["n_batches"] == 4
    # A number that is given counts again.
    train(tiny(shards, tmp_path, n_batches=2, total_batch_size=64, max_iters=9))
    assert json.loads((tmp_path / "run.json").read_text())["resolved"]["n_batches"] == 2


def test_the_micro_batch_does_not_change_the_losses(shards: Path, tmp_path: Path) -> None:
    def losses(name: str, n: object) -> list[float]:
        train(tiny(shards, tmp_path / name, n_batches=n))
        return [row["loss"] for row in metrics.read(tmp_path / name / metrics.METRICS) if row["kind"] == "train"]

    assert losses("auto", "auto") == pytest.approx(losses("one", 1), rel=1e-5)


@pytest.mark.parametrize("changes", [{}, MODERN])
def test_the_trial_leaves_the_optimiser_of_a_run_that_goes_on_as_it_is(
    changes: dict[str, object], shards: Path, tmp_path: Path, made: Any
) -> None:
    trainee, setup = made(tiny(shards, tmp_path, n_batches="auto", **changes))
    ids = torch.zeros(2, setup.length, dtype=torch.int64)
    trainee.loss(trainee.model, ids, ids).backward()
    trainee.optimizers.step(0, 1e-3, left_out=torch.zeros(()), divisor=torch.ones(()))
    before = {name: moment.clone() for name, moment in trainee.optimizers.moments().items()}
    confirmed(trainee, replace(setup, micro_batch=2))
    after = trainee.optimizers.moments()
    assert any(moment.any() for moment in before.values())
    assert all(torch.equal(after[name], moment) for name, moment in before.items())
    assert trainee.optimizers.updates() == 1
