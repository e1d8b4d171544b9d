"""`--track` with the tools themselves, where they are installed: nothing leaves the machine."""

from __future__ import annotations

import json
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_runs import tiny

from gptcli import train
from gptcli.training import metrics
from gptcli.training.events import Event, StepDone
from gptcli.training.metrics import read
from gptcli.training.tracking import listener

pytestmark = pytest.mark.usefixtures("one_thread")
STEPS, VAL_STEPS, SAMPLE_STEPS = [1, 2, 3, 4, 5, 6], [0, 3, 6], [3, 6]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "LAST_PATIENCE", 250.0)
    monkeypatch.setattr(listener, "STOPPED_PATIENCE", 250.0)


def in_two_calls(shards: Path, run: Path, tracker: str) -> None:
    """Train to step 5, fail, and go on from the checkpoint of step 3 to the end."""

    def fail(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == 5:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(tiny(shards, run, track=(tracker,)), fail)
    assert train(tiny(shards, run, track=(tracker,))).complete


def losses(run: Path, kind: str) -> list[float]:
    return [row["loss"] for row in read(run / metrics.METRICS) if row["kind"] == kind]


def test_tensorboard_shows_one_curve_of_a_run_in_two_calls(shards: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    in_two_calls(shards, run, "tensorboard")
    shown = EventAccumulator(str(run / "tracking")).Reload()
    assert [event.step for event in shown.Scalars("train/loss")] == STEPS
    assert [event.value for event in shown.Scalars("train/loss")] == pytest.approx(losses(run, "train"))
    assert [event.step for event in shown.Scalars("val/loss")] == VAL_STEPS
    assert [event.step for event in shown.Tensors("samples/text_summary")] == SAMPLE_STEPS
    configuration = shown.Tensors("configuration/text_summary")[0].tensor_proto.string_val[0].decode()
    assert json.loads(configuration)["settings"]["max_lr"] == 1e-2
    assert shown.PluginTagToContent("hparams")


def wandb_records(file: Path) -> Iterator[Any]:
    """What W&B has in a run's file, which is a LevelDB log with a header of its own."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, record, block = file.read_bytes(), 7, b"", 32_768
    while at + 7 <= len(content):
        if block - at % block < 7:
            at += block - at % block
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        record = (b"" if kind in (1, 2) else record) + content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield Record.FromString(record)


def test_wandb_has_one_run_of_two_calls(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    for name in ("WANDB_NAME", "WANDB_RUN_ID", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    run = tmp_path / "run"
    in_two_calls(shards, run, "wandb")
    records = [record for file in sorted(run.glob("tracking/wandb/*run-*/*.wandb")) for record in wandb_records(file)]
    runs = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert {(found.project, found.display_name) for found in runs} == {("mine", "run")}
    assert len({found.run_id for found in runs}) == 1
    settings = next(item.value_json for item in runs[0].config.update if item.key == "settings")
    assert json.loads(settings)["max_lr"] == 1e-2
    rows = [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]
    trained = {row["_step"]: row["train/loss"] for row in rows if "train/loss" in row}
    assert list(trained.items()) == list(zip(STEPS, losses(run, "train"), strict=True))
    assert sum("train/loss" in row for row in rows) == len(STEPS)
    assert [row["_step"] for row in rows if "val/loss" in row] == VAL_STEPS
    assert [row["_step"] for row in rows if any(name.startswith("samples") for name in row)] == SAMPLE_STEPS


def test_trackio_has_one_run_of_two_calls(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
        monkeypatch.delenv(name, raising=False)
    run, other = tmp_path / "run", tmp_path / "elsewhere" / "run"
    in_two_calls(shards, run, "trackio")
    train(tiny(shards, other, max_iters=3, track=("trackio",)))  # of the same name, and another run
    (database,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(database) as opened:
        found = opened.execute("SELECT run_id, run_name, step, metrics FROM metrics ORDER BY id").fetchall()
        ((configured,),) = opened.execute("SELECT config FROM configs WHERE run_id = ?", (found[0][0],)).fetchall()
    assert {name for _, name, _, _ in found} == {"run"}
    own = [(step, json.loads(values)) for run_id, _, step, values in found if run_id == found[0][0]]
    assert [step for step, values in own if "train/loss" in values] == STEPS
    assert [values["train/loss"] for _, values in own if "train/loss" in values] == losses(run, "train")
    assert [step for step, values in own if "val/loss" in values] == VAL_STEPS
    assert [step for step, values in own if "samples" in values] == SAMPLE_STEPS
    assert len({run_id for run_id, *_ in found}) == 2
    assert json.loads(configured)["settings"]["max_lr"] == 1e-2
