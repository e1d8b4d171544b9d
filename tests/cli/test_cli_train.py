"""How a training run is drawn, launched and ended."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gptcli.cli.monitor import Lines
from gptcli.cli.report import console
from gptcli.cli.train import where_time_went
from gptcli.settings import TrainSettings
from gptcli.training.events import Evaluated, Note, Sampled, Saved, Spent, Started, StepDone, TrainResult


def train_events(settings: TrainSettings, listener: Any, command: Any) -> None:
    run = Path(settings.log_dir)
    listener(Started(run, 0, 2, 8, {"Device": "cpu, fp32"}))
    listener(Note("HellaSwag is left out."))
    listener(StepDone(1, 3.5, 1e-3, 1.0, 1000.0, 8, seconds=0.008))
    listener(Evaluated(1, "val", {"loss": 3.25}))
    listener(Sampled(1, "Once", " upon"))
    listener(StepDone(2, 3.0, 1e-3, 1.0, 1000.0, 16, 1.25, waited=0.03, peak_memory=3 * 2**29, mfu=0.404))
    listener(Saved(2, run / "checkpoints" / "step_0000002", 1.0, 2.0))


@pytest.fixture
def trained(stub: Any) -> SimpleNamespace:
    """A `train` that plays a short run; what it is given and how it ends is kept here."""
    kept = SimpleNamespace(signal=None, launched=[], command=None, rank=0, is_rank=False, steps=0)

    def train(settings: TrainSettings, listener: Any, command: Any) -> TrainResult:
        kept.command = command
        train_events(settings, listener, command)
        run = Path(settings.log_dir)
        return TrainResult(run, run / "checkpoints" / "step_0000002", 2, 2, 3.25, kept.signal)

    def launch(words: list[str], processes: int) -> int:
        kept.launched.append((words, processes))
        if kept.steps:
            Path("log").mkdir(exist_ok=True)
            rows = [json.dumps({"kind": "train", "step": step + 1}) + "\n" for step in range(kept.steps)]
            Path("log/metrics.jsonl").write_text("".join(rows))
        return 75

    stub("gptcli.training.run", train=train)
    stub("gptcli.training.setup", preflight=lambda settings: None)
    stub("gptcli.distributed.launch", launch=launch)
    stub(
        "gptcli.distributed.runtime",
        detect=lambda: SimpleNamespace(rank=kept.rank, launched=kept.is_rank),
        launcher=lambda: None,
    )
    return kept


def test_train_without_a_terminal_writes_plain_lines_and_says_what_to_type_next(
    gpt: Any, trained: SimpleNamespace
) -> None:
    result = gpt("train", "--log-dir", "my log")
    assert (result.code, result.out) == (0, "")
    checkpoint = Path("my log/checkpoints/step_0000002")
    assert [re.sub(r"\d:\d\d left", "… left", line) for line in result.err.splitlines()] == [
        "Device  cpu, fp32",
        "note: HellaSwag is left out.",
        "step 1/2  loss 3.5000  lr 1.00e-03  grad norm 1  1k tokens/s  8 ms  … left",
        "step 1  validation  loss 3.2500",
        "step 1  sample: Once upon",
        "step 2/2  loss 3.0000  lr 1.00e-03  grad norm 1  1k tokens/s  1.25 s  3% waiting for data  peak 1.5 GiB  "
        "MFU 40.4%  … left",
        f"step 2  saved {checkpoint}",
        "Done: 2 steps, validation loss 3.2500",
        f"Checkpoint: {checkpoint}",
        "Next: gpt plot 'my log'",
        "      gpt generate \"On a clear day\" --model 'my log'",
    ]
    assert trained.command == ["gpt", "train", "--log-dir", "my log"]


def test_the_end_of_a_run_tells_where_its_time_went() -> None:
    spent = Spent(steps=100.0, waiting=0.5, evaluating=61.0, saving=2.0, tokens=200_000)
    assert where_time_went(spent) == (
        "Time: 1:40 in steps at 2,000 tokens/s, 0.5% of it waiting for data; 1:01 evaluating, 0:02 waiting for saves"
    )


def test_train_on_a_terminal_draws_a_view_of_all_that_is_known_of_the_run(
    gpt: Any, trained: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR")
    last = last_drawing(gpt("train").err)
    for shown in ("finished", "2/2  100%", "train loss  3.0000", "validation  3.2500", "grad norm 1 ", "1k tokens/s"):
        assert shown in last
    assert "sample      Once upon" in last
    assert re.search(r"events +0  HellaSwag is left out", last)
    assert "2  saved step_0000002" in last


def last_drawing(err: str) -> str:
    """What is on the terminal in the end, of the view and beneath it, without its codes."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", err)
    return plain[[match.start() for match in re.finditer(r"^log  |\rlog  ", plain, re.MULTILINE)][-1] :].lstrip("\r")


