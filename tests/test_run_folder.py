"""What a run does to the folder that it is given, and to what else lies there."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from small_runs import tiny, write_shards
from test_training import stopping_at

from gptcli import train
from gptcli.errors import UserError
from gptcli.model.locate import checkpoints_of
from gptcli.settings import TrainSettings
from gptcli.training import metrics
from gptcli.training.events import Event, Note, StepDone
from gptcli.training.metrics import read

posix = pytest.mark.skipif(os.name != "posix", reason="links and permissions are POSIX's")


def test_fresh_leaves_data_other_runs_and_the_working_folder_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "project"
    data = write_shards(run / "data" / "words")
    monkeypatch.chdir(run)
    train(tiny(data, run, max_iters=4))
    train(tiny(data, run / "other", max_iters=4))
    (run / "thesis.txt").write_text("months of work")
    train(tiny(data, run, max_iters=5, fresh=True))
    assert checkpoints_of(run)[-1].name == "step_0000005"
    assert checkpoints_of(tmp_path / "project.1")[-1].name == "step_0000004"
    assert checkpoints_of(run / "other")[-1].name == "step_0000004"
    assert (run / "thesis.txt").read_text() == "months of work"
    moved = {path.name for path in (tmp_path / "project.1").iterdir()}
    assert moved == {"run.json", "metrics.jsonl", "samples.jsonl", "checkpoints"}


def test_fresh_on_the_folder_of_the_data_moves_the_run_alone(tmp_path: Path) -> None:
    both = write_shards(tmp_path / "both")
    shards = {path.name for path in both.iterdir()}
    train(tiny(both, both, max_iters=4))
    assert train(tiny(both, both, max_iters=4, fresh=True)).step == 4
    assert shards < {path.name for path in both.iterdir()}
    assert not {path.name for path in (tmp_path / "both.1").iterdir()} & shards


@posix
def test_fresh_through_a_link_keeps_the_link_and_moves_beside_its_target(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "large disk" / "run").mkdir(parents=True)
    link = tmp_path / "log"
    link.symlink_to(tmp_path / "large disk" / "run")
    train(tiny(shards, link, max_iters=4))
    train(tiny(shards, link, max_iters=5, fresh=True))
    assert link.is_symlink()
    assert checkpoints_of(link)[-1].name == "step_0000005"
    assert checkpoints_of(tmp_path / "large disk" / "run.1")[-1].name == "step_0000004"


def test_fresh_may_start_from_the_weights_of_the_run_that_it_moves(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = train(tiny(shards, run, max_iters=6))
    again = train(tiny(shards, run, max_iters=4, init_from=str(run), fresh=True, eval_every=4))
    assert again.step == 4
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert next(row["loss"] for row in rows if row["kind"] == "val") == pytest.approx(first.val_loss, abs=1e-5)


@posix
def test_weights_may_be_read_by_whoever_may_read_the_files_beside_them(shards: Path, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        folder = train(tiny(shards, tmp_path / "run", max_iters=4)).checkpoint
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()}
    assert len(modes) > 4
    assert set(modes.values()) == {0o640}


def test_a_shortened_warm_up_is_noted_when_a_run_begins_and_not_again(shards: Path, tmp_path: Path) -> None:
    asked = tiny(shards, tmp_path, max_iters=4)
    settings = TrainSettings(**{k: getattr(asked, k) for k in asked.model_fields_set - {"warmup_iters"}})
    told: list[Event] = []

    def stop_after_two(event: Event) -> None:
        told.append(event)
        if isinstance(event, StepDone) and event.step == 2:
            signal.raise_signal(signal.SIGINT)

    def notes() -> int:
        return sum(isinstance(event, Note) and "warm-up" in event.message for event in told)

    train(settings, stop_after_two)
    assert notes() == 1
    train(settings, told.append)
    train(settings, told.append)
    assert notes() == 1


def test_a_line_of_the_metrics_that_a_power_cut_spoiled_is_passed_over(shards: Path, tmp_path: Path) -> None:
    settings = tiny(shards, tmp_path / "run")
    train(settings, stopping_at(4))
    with (tmp_path / "run/metrics.jsonl").open("ab") as file:
        file.write(b'\xff\xfe x\n123\n{"kind": "train"}\n{"kind": "tra')
    assert train(settings).step == 6
    assert [row["step"] for row in read(tmp_path / "run/metrics.jsonl") if row["kind"] == "train"] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("spoiled", [{"identity": []}, {"steps": "6"}, {"settings": None}])
def test_a_record_of_the_wrong_shape_is_told_to_be_damaged(
    spoiled: dict[str, object], shards: Path, tmp_path: Path
) -> None:
    settings = tiny(shards, tmp_path / "run")
    train(settings, stopping_at(2))
    file = tmp_path / "run/run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | spoiled))
    with pytest.raises(UserError, match=r"run\.json is damaged"):
        train(settings)


def test_lines_that_a_full_disk_refuses_are_written_once_there_is_room(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append_bytes = metrics.append_bytes
    full = False
    events: list[Event] = []

    def listen(event: Event) -> None:
        nonlocal full
        events.append(event)
        if isinstance(event, StepDone):
            full = event.step in (2, 3)

    def refuse(file: Path, content: bytes) -> None:
        if full:
            raise OSError(28, "No space left on device")
        append_bytes(file, content)

    monkeypatch.setattr(metrics, "append_bytes", refuse)
    train(tiny(shards, tmp_path), listen)
    assert [row["step"] for row in read(tmp_path / "metrics.jsonl") if row["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
    told = [event.message for event in events if isinstance(event, Note) and "metrics.jsonl can" in event.message]
    assert len(told) == 1


@posix
def test_a_line_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    import resource

    file = tmp_path / "metrics.jsonl"
    metrics.append_bytes(file, b"first\n")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))  # of the second line there is room for a part
    try:
        with pytest.raises(OSError, match="No space"):
            metrics.append_bytes(file, b"second\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert file.read_bytes() == b"first\n"
