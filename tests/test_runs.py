"""What a run's files tell: its events as they come, its state, its row in a table, how it differs from another."""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from small_runs import tiny

from gptcli import train
from gptcli.data.locks import OWNER_FILE, FolderLock, Owner, owner_of
from gptcli.model.locate import checkpoints_of
from gptcli.runs.difference import differences
from gptcli.runs.follow import Follower, progress_of
from gptcli.runs.progress import RunProgress
from gptcli.runs.replay import event_of
from gptcli.runs.state import SILENCE, state_of
from gptcli.runs.summary import find_runs, summarise
from gptcli.runs.thinned import Thinned
from gptcli.training import metrics
from gptcli.training.events import Evaluated, Event, Note, Sampled, Saved, Started, StepDone
from gptcli.training.run_file import read
from gptcli.training.slow_data import SPAN, SlowData

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def heard() -> list[Event]:
    return []


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory, heard: list[Event]) -> Path:
    """A finished run, and what a listener heard of it."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    train(tiny(shards, folder), heard.append)
    return folder


def copied(run: Path, target: Path) -> Path:
    for path in run.rglob("*"):
        if path.is_file():
            place = target / path.relative_to(run)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())
    return target


def append(file: Path, **row: Any) -> None:
    with file.open("a", encoding="utf-8") as opened:
        opened.write(json.dumps(row) + "\n")


# --- following --------------------------------------------------------------------------------------------------------


def test_who_reads_the_files_sees_what_a_listener_was_told(run: Path, heard: list[Event]) -> None:
    told, read_back = RunProgress(), progress_of(run)
    for event in heard:
        told.take(event, 0.0)
    assert read_back.last == told.last
    assert (read_back.val, read_back.best_val, read_back.sample) == (told.val, told.best_val, told.sample)
    assert read_back.losses.values == told.losses.values
    assert read_back.started == told.started
    assert [h.text for h in read_back.happenings if h.topic == "saved"] == [
        h.text for h in told.happenings if h.topic == "saved"
    ]
    assert read_back.happenings[-1].text == "finished"


def test_a_file_is_read_as_it_grows_and_half_a_line_waits_for_its_rest(run: Path, tmp_path: Path) -> None:
    copy = copied(run, tmp_path / "copy")
    file = copy / metrics.METRICS
    whole = file.read_bytes()
    lines = whole.splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:2]) + lines[2][:10])
    follower = Follower(copy)
    first = follower.poll()
    with file.open("ab") as opened:
        opened.write(lines[2][10:] + b"not JSON\n" + b"".join(lines[3:]))
    rest = follower.poll()
    assert not follower.starts_anew
    assert [event for event, _ in (*first, *rest)].count(first[0][0]) == 1
    steps = [event.step for event, _ in (*first, *rest) if isinstance(event, StepDone)]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert follower.poll() == []


def test_a_run_that_is_continued_from_an_earlier_checkpoint_is_read_anew(run: Path, tmp_path: Path) -> None:
    copy = copied(run, tmp_path / "copy")
    follower = Follower(copy)
    before = follower.poll()
    metrics.keep_rows(copy / metrics.METRICS, lambda row: row["step"] <= 3)
    again = follower.poll()
    assert follower.starts_anew
    steps = [event.step for event, _ in again if isinstance(event, StepDone)]
    assert steps == [1, 2, 3]
    assert len(before) > len(again)


def test_a_folder_in_which_nothing_is_written_yet_has_no_events(tmp_path: Path) -> None:
    follower = Follower(tmp_path)
    assert follower.poll() == []
    append(tmp_path / metrics.METRICS, kind="val", step=0, tokens=0, time=1.0, loss=3.0)
    assert [event for event, _ in follower.poll()] == [Evaluated(0, "val", {"loss": 3.0})]
    assert not follower.starts_anew


@pytest.mark.parametrize(
    ("row", "event"),
    [
        ({"kind": "event", "step": 3, "message": "slow", "topic": "slow data"}, Note("slow", 3, "slow data")),
        ({"kind": "event", "step": 3, "message": "odd", "topic": "of a later version"}, Note("odd", 3)),
        ({"step": 3, "prompt": "a", "text": "b", "ids": [1]}, Sampled(3, "a", "b")),
        ({"kind": "of a later version", "step": 3}, None),
        ({"kind": "train", "step": 3}, None),
        ({"kind": "event", "step": 3}, None),
    ],
)
def test_lines_become_events_and_strange_ones_are_passed_over(row: dict[str, Any], event: Event | None) -> None:
    assert event_of(Path("log"), row) == event


def test_a_step_that_was_left_out_has_no_loss_and_spoils_no_curve() -> None:
    numbers = {"lr": 1e-3, "tokens_per_second": 1.0, "step_ms": 2.0, "tokens": 8}
    event = event_of(Path("log"), {"kind": "train", "step": 1, "loss": None, "grad_norm": None, **numbers})
    assert isinstance(event, StepDone)
    assert math.isnan(event.loss)
    progress = RunProgress()
    progress.take(event, 0.0)
    assert progress.losses.values == []


# --- progress ---------------------------------------------------------------------------------------------------------


def test_the_time_left_is_that_of_this_call_alone_when_a_run_is_resumed() -> None:
    progress = RunProgress()
    progress.take(Started(Path("log"), 0, 30, 8, {}), 0.0)
    for now, step in ((1.0, 1), (101.0, 11)):
        progress.take(StepDone(step, 1.0, 1e-3, 1.0, 4.0, 8 * step, 2.0), now)
    assert progress.seconds_left == 190.0
    progress.take(Note("resumed from step_0000011", 11, "resumed"), 500.0)
    assert progress.seconds_left is None
    for now, step in ((501.0, 12), (503.0, 14)):
        progress.take(StepDone(step, 1.0, 1e-3, 1.0, 4.0, 8 * step, 2.0), now)
    assert progress.seconds_left == 16.0


@pytest.mark.parametrize("length", [1, 7, 8, 9, 1000])
def test_a_curve_of_any_length_stays_small_and_keeps_its_mean_and_direction(length: int) -> None:
    thinned = Thinned(most=8)
    for value in range(length):
        thinned.add(float(value))
    values = thinned.values
    assert 0 < len(values) <= 8
    assert values == sorted(values)
    assert values[-1] >= 0.75 * (length - 1)


def test_slow_data_is_told_once_until_it_has_recovered() -> None:
    slow = SlowData()
    step, told = SPAN / 10, []
    for share in [0.0] * 20 + [0.5] * 20 + [0.15] * 20 + [0.0] * 20 + [0.5] * 20:
        told.append(slow.after_step(step, share * step))
    assert [index for index, message in enumerate(told) if message] == [24, 84]
    assert "25% of the last 30 s" in told[24]


def test_a_loss_far_above_the_last_ones_is_told_once_and_goes_into_the_log(shards: Path, tmp_path: Path) -> None:
    """With a learning rate that throws the weights about: the loss rises far above those before it."""
    heard: list[Event] = []
    settings = tiny(
        shards, tmp_path, max_iters=60, warmup_iters=55, max_lr=20.0, grad_clip=0.0, spike_zscore=3.0, eval_every=100,
        save_every=100, sample_every=100,
    )  # fmt: skip
    train(settings, heard.append)
    spikes = [event for event in heard if isinstance(event, Note) and event.topic == "spike"]
    assert spikes
    assert all("standard deviations above the last ones" in spike.message for spike in spikes)
    logged = [row for row in metrics.read(tmp_path / metrics.METRICS) if row.get("topic") == "spike"]
    assert [(row["step"], row["message"]) for row in logged] == [(spike.step, spike.message) for spike in spikes]
    assert all(second.step - first.step > 1 for first, second in itertools.pairwise(spikes))


# --- state ------------------------------------------------------------------------------------------------------------


def state(run: Path) -> str:
    recorded = read(run)
    assert recorded is not None
    return state_of(run, recorded, metrics.last_step(run))


def test_a_run_is_finished_stopped_or_crashed_by_what_it_has_saved(run: Path, tmp_path: Path) -> None:
    assert state(run) == "finished"
    copy = copied(run, tmp_path / "copy")
    for path in sorted(checkpoints_of(copy)[-1].rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    checkpoints_of(copy)[-1].rmdir()
    assert state(copy) == "crashed"  # it has logged three steps more than it has saved
    metrics.keep_rows(copy / metrics.METRICS, lambda row: row["step"] <= 3)
    assert state(copy) == "stopped"


def test_a_run_is_running_while_its_process_lives_and_crashed_after_that(run: Path, tmp_path: Path) -> None:
    copy = copied(run, tmp_path / "copy")
    append(copy / metrics.METRICS, kind="train", step=9)
    recorded = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(recorded | {"steps": 12}))
    code = "import sys, time; from pathlib import Path; from gptcli.data.locks import FolderLock\n"
    code += "with FolderLock(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(120)"
    holder = subprocess.Popen([sys.executable, "-c", code, str(copy)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline().strip() == b"held"
    assert state(copy) == "running"
    holder.kill()
    holder.communicate()
    assert (copy / OWNER_FILE).exists()
    assert state(copy) == "crashed"


def test_another_process_with_the_number_of_the_dead_one_is_not_the_run(tmp_path: Path) -> None:
    with FolderLock(tmp_path):
        owner = owner_of(tmp_path)
        assert owner is not None
        assert owner.is_alive()
        assert not Owner(owner.pid, owner.host, owner.started - 1000).is_alive()
    assert owner_of(tmp_path) is None


def test_a_run_on_another_machine_is_running_as_long_as_it_writes(run: Path, tmp_path: Path) -> None:
    copy = copied(run, tmp_path / "copy")
    recorded = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(recorded | {"steps": 12}))
    (copy / OWNER_FILE).write_text(json.dumps({"pid": 1, "host": "elsewhere.example", "started": 1.0}))
    assert state(copy) == "running"
    long_ago = time.time() - 2 * SILENCE
    for file in copy.iterdir():
        if file.is_file():
            os.utime(file, (long_ago, long_ago))
    assert state(copy) == "stopped"


# --- summaries and differences ----------------------------------------------------------------------------------------


def test_a_summary_tells_what_the_log_does(run: Path) -> None:
    rows = metrics.read(run / metrics.METRICS)
    summary = summarise(run)
    val = [row["loss"] for row in rows if row["kind"] == "val"]
    assert (summary.state, summary.step, summary.steps, summary.tokens) == ("finished", 6, 6, 6 * 64)
    assert (summary.val_loss, summary.best_val_loss) == (val[-1], min(val))
    assert summary.loss == [row["loss"] for row in rows if row["kind"] == "train"][-1]
    assert summary.hellaswag is None
    assert summary.model == "2×16"
    assert summary.bytes == sum(file.stat().st_size for file in run.rglob("*") if file.is_file())
    assert json.dumps(summary.as_dict())


def test_runs_are_found_under_a_folder_and_in_one_another(run: Path, tmp_path: Path) -> None:
    for name in ("log", "log/books", "log/.hidden/run", "log/checkpoints/inside", "elsewhere/deep/run"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "run.json").write_bytes((run / "run.json").read_bytes())
    (tmp_path / "data").mkdir()
    assert [path.relative_to(tmp_path).as_posix() for path in find_runs(tmp_path)] == [
        "elsewhere/deep/run", "log", "log/books",
    ]  # fmt: skip
    assert summarise(tmp_path / "log").bytes == (run / "run.json").stat().st_size


def test_two_runs_differ_in_what_they_were_told_and_what_came_of_it(run: Path, shards: Path, tmp_path: Path) -> None:
    train(tiny(shards, tmp_path / "other", max_lr=2e-2, n_layers=1))
    found = {(item.section, item.name): (item.first, item.second) for item in differences(run, tmp_path / "other")}
    assert found["settings", "max_lr"] == (1e-2, 2e-2)
    assert found["settings", "n_layers"] == (2, 1)
    assert "log_dir" not in {name for _, name in found}
    first, second = found["results", "val_loss at step 6"]
    assert (first, second) == (summarise(run).val_loss, summarise(tmp_path / "other").val_loss)


def test_a_run_does_not_differ_from_its_copy(run: Path, tmp_path: Path) -> None:
    assert differences(run, copied(run, tmp_path / "copy")) == []


def test_a_resumed_run_has_its_stop_and_its_resumption_among_its_events(shards: Path, tmp_path: Path) -> None:
    train(tiny(shards, tmp_path, max_iters=3))
    train(tiny(shards, tmp_path, max_iters=6))
    events = [(row["step"], row["topic"]) for row in metrics.read(tmp_path / metrics.METRICS) if "topic" in row]
    assert events == [(3, "finished"), (3, "resumed"), (6, "finished")]
    saved = [event for event, _ in Follower(tmp_path).poll() if isinstance(event, Saved)]
    assert [event.path.name for event in saved] == [path.name for path in checkpoints_of(tmp_path)]


def test_what_the_first_version_wrote_and_what_is_missing_reads_as_today(run: Path, tmp_path: Path) -> None:
    recorded = json.loads((run / "run.json").read_text())
    recorded |= {"data": recorded["data"] | {"sources": {"dataset": "x/y"}}, "calls": None, "resolved": None}
    (tmp_path / "run.json").write_text(json.dumps(recorded))
    read_back = read(tmp_path)
    assert read_back is not None
    assert read_back["data"]["sources"] == [{"dataset": "x/y"}]
    assert (read_back["calls"], read_back["resolved"]) == ([], {})
    assert summarise(tmp_path).parameters is None
