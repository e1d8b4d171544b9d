"""Losses and gradients that are not finite, or out of all proportion, never reach the weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_runs import tiny
from test_training import files_of, stopping_at
from torch import Tensor

from gptcli import train
from gptcli.errors import UserError
from gptcli.model import network
from gptcli.model.locate import checkpoints_of
from gptcli.model.loss import linear_cross_entropy
from gptcli.optim.optimizers import Rates, make_adamw
from gptcli.training.events import Event, Note
from gptcli.training.metrics import read
from gptcli.training.spikes import LEAST, WINDOW, RecentSteps

Spoil = Callable[[Tensor], Tensor]


class InfiniteGradient(torch.autograd.Function):
    """A loss that looks well, and whose gradient does not."""

    @staticmethod
    def forward(ctx: object, loss: Tensor) -> Tensor:
        return loss.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient * math.inf


SPOILS: dict[str, Spoil] = {
    "a loss of nan": lambda loss: loss * math.nan,
    "a loss of inf": lambda loss: loss + math.inf,
    "a gradient norm of": InfiniteGradient.apply,
    "a loss of 1": lambda loss: loss * 1000,
}


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, set[int]], None]:
    """`spoil(kind, calls)` spoils the loss of those micro-batches, counted over the whole run."""

    def arrange(kind: str, calls: set[int]) -> None:
        count = iter(range(10**9))

        def spoiled(hidden: Tensor, *others: Any) -> Tensor:
            loss = linear_cross_entropy(hidden, *others)
            training = torch.is_grad_enabled()
            return SPOILS[kind](loss) if training and next(count) in calls else loss

        monkeypatch.setattr(network, "linear_cross_entropy", spoiled)

    return arrange


@pytest.mark.parametrize("kind", ["a loss of nan", "a loss of inf", "a gradient norm of"])
def test_a_step_that_is_not_finite_ends_the_run_at_the_last_good_checkpoint(
    kind: str, shards: Path, tmp_path: Path, spoil: Callable[[str, set[int]], None]
) -> None:
    spoil(kind, {2 * 3 + 1})  # two micro-batches a step: the second of step 4
    with pytest.raises(UserError, match="Step 4 gave") as error:
        train(tiny(shards, tmp_path))
    told = error.value.faults[0]
    assert kind in told.message
    if kind != "a gradient norm of":
        assert "micro-batch 2 of process 0" in told.message
    assert "train_00000" in told.message
    assert "step_0000003" in told.hint
    assert [folder.name for folder in checkpoints_of(tmp_path)] == ["step_0000003"]


def test_the_run_that_was_ended_by_a_passing_fault_goes_on_as_if_nothing_had_been(
    shards: Path, tmp_path: Path, spoil: Callable[[str, set[int]], None]
) -> None:
    train(tiny(shards, tmp_path / "whole"))
    spoil("a loss of nan", {9})
    with pytest.raises(UserError):
        train(tiny(shards, tmp_path / "run"))
    spoil("a loss of nan", set())
    train(tiny(shards, tmp_path / "run"))
    folders = [checkpoints_of(tmp_path / name)[-1] for name in ("whole", "run")]
    assert files_of(folders[0]) == files_of(folders[1])


@pytest.mark.parametrize("kind", ["a loss of nan", "a gradient norm of"])
def test_a_step_that_is_skipped_leaves_weights_and_optimiser_as_they_were(
    kind: str, shards: Path, tmp_path: Path, spoil: Callable[[str, set[int]], None]
) -> None:
    def settings(run: str) -> object:
        return tiny(shards, tmp_path / run, on_spike="skip", save_every=1, keep_last=9)

    spoil(kind, {2 * 3})
    events: list[Event] = []
    result = train(settings("run"), events.append)  # type: ignore[arg-type]
    assert result.step == 6
    before, after = (tmp_path / "run/checkpoints" / f"step_000000{n}" for n in (3, 4))
    for file in ("model.safetensors", "training/optimizer.safetensors"):
        assert (before / file).read_bytes() == (after / file).read_bytes()
    assert any(isinstance(event, Note) and "so it was left out" in event.message for event in events)
    rows = {row["step"]: row for row in read(tmp_path / "run/metrics.jsonl") if row["kind"] == "train"}
    assert rows[4]["skipped"]
    assert not any("skipped" in rows[n] for n in (1, 2, 3, 5, 6))
    assert (rows[4]["loss"] is None) == (kind == "a loss of nan")


def test_a_run_with_a_skipped_step_is_resumed_bit_for_bit(
    shards: Path, tmp_path: Path, spoil: Callable[[str, set[int]], None]
) -> None:
    spoil("a loss of nan", {6})
    train(tiny(shards, tmp_path / "whole", on_spike="skip"))
    spoil("a loss of nan", {6})
    train(tiny(shards, tmp_path / "parts", on_spike="skip"), stopping_at(4))
    spoil("a loss of nan", set())
    train(tiny(shards, tmp_path / "parts", on_spike="skip"))
    folders = [checkpoints_of(tmp_path / name)[-1] for name in ("whole", "parts")]
    assert files_of(folders[0]) == files_of(folders[1])


def test_a_loss_far_above_the_recent_ones_is_skipped_and_its_micro_batch_named(
    shards: Path, tmp_path: Path, spoil: Callable[[str, set[int]], None]
) -> None:
    spoil("a loss of 1", {2 * 40 + 1})
    events: list[Event] = []
    train(tiny(shards, tmp_path, on_spike="skip", max_iters=42, eval_every=100, save_every=100), events.append)
    told = [event.message for event in events if isinstance(event, Note) and "left out" in event.message]
    assert len(told) == 1
    assert "Step 41" in told[0]
    assert "micro-batch 2 of process 0" in told[0]


def test_a_spike_is_taken_without_the_option(
    shards: Path, tmp_path: Path, spoil: Callable[[str, set[int]], None]
) -> None:
    spoil("a loss of 1", {2 * 40 + 1})
    train(tiny(shards, tmp_path, max_iters=42, eval_every=100, save_every=100))
    assert not any("skipped" in row for row in read(tmp_path / "metrics.jsonl"))


def test_more_skipped_steps_than_the_limit_end_the_run(
    shards: Path, tmp_path: Path, spoil: Callable[[str, set[int]], None]
) -> None:
    spoil("a loss of nan", {6, 8, 10})
    with pytest.raises(UserError, match="3 of the last 1000 steps were left out") as error:
        train(tiny(shards, tmp_path, on_spike="skip", spike_limit=2))
    assert "--spike-limit" in error.value.faults[0].message


@pytest.mark.parametrize("fused", [True, False])
def test_an_update_is_left_out_whole_or_changes_no_bit(fused: bool) -> None:
    def updated(*left_out: float) -> list[Tensor]:
        torch.manual_seed(0)
        model = torch.nn.Linear(300, 200)
        optimizers = make_adamw(model, Rates(1.0, 1.0, 1.0), betas=(0.9, 0.95), weight_decay=0.1, fused=fused)
        for bad in left_out:
            for parameter in model.parameters():
                parameter.grad = torch.full_like(parameter, math.nan) if bad else torch.randn_like(parameter)
            if bad:
                state = torch.get_rng_state()
            optimizers.step(0, 1e-2, torch.tensor(bad))
            if bad:
                torch.set_rng_state(state)
        moments = [value for part in optimizers.parts for state in part.state.values() for value in state.values()]
        return [*model.parameters(), *moments]

    for with_bad, without in zip(updated(0.0, 1.0, 0.0, 1.0, 1.0, 0.0), updated(0.0, 0.0, 0.0), strict=True):
        assert torch.equal(with_bad, without)


# Judging by the recent steps


@given(st.lists(st.floats(0.1, 10), min_size=LEAST, max_size=3 * WINDOW), st.floats(0.5, 10))
def test_the_limit_is_so_many_deviations_above_the_mean_of_the_last_good_steps(
    losses: list[float], zscore: float
) -> None:
    recent = RecentSteps()
    for loss in losses:
        recent = recent.with_good(loss, 2 * loss)
    last = torch.tensor(losses[-WINDOW:], dtype=torch.float64)
    deviation = max(last.std(correction=0).item(), 0.01 * last.mean().item())
    expected = last.mean().item() + zscore * deviation
    assert recent.limits(zscore) == (pytest.approx(expected), pytest.approx(2 * expected))
    assert recent.limits(None) == (math.inf, math.inf)


def test_nothing_finite_is_judged_by_too_few_steps() -> None:
    recent = RecentSteps()
    for _ in range(LEAST - 1):
        recent = recent.with_good(1.0, 1.0)
    assert recent.limits(6) == (math.inf, math.inf)
    assert recent.with_good(1.0, 1.0).limits(6) == (pytest.approx(1.06), pytest.approx(1.06))


def test_skipped_steps_are_counted_over_the_last_thousand() -> None:
    recent = RecentSteps().with_skipped(5).with_skipped(900).with_skipped(1004)
    assert list(recent.skipped) == [5, 900, 1004]
    assert list(recent.with_skipped(1005).skipped) == [900, 1004, 1005]