def test_no_monitor_draws_nothing_between_the_beginning_and_the_end(gpt: Any, trained: SimpleNamespace) -> None:
    lines = gpt("train", "--no-monitor").err.splitlines()
    assert lines[:3] == ["Device  cpu, fp32", "note: HellaSwag is left out.", "Done: 2 steps, validation loss 3.2500"]


def test_only_the_first_process_speaks(gpt: Any, trained: SimpleNamespace) -> None:
    trained.rank, trained.is_rank = 1, True
    result = gpt("train", "--gpus", "2")
    assert (result.code, result.out, result.err, trained.launched) == (0, "", "", [])


def test_several_processes_are_launched_with_the_same_words_and_their_exit_code_is_passed_on(
    gpt: Any, trained: SimpleNamespace
) -> None:
    Path("log/checkpoints/step_0000001").mkdir(parents=True)  # what the run saved
    assert gpt("train", "--gpus", "2", "--n_layers=3").code == 75
    ((words, settings),) = trained.launched
    assert (words, settings.gpus) == (["train", "--gpus", "2", "--n_layers=3"], 2)


def test_a_run_that_was_stopped_before_its_first_step_has_lost_nothing(gpt: Any, trained: SimpleNamespace) -> None:
    old = Path("log/checkpoints/step_0000003")
    old.mkdir(parents=True)
    os.utime(old, (1e9, 1e9))
    trained.steps = 3  # what an earlier call logged up to its checkpoint
    result = gpt("train", "--gpus", "2")
    assert (result.code, result.err) == (75, "Stopped before the first step; nothing was lost.\n")


def test_a_run_that_was_stopped_before_it_could_save_has_failed(gpt: Any, trained: SimpleNamespace) -> None:
    trained.steps = 2
    result = gpt("train", "--gpus", "2")
    assert result.code == 1
    assert "stopped before it could save" in result.err


@pytest.mark.parametrize(("signal", "code"), [(None, 0), (2, 130), (15, 75), (10, 75)])
def test_the_exit_code_tells_how_a_run_was_stopped(
    signal: int | None, code: int, gpt: Any, trained: SimpleNamespace
) -> None:
    trained.signal = signal
    result = gpt("train")
    assert result.code == code
    assert ("The same command continues." in result.err) is (signal is not None)


def test_a_dry_run_is_a_table_for_people_and_a_document_for_programs(gpt: Any, stub: Any) -> None:
    plan = SimpleNamespace(
        facts={"Model": "124 M", "Steps": "10"}, as_dict=lambda: {"parameters": 124, "mfu": float("nan")}
    )
    stub("gptcli.planning", plan=lambda settings: plan)
    people, programs = gpt("train", "--dry-run"), gpt("train", "--dry-run", "--json")
    assert people.err.splitlines() == ["Model  124 M", "Steps  10"]
    assert people.out == ""
    assert json.loads(programs.out) == {"parameters": 124, "mfu": None}


def test_the_time_left_follows_the_pace_since_the_first_step_whatever_came_before_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = SimpleNamespace(now=0.0)
    lines = Lines(console(), clock=lambda: clock.now)
    lines(Started(Path("log"), 10, 30, 8, {}))
    for clock.now, step in ((1000.0, 11), (1010.0, 12), (1040.0, 14)):
        lines(StepDone(step, 1.0, 1e-3, 1.0, 4.0, 8 * step, seconds=2.0))
    assert re.findall(r"step (\d+)/30 .* (\S+) left", capsys.readouterr().err) == [
        ("11", "0:38"),  # 19 steps of 8 tokens at 4 tokens/s
        ("12", "3:00"),
        ("14", "3:33"),  # 16 steps at 40 s / 3
    ]


@pytest.mark.parametrize("columns", [100, 60, 40, 20])
def test_a_narrow_terminal_leaves_out_what_matters_least_and_is_never_filled_to_its_edge(
    columns: int, gpt: Any, trained: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("COLUMNS", str(columns))
    view = last_drawing(gpt("train").err).partition("Done")[0].splitlines()
    assert view
    assert all(len(line) <= columns - 2 for line in view)
    assert any("2/2" in line for line in view)
    assert any("loss  3" in line for line in view)
