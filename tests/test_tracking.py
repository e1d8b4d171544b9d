"""`--track`: what trackers are told, and that none of them can hurt a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from small_runs import tiny
from stand_in_trackers import TOLD

from gptcli import train
from gptcli.distributed.runtime import Ranks
from gptcli.errors import UsageError
from gptcli.settings import TrainSettings
from gptcli.training import metrics
from gptcli.training.events import Event, Note, StepDone
from gptcli.training.metrics import Tail, read
from gptcli.training.setup import prepare
from gptcli.training.tracking import listener
from gptcli.training.tracking.handed_over import HandedOver, MovedAsideError
from gptcli.training.tracking.registry import TRACKERS, Registered

pytestmark = pytest.mark.usefixtures("one_thread")
posix = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")

FAILURES = {
    "FailingAtStart": "no login",
    "LeavingAtStart": "some tools do so",
    "FailingAtLog": "No space left on device",
    "FailingAtFinish": "the server is gone",
    "Dying": "its process ended",
    "Missing": "has no attribute 'Missing'",
}


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--track` knows the stand-ins, and waits for slow machines."""
    for name in ("Recording", "TakingBack", "Rude", "HangingAtStart", "HangingAtLog", "HangingAtFinish", *FAILURES):
        monkeypatch.setitem(TRACKERS, name.lower(), Registered("json", f"stand_in_trackers:{name}"))
    monkeypatch.setattr(listener, "LAST_PATIENCE", 200.0)
    monkeypatch.setattr(listener, "STOPPED_PATIENCE", 200.0)


def run_tracked(settings: TrainSettings) -> list[str]:
    """The notes of a run that must be complete."""
    notes: list[str] = []
    assert train(settings, lambda event: notes.append(event.message) if isinstance(event, Note) else None).complete
    return notes


def told(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "tracking" / TOLD).read_text(encoding="utf-8").splitlines()]


def points(run: Path) -> list[tuple[int, str]]:
    """Step and what it was about, of everything that `Recording` was told."""
    kinds = [
        (row["step"], next(iter(row.get("values", {"sample/": 0}))).split("/")[0]) for row in told(run) if "step" in row
    ]
    return sorted(kinds)


def losses(run: Path) -> list[tuple[str, int, float]]:
    return [(row["kind"], row["step"], row["loss"]) for row in read(run / metrics.METRICS) if "loss" in row]


