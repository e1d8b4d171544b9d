"""A run stops soon, wherever it is, and is what it would have been when it goes on."""

from __future__ import annotations

import importlib
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from small_runs import tiny
from test_training import HELLASWAG_ROWS, files_of, losses, stopping_at

from gptcli import train
from gptcli.errors import UsageError
from gptcli.model.locate import checkpoints_of
from gptcli.settings import TrainSettings
from gptcli.training import fitting, run
from gptcli.training.events import Event, Started, StepDone
from gptcli.training.fitting import Costs, steps_within
from gptcli.training.metrics import read
from gptcli.training.signals import StopSignals


def signal_in_call(
    monkeypatch: pytest.MonkeyPatch, where: str, call: int, number: int = signal.SIGTERM
) -> Callable[[], int]:
    """Raise a signal in the `call`-th call of the function named; returns how many calls there were after it."""
    module, name = where.rsplit(".", 1)
    original = getattr(importlib.import_module(module), name)
    calls = 0

    def wrapped(*args: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == call:
            signal.raise_signal(number)
        return original(*args, **options)

    monkeypatch.setattr(where, wrapped)
    return lambda: calls - call


def equal_runs(one: Path, other: Path) -> None:
    for kind in ("train", "val", "hellaswag"):
        rows = [
            [
                {key: row.get(key) for key in ("step", "loss", "lr", "grad_norm", "acc", "n")}
                for row in read(path / "metrics.jsonl")
                if row["kind"] == kind
            ]
            for path in (one, other)
        ]
        assert rows[0] == rows[1]
    assert read(one / "samples.jsonl") == read(other / "samples.jsonl")
    assert files_of(checkpoints_of(one)[-1]) == files_of(checkpoints_of(other)[-1])


@pytest.mark.parametrize(
    ("where", "call"),
    [
        ("gptcli.model.network.linear_cross_entropy", 3),  # in the middle of the validation at step 0
        ("gptcli.model.network.linear_cross_entropy", 4 + 12 + 3),  # of that at step 3
        ("gptcli.inference.engine.choose", 9),  # in the middle of a sample
        ("gptcli.evals.scoring.score_targets", 2),  # of HellaSwag
        ("gptcli.model.network.linear_cross_entropy", 4 + 8),  # of a step
    ],
)
def test_a_signal_is_heard_in_the_middle_of_everything_and_the_run_goes_on_bit_for_bit(
    where: str, call: int, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "hellaswag.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in HELLASWAG_ROWS))

    def settings(name: str) -> TrainSettings:
        return tiny(
            shards, tmp_path / name, n_batches=1, metrics=("hellaswag",), hellaswag_data=str(data), context_length=16
        )

    train(settings("whole"))
    with monkeypatch.context() as patched:
        after = signal_in_call(patched, where, call)
        result = train(settings("parts"))
    assert result.signal == signal.SIGTERM
    assert after() == 0, "it went on after the signal"
    assert train(settings("parts")).complete
    equal_runs(tmp_path / "whole", tmp_path / "parts")


def test_max_time_ends_a_run_as_a_signal_does_and_it_goes_on_with_its_schedule(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny(shards, tmp_path / "whole"))
    offset = 0.0
    real = time.monotonic

    def listen(event: Event) -> None:
        nonlocal offset
        if isinstance(event, StepDone) and event.step == 2:
            offset = 3600.0

    with monkeypatch.context() as patched:
        patched.setattr("gptcli.training.signals.time.monotonic", lambda: real() + offset)
        result = train(tiny(shards, tmp_path / "parts", max_time=1800), listen)
    assert (result.step, result.out_of_time, result.signal, result.complete) == (2, True, None, False)
    assert train(tiny(shards, tmp_path / "parts")).complete
    for kind in ("train", "val"):
        assert losses(tmp_path / "parts", kind) == losses(tmp_path / "whole", kind)


def test_a_run_that_is_over_before_its_time_is_complete(shards: Path, tmp_path: Path) -> None:
    assert train(tiny(shards, tmp_path, max_time=3600)).complete


def test_the_time_of_a_stop_is_that_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("gptcli.training.signals.time.monotonic", lambda: now)
    stop = StopSignals(deadline=105.0)
    assert not stop
    now = 105.0
    assert stop


# --fit-time


def test_a_fitted_run_is_the_run_of_so_many_steps_bit_for_bit(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "steps_within", lambda *_: 6)
    fitted = tiny(shards, tmp_path / "fitted", fit_time=60, max_iters=None, drop_rate=0.1)
    result = train(fitted)
    assert (result.step, result.complete) == (6, True)
    train(tiny(shards, tmp_path / "told", drop_rate=0.1))
    equal_runs(tmp_path / "told", tmp_path / "fitted")


def test_the_number_of_steps_is_fixed_once(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "steps_within", lambda *_: 6)
    settings = tiny(shards, tmp_path, fit_time=60, max_iters=None)

    def stop(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == 2:
            signal.raise_signal(signal.SIGTERM)

    assert train(settings, stop).step == 2
    monkeypatch.setattr(fitting, "steps_within", lambda *_: 600)
    result = train(settings)
    assert (result.step, result.steps, result.complete) == (6, 6, True)
    assert train(settings).already_finished


def test_what_is_measured_gives_a_length_that_is_told(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[float, Costs]] = []

    def seven(seconds: float, costs: Costs, settings: TrainSettings) -> int:
        given.append((seconds, costs))
        return 7

    monkeypatch.setattr(fitting, "steps_within", seven)
    events: list[Event] = []
    result = train(tiny(shards, tmp_path, fit_time=30, max_iters=None), events.append)
    (started,) = (event for event in events if isinstance(event, Started))
    assert started.steps == result.step == result.steps == 7
    ((seconds, costs),) = given
    assert 0 < seconds < 30  # what the start has taken is gone
    assert min(costs.step, costs.validation, costs.sample, costs.save) > 0
    assert costs.hellaswag == 0  # which this run does without


def test_a_run_that_is_stopped_while_it_measures_has_begun_nothing(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny(shards, tmp_path, fit_time=60, max_iters=None)
    with monkeypatch.context() as patched:
        signal_in_call(patched, "gptcli.model.network.linear_cross_entropy", 2)
        result = train(settings)
    assert (result.checkpoint, result.step, result.signal) == (None, 0, signal.SIGTERM)
    assert checkpoints_of(tmp_path) == []
    monkeypatch.setattr(fitting, "steps_within", lambda *_: 3)
    assert train(settings).step == 3


def test_a_time_too_short_for_one_step_says_how_long_one_takes(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"not one step ends in 0\.01 s"):
        train(tiny(shards, tmp_path, fit_time=0.01, max_iters=None))
    assert not (tmp_path / run.record.RUN).exists()


def test_steps_are_counted_with_all_that_comes_between_them() -> None:
    settings = TrainSettings(eval_every=10, sample_every=20, save_every=50, keep_best=False)
    costs = Costs(step=1.0, validation=2.0, hellaswag=3.0, final_hellaswag=6.0, sample=4.0, save=5.0)
    # 1 + 5/10 + 4/20 + 5/50 = 1.8 s a step, 2 + (2 + 6) + 4 + 5 = 19 s at both ends, 4% left over
    assert steps_within(1000.0, costs, settings) == int((960 - 19) / 1.8)
    assert steps_within(19.0, costs, settings) == 0
    often = TrainSettings(eval_every=10, sample_every=20, save_every=50)
    assert steps_within(1000.0, costs, often) == int((960 - 19) / 2.3)


def test_how_long_can_not_be_said_twice(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--fit-time measures how many steps the run has, --max-iters says it"):
        train(tiny(shards, tmp_path, fit_time=60))


def test_a_run_keeps_what_was_measured_for_it_so_that_its_bits_stay(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny(shards, tmp_path / "whole"))
    train(tiny(shards, tmp_path / "parts"), stopping_at(2))
    before = json.loads((checkpoints_of(tmp_path / "parts")[-1] / "training/state.json").read_text())["numerics"]
    monkeypatch.setattr("gptcli.training.numerics.n_threads", lambda processes: before["threads"] + 1)
    monkeypatch.setattr("gptcli.training.numerics.has_fused", lambda device: not before["fused_adamw"])
    train(tiny(shards, tmp_path / "parts"))
    equal_runs(tmp_path / "whole", tmp_path / "parts")
    train(tiny(shards, tmp_path / "other"))
    other = files_of(checkpoints_of(tmp_path / "other")[-1])
    assert other["model.safetensors"] != files_of(checkpoints_of(tmp_path / "whole")[-1])["model.safetensors"]


def test_a_preset_does_not_say_how_long_a_fitted_run_is() -> None:
    fitted = TrainSettings(preset="demo", fit_time=60)
    assert (fitted.max_iters, fitted.n_layers) == (None, 4)
    assert TrainSettings(preset="demo").max_iters == 400