def stop_hard_at(step: int) -> Any:
    """A listener that ends the run with an error, so that nothing is saved."""

    def listen(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == step:
            raise ZeroDivisionError

    return listen


def test_a_tracker_is_told_what_the_run_writes_down(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "my run"
    notes = run_tracked(tiny(shards, run, track=("recording",)))
    start, *rows, last = told(run)
    assert start["name"] == "my run"
    assert start["after"] is None
    assert start["configuration"]["settings"]["max_lr"] == 1e-2
    assert start["configuration"]["resolved"]["tokens_per_step"] == 64
    assert last == {"finish": True}
    assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)
    logged = {row["step"]: row["values"] for row in rows if "train/loss" in row.get("values", {})}
    for row in read(run / metrics.METRICS):
        if row["kind"] == "train":
            names = ("loss", "lr", "grad_norm", "tokens_per_second", "step_ms", "tokens")
            assert {name: logged[row["step"]][f"train/{name}"] for name in names} == {name: row[name] for name in names}
    assert [row["step"] for row in rows if "val/loss" in row.get("values", {})] == [0, 3, 6]
    samples = {row["step"]: row["sample"] for row in rows if "sample" in row}
    assert samples == {row["step"]: row["prompt"] + row["text"] for row in read(run / metrics.SAMPLES)}
    assert any(note == f"Tracked by recording: {run / 'tracking' / TOLD}" for note in notes)


@pytest.mark.parametrize(("tracker", "reason"), FAILURES.items())
def test_a_tracker_that_fails_is_told_once_and_changes_nothing(
    shards: Path, tmp_path: Path, tracker: str, reason: str
) -> None:
    run_tracked(tiny(shards, tmp_path / "untracked"))
    notes = run_tracked(tiny(shards, tmp_path / "tracked", track=(tracker,)))
    assert losses(tmp_path / "tracked") == losses(tmp_path / "untracked")
    failed = [note for note in notes if f"{tracker.lower()} failed" in note]
    assert len(failed) == 1
    assert reason in failed[0]


@pytest.mark.parametrize("tracker", ["HangingAtStart", "HangingAtLog", "HangingAtFinish"])
def test_a_tracker_that_hangs_is_left_behind_at_the_end(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracker: str
) -> None:
    monkeypatch.setattr(listener, "LAST_PATIENCE", 1.0)
    run_tracked(tiny(shards, tmp_path / "untracked"))
    notes = run_tracked(tiny(shards, tmp_path / "tracked", track=(tracker,)))
    assert losses(tmp_path / "tracked") == losses(tmp_path / "untracked")
    assert sum("did not finish within 1 s" in note for note in notes) == 1


def test_a_call_that_hangs_ends_the_tracker_while_the_run_goes_on(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "PATIENCE", 0.5)
    notes = run_tracked(tiny(shards, tmp_path / "run", track=("hangingatstart",)))
    assert sum("has not answered for 0.5 s (start)" in note for note in notes) == 1
    assert not any("did not finish" in note for note in notes)


def test_one_tracker_does_not_suffer_from_another(shards: Path, tmp_path: Path) -> None:
    run_tracked(tiny(shards, tmp_path / "run", track=("failingatlog", "recording")))
    assert told(tmp_path / "run")[-1] == {"finish": True}


def test_a_process_that_cannot_be_started_is_a_note(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no such python"))
    notes = run_tracked(tiny(shards, tmp_path / "run", track=("recording",)))
    assert sum("recording can't be started" in note for note in notes) == 1


def test_a_run_that_goes_on_is_the_same_there_and_no_step_is_told_twice(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(ZeroDivisionError):
        train(tiny(shards, run, track=("recording",)), stop_hard_at(5))
    run_tracked(tiny(shards, run, track=("recording",)))
    first, second = [row for row in told(run) if "start" in row]
    assert first["start"] == second["start"]
    assert second["after"] == 3
    expected = [
        *((step, "train") for step in range(1, 7)),
        *((step, "val") for step in (0, 3, 6)),
        (3, "sample"),
        (6, "sample"),
    ]
    assert points(run) == sorted(expected)


def test_a_tracker_that_can_take_steps_back_is_told_those_past_the_checkpoint_again(
    shards: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with pytest.raises(ZeroDivisionError):
        train(tiny(shards, run, track=("takingback",)), stop_hard_at(5))
    run_tracked(tiny(shards, run, track=("takingback",)))
    assert [step for step, kind in points(run) if kind == "train"] == [1, 2, 3, 4, 4, 5, 5, 6]


def test_a_tracker_that_comes_later_is_told_the_whole_run(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_tracked(tiny(shards, run, max_iters=3))
    run_tracked(tiny(shards, run, track=("recording",)))
    assert [step for step, kind in points(run) if kind == "train"] == [1, 2, 3, 4, 5, 6]


def test_what_a_tracker_missed_is_told_when_the_run_goes_on(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_tracked(tiny(shards, run, max_iters=3, track=("failingatstart",)))
    TRACKERS["failingatstart"] = TRACKERS["recording"]
    run_tracked(tiny(shards, run, track=("failingatstart",)))
    assert [step for step, kind in points(run) if kind == "train"] == [1, 2, 3, 4, 5, 6]


def test_fresh_begins_another_run_and_moves_what_is_tracked_aside(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_tracked(tiny(shards, run, track=("recording",)))
    run_tracked(tiny(shards, run, track=("recording",), fresh=True))
    assert told(run)[0]["start"] != told(tmp_path / "run.1")[0]["start"]
    assert points(run) == points(tmp_path / "run.1")


def test_a_run_that_begins_again_since_nothing_was_saved_is_another_one(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(ZeroDivisionError):
        train(tiny(shards, run, track=("recording",)), stop_hard_at(2))
    run_tracked(tiny(shards, run, track=("recording",)))
    first, second = [row["start"] for row in told(run) if "start" in row]
    assert first != second


def test_only_the_first_process_tracks_and_only_its_machine_needs_the_package(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TRACKERS, "absent", Registered("no_such_package", "no_such_package:Tracker"))
    monkeypatch.setattr("gptcli.training.setup.check_processes", lambda processes, device: None)
    settings = tiny(shards, tmp_path / "run", track=("absent",))
    assert prepare(settings, Ranks(rank=1, world_size=2)).trackers == ()
    with pytest.raises(UsageError):
        prepare(settings, Ranks(rank=0, world_size=2))


def test_what_cannot_be_tracked_with_is_refused_at_once(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TRACKERS, "wandb", Registered("no_such_package", "no_such_package:Tracker"))
    with pytest.raises(UsageError) as caught:
        train(tiny(shards, tmp_path / "run", track=("tensorbord", "wandb", "mlflow", "none")))
    faults = {fault.message: fault.hint for fault in caught.value.faults}
    assert faults["--track: there is no tracker called 'tensorbord'."] == "Did you mean 'tensorboard'?"
    assert faults["--track: there is no tracker called 'mlflow'."].startswith("Known are tensorboard, wandb, trackio")
    hint = faults["--track wandb: the package no_such_package is not installed."]
    assert hint == "pip install 'gpt-from-scratch[wandb]'"
    assert "--track: none stands alone." in faults
    assert not (tmp_path / "run").exists()


def test_a_folder_of_a_tools_name_is_not_taken_for_the_tool(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "leftover").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(TRACKERS, "leftover", Registered("leftover", "leftover:Tracker"))
    with pytest.raises(UsageError, match="not installed"):
        prepare(tiny(shards, tmp_path / "run", track=("leftover",)))


def test_none_tracks_nothing_and_trackers_may_change_between_calls(shards: Path, tmp_path: Path) -> None:
    run_tracked(tiny(shards, tmp_path / "run", max_iters=3, track=("recording",)))
    run_tracked(tiny(shards, tmp_path / "run", track=("none",)))
    assert not any(step > 3 for step, _ in points(tmp_path / "run"))


def test_every_tracker_is_offered() -> None:
    offered = TrainSettings.model_fields["track"].examples
    assert offered == ["tensorboard", "wandb", "trackio", "none"]
    assert set(offered) - {"none"} <= set(TRACKERS)


def test_lines_are_read_when_they_are_whole(tmp_path: Path) -> None:
    tail, file = Tail(tmp_path / "rows.jsonl"), tmp_path / "rows.jsonl"
    assert tail.rows() == []
    file.write_bytes('{"step": 1}\n{"step": 2, "text": "ü'.encode()[:-1])  # cut within a letter
    assert tail.rows() == [{"step": 1}]
    file.write_bytes('{"step": 1}\n{"step": 2, "text": "ü"}\n'.encode())
    assert tail.rows() == [{"step": 2, "text": "ü"}]
    assert tail.rows() == []


def test_what_is_still_due_at_the_newest_step_can_be_handed_over_and_nothing_older(tmp_path: Path) -> None:
    handed_over = HandedOver.open(tmp_path / "state.json", None)
    handed_over.note([{"kind": "train", "step": 4}, {"kind": "val", "step": 2}])
    again = HandedOver.open(tmp_path / "state.json", after=4)
    rows = [{"kind": kind, "step": step} for kind, step in (("train", 4), ("val", 3), ("val", 4), ("train", 5))]
    assert again.id == handed_over.id
    assert again.missing(rows) == rows[2:]


def test_a_process_whose_run_was_moved_aside_hands_nothing_over_any_more(tmp_path: Path) -> None:
    handed_over = HandedOver.open(tmp_path / "state.json", None)
    HandedOver.open(tmp_path / "state.json", None)
    with pytest.raises(MovedAsideError):
        handed_over.note([{"kind": "train", "step": 1}])


def command(shards: Path, run: Path, tracker: str, patience: float, kill_at: int = 0) -> list[str]:
    """`gpt train` in a process of its own that knows the stand-ins."""
    program = f"""
import os, sys
from gptcli.training.tracking import listener
from gptcli.training.tracking.registry import TRACKERS, Registered
import gptcli.cli.monitor as monitor
TRACKERS["stand-in"] = Registered("json", "stand_in_trackers:{tracker}")
listener.LAST_PATIENCE = {patience}
class Killing(monitor.Lines):
    def __call__(self, event):
        super().__call__(event)
        if getattr(event, "step", 0) == {kill_at} > 0:
            os.kill(os.getpid(), 9)
monitor.Lines = Killing
from gptcli.cli.main import main
main()
"""
    settings = tiny(shards, run)
    given = settings.model_fields_set - {"metrics"}
    words = [word for name in sorted(given) for word in (f"--{name}", str(getattr(settings, name)))]
    return [sys.executable, "-c", program, "train", *words, "--metrics", "none", "--track", "stand-in"]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.mark.parametrize(
    ("tracker", "patience"), [("Rude", 200.0), pytest.param("HangingAtFinish", 1.0, marks=pytest.mark.slow)]
)
def test_the_command_ends_with_0_and_shows_none_of_a_tools_chatter(
    shards: Path, tmp_path: Path, tracker: str, patience: float
) -> None:
    done = subprocess.run(
        command(shards, tmp_path / "run", tracker, patience),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "CHATTER" not in done.stderr
    if tracker == "Rude":
        assert told(tmp_path / "run")[1] == {"answer": "nobody is there"}
        assert told(tmp_path / "run")[-1] == {"finish": True}
        assert (tmp_path / "run" / "tracking" / "stand-in.log").read_text().count("CHATTER") == 3


@posix
def test_a_run_that_is_killed_is_still_finished_there(shards: Path, tmp_path: Path) -> None:
    words = command(shards, tmp_path / "run", "Recording", 200.0, kill_at=5)
    assert subprocess.run(words, capture_output=True, env=environment()).returncode == -9
    while not (tmp_path / "run" / "tracking" / TOLD).exists() or told(tmp_path / "run")[-1] != {"finish": True}:
        time.sleep(0.1)
    assert [step for step, kind in points(tmp_path / "run") if kind == "train"] == [1, 2, 3, 4, 5]
