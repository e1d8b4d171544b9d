"""Checkpoints: whole or invisible, written beside the training, kept by rule; damaged ones are passed over."""

from __future__ import annotations

import json
import shutil
import threading
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from small_runs import tiny
from test_training import files_of, stopping_at

from gptcli import load, train
from gptcli.distributed.group import Group
from gptcli.distributed.runtime import Ranks
from gptcli.errors import UserError
from gptcli.model.checksums import damage
from gptcli.model.config import GPTConfig
from gptcli.model.locate import best_of, checkpoints_of, locate_model
from gptcli.model.network import GPT
from gptcli.optim.optimizers import Rates, make_adamw
from gptcli.training import checkpoint, saver
from gptcli.training.events import Event, Note, Saved, StepDone
from gptcli.training.metrics import read
from gptcli.training.retention import Retention

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed save is tried again at once."""
    monkeypatch.setattr(saver, "QUICK_WAITS", (0.0, 0.0))
    monkeypatch.setattr(saver, "SLOW_WAIT", 0.02)
    monkeypatch.setattr(saver, "LAST_PATIENCE", 0.2)


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def step_names(*steps: int) -> list[str]:
    return [f"step_{step:07d}" for step in steps]


def notes(events: list[Event]) -> str:
    return " ".join(event.message for event in events if isinstance(event, Note))


def flip(file: Path) -> None:
    """Change one byte in the middle, as a bad disk does."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


# Which stay


@pytest.mark.parametrize(
    ("last", "every", "best", "stays"),
    [
        (1, None, False, [6]),
        (2, None, False, [5, 6]),
        (1, 2, False, [2, 4, 6]),
        (1, None, True, [3, 6]),
        (9, None, False, [1, 2, 3, 4, 5, 6]),
    ],
)
def test_the_newest_stay_and_every_nth_and_the_best(last: int, every: int | None, best: bool, stays: list[int]) -> None:
    losses = {1: 9.0, 2: None, 3: 1.0, 4: 2.0, 5: 1.0, 6: 3.0}
    gone = Retention(last, every, best).superfluous(losses)
    assert [step for step in losses if step not in gone] == stays


def test_a_run_keeps_what_it_was_told_to(shards: Path, tmp_path: Path) -> None:
    train(tiny(shards, tmp_path, save_every=1, keep_last=2, keep_every=3, keep_best=False))
    assert names(tmp_path) == step_names(3, 5, 6)


def test_the_lowest_validation_loss_is_saved_where_it_is_measured_and_kept(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([5.0, 4.0, 3.0, 3.5, 3.6, 3.7, 3.8])
    monkeypatch.setattr("gptcli.training.evaluation.Evaluator.validation_loss", lambda self: next(losses))
    train(tiny(shards, tmp_path, eval_every=1, save_every=100, keep_last=1))
    assert names(tmp_path) == step_names(2, 6)
    best = tmp_path / "checkpoints" / "step_0000002"
    assert best_of(tmp_path) == best
    assert locate_model(str(tmp_path / "best")) == best
    assert load(str(tmp_path / "best")).folder == best


def test_only_regular_saves_are_made_without_keep_best(shards: Path, tmp_path: Path) -> None:
    train(tiny(shards, tmp_path, eval_every=1, save_every=100, keep_best=False))
    assert names(tmp_path) == step_names(6)


# Damaged ones


@pytest.mark.parametrize(
    "file", ["model.safetensors", "training/optimizer.safetensors", "training/state.json", "config.json"]
)
def test_a_damaged_checkpoint_is_named_and_passed_over_and_the_run_ends_as_it_would_have(
    file: str, shards: Path, tmp_path: Path
) -> None:
    settings = tiny(shards, tmp_path / "run")
    train(tiny(shards, tmp_path / "whole"))
    train(settings, stopping_at(5))
    assert names(tmp_path / "run") == step_names(3, 5)
    flip(tmp_path / "run" / "checkpoints" / "step_0000005" / file)
    events: list[Event] = []
    assert train(settings, events.append).step == 6
    assert "step_0000005 is damaged" in notes(events)
    assert file in notes(events)
    assert names(tmp_path / "run") == ["damaged_step_0000005", *step_names(3, 6)]
    assert files_of(checkpoints_of(tmp_path / "run")[-1]) == files_of(checkpoints_of(tmp_path / "whole")[-1])


def test_a_checkpoint_that_lacks_a_file_is_passed_over_too(shards: Path, tmp_path: Path) -> None:
    settings = tiny(shards, tmp_path)
    train(settings, stopping_at(5))
    (tmp_path / "checkpoints/step_0000005/tokenizer.json").unlink()
    events: list[Event] = []
    train(settings, events.append)
    assert "step_0000005 lacks tokenizer.json" in notes(events)


def test_a_run_of_which_all_checkpoints_are_damaged_does_not_begin_again(shards: Path, tmp_path: Path) -> None:
    settings = tiny(shards, tmp_path)
    train(settings, stopping_at(5))
    before = names(tmp_path)
    for folder in checkpoints_of(tmp_path):
        flip(folder / "model.safetensors")
    with pytest.raises(UserError) as error:
        train(settings)
    told = " ".join(fault.message for fault in error.value.faults)
    assert "step_0000005 is damaged" in told
    assert "step_0000003 is damaged" in told
    assert "--fresh" in error.value.faults[-1].hint
    assert names(tmp_path) == before


def test_a_model_is_read_from_the_newest_checkpoint_that_is_not_cut_off(shards: Path, tmp_path: Path) -> None:
    train(tiny(shards, tmp_path), stopping_at(5))
    newest = tmp_path / "checkpoints/step_0000005/model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    model = load(str(tmp_path))
    assert model.folder.name == "step_0000003"
    assert any("step_0000005 is damaged" in note for note in model.notes)


def test_a_sound_checkpoint_has_no_damage_and_a_foreign_file_in_it_is_none(shards: Path, tmp_path: Path) -> None:
    folder = train(tiny(shards, tmp_path)).checkpoint
    assert folder
    (folder / "notes.txt").write_text("mine")
    assert damage(folder, contents=True) == ""


# Saves that fail


@pytest.fixture
def full_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[int]]:
    """Steps in this set meet a full disk when they are saved, after part of the files has been written."""
    steps: set[int] = set()
    save_tensors = checkpoint.save_tensors

    def save(tensors: dict[str, torch.Tensor], path: Path) -> None:
        save_tensors(tensors, path)
        if any(f"step_{step:07d}" in str(path) for step in steps):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_tensors", save)
    return steps


def test_a_save_that_fails_does_not_end_the_run_and_is_told(shards: Path, tmp_path: Path, full_at: set[int]) -> None:
    full_at.add(3)
    events: list[Event] = []
    result = train(tiny(shards, tmp_path), events.append)
    assert result.step == 6
    assert names(tmp_path) == step_names(6)
    assert "The checkpoint of step 3 could not be written: The disk is full." in notes(events)
    logged = [row.get("message", "") for row in read(tmp_path / "metrics.jsonl")]
    assert any("step 3 could not be written" in message for message in logged)


def test_a_failed_save_is_tried_again_until_it_works(shards: Path, tmp_path: Path, full_at: set[int]) -> None:
    full_at.add(6)
    events: list[Event] = []

    def listen(event: Event) -> None:
        events.append(event)
        if isinstance(event, Note) and "step 6 could not be written" in event.message:
            full_at.clear()  # somebody made room

    assert train(tiny(shards, tmp_path), listen).checkpoint == checkpoints_of(tmp_path)[-1]
    assert names(tmp_path) == step_names(3, 6)


def test_a_last_save_that_can_not_be_made_leaves_the_last_good_one(
    shards: Path, tmp_path: Path, full_at: set[int]
) -> None:
    full_at.add(6)
    with pytest.raises(UserError, match="disk is full") as error:
        train(tiny(shards, tmp_path))
    assert "step_0000003" in error.value.faults[0].hint
    assert names(tmp_path) == step_names(3)
    full_at.clear()
    assert train(tiny(shards, tmp_path)).step == 6


def test_any_error_of_a_save_is_told_and_no_end(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = checkpoint.write

    def fail_at_3(run: Path, taken: checkpoint.Snapshot, tokenizer: object, origin: object) -> Path:
        if taken.progress.step == 3:
            raise RuntimeError("something new")
        return write(run, taken, tokenizer, origin)  # type: ignore[arg-type]

    monkeypatch.setattr(checkpoint, "write", fail_at_3)
    events: list[Event] = []
    assert train(tiny(shards, tmp_path), events.append).step == 6
    assert "something new" in notes(events)


def test_a_run_without_room_for_a_checkpoint_does_not_begin(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 1000))
    with pytest.raises(UserError, match=r"needs .* GB, and .* free"):
        train(tiny(shards, tmp_path / "run"))


def test_room_is_made_by_what_would_go_anyway_and_never_by_the_newest(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny(shards, tmp_path, save_every=1, keep_last=3), stopping_at(5))
    assert names(tmp_path) == step_names(3, 4, 5)
    # A disk that has room for two checkpoints: with one that stays there is place for the next.
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: Usage(10**9, 0, 10**9 if len(checkpoints_of(tmp_path)) < 2 else 1000)
    )
    monkeypatch.setattr("gptcli.training.run.check_room", lambda run, needed: None)
    train(tiny(shards, tmp_path, save_every=1, keep_last=1, keep_best=False))
    assert names(tmp_path) == step_names(6)


def test_nothing_is_removed_where_even_that_gives_no_room(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny(shards, tmp_path, save_every=1, keep_last=1, keep_best=False), stopping_at(5))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 0, 1000))
    monkeypatch.setattr("gptcli.training.run.check_room", lambda run, needed: None)
    with pytest.raises(UserError, match="could not be written"):
        train(tiny(shards, tmp_path, save_every=1, keep_last=1, keep_best=False))
    assert names(tmp_path) == step_names(5)


# Beside the training


def test_training_goes_on_while_a_checkpoint_is_written(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, later = checkpoint.write, threading.Event()
    order: list[str] = []

    def slowly(run: Path, taken: checkpoint.Snapshot, tokenizer: object, origin: object) -> Path:
        if taken.progress.step == 3:
            assert later.wait(60), "the training waited for the save"
        return write(run, taken, tokenizer, origin)  # type: ignore[arg-type]

    def listen(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == 5:
            later.set()
        if isinstance(event, (StepDone, Saved)):
            order.append(f"{type(event).__name__} {event.step}")

    monkeypatch.setattr(checkpoint, "write", slowly)
    train(tiny(shards, tmp_path / "run"), listen)
    assert order.index("StepDone 5") < order.index("Saved 3")
    train(tiny(shards, tmp_path / "plain", save_every=100))
    first = {row["step"]: row["loss"] for row in read(tmp_path / "run" / "metrics.jsonl") if row["kind"] == "train"}
    plain = {row["step"]: row["loss"] for row in read(tmp_path / "plain" / "metrics.jsonl") if row["kind"] == "train"}
    assert first == plain


def test_what_is_written_is_the_state_of_the_step_although_training_went_on(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, later = checkpoint.write, threading.Event()

    def slowly(run: Path, taken: checkpoint.Snapshot, tokenizer: object, origin: object) -> Path:
        if taken.progress.step == 3:
            later.wait(60)
        return write(run, taken, tokenizer, origin)  # type: ignore[arg-type]

    def listen(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == 5:
            later.set()

    train(tiny(shards, tmp_path / "plain"), stopping_at(3))
    monkeypatch.setattr(checkpoint, "write", slowly)
    train(tiny(shards, tmp_path / "run"), listen)
    folders = [tmp_path / name / "checkpoints/step_0000003" for name in ("plain", "run")]
    for file in ("model.safetensors", "training/optimizer.safetensors"):
        assert (folders[0] / file).read_bytes() == (folders[1] / file).read_bytes()


def test_the_metrics_tell_how_long_training_waited_for_a_save(shards: Path, tmp_path: Path) -> None:
    train(tiny(shards, tmp_path))
    saves = [row for row in read(tmp_path / "metrics.jsonl") if str(row.get("message")).startswith("saved")]
    assert [row["step"] for row in saves] == [3, 6]
    assert all(row["stall_ms"] > 0 and row["save_seconds"] > 0 for row in saves)


# Back into a run

SHAPE = GPTConfig(vocab_size=12_800, emb_dim=256, context_length=64, n_layers=6, n_heads=4)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux to tell the peak of memory")
def test_loading_takes_little_more_memory_than_model_and_optimiser(tmp_path: Path) -> None:
    group = Group(Ranks(), torch.device("cpu"))
    progress = checkpoint.Progress(1, 1, 0.0, False, False, None, None, checkpoint.RecentSteps(), {})
    model = GPT.create(SHAPE, seed=0)
    optimizers = make_adamw(model, Rates(1.0, 1.0, 1.0), betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizers.step(0, 1e-3, torch.zeros(()))
    taken = checkpoint.snapshot(progress, model, optimizers, group)
    assert taken
    folder = checkpoint.write(tmp_path, taken, None)
    code = f"""
import torch
from pathlib import Path
from gptcli.distributed.group import Group
from gptcli.distributed.runtime import Ranks
from gptcli.model.config import GPTConfig
from gptcli.model.network import GPT
from gptcli.optim.optimizers import Rates, make_adamw
from gptcli.training import checkpoint
from gptcli.training.telemetry import _from_proc
model = GPT.allocate({SHAPE!r})
optimizers = make_adamw(model, Rates(1.0, 1.0, 1.0), betas=(0.9, 0.95), weight_decay=0.1, fused=True)
Path("/proc/self/clear_refs").write_text("5")
before = _from_proc("VmRSS")
checkpoint.restore(Path({str(folder)!r}), model, optimizers, Group(Ranks(), torch.device("cpu")))
state = 12 * model.n_parameters()
largest = 4 * max(p.numel() for p in model.parameters())
print(_from_proc("VmHWM") - before - state, largest)
"""
    import subprocess
    import sys

    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    more, largest = (int(number) for number in told.stdout.split())
    assert more < 2 * largest + 20 * 2**20


def test_a_checkpoint_of_another_version_is_told_apart_from_a_damaged_one(shards: Path, tmp_path: Path) -> None:
    settings = tiny(shards, tmp_path)
    folder = train(settings, stopping_at(2)).checkpoint
    assert folder
    file = folder / "training/state.json"
    file.write_text(json.dumps({"step": 2}))
    from gptcli.model.checksums import seal

    (folder / "training/checksums.json").unlink()
    seal(folder)
    with pytest.raises(UserError, match="can't be understood"):
        train(settings)


def test_a_checkpoint_under_the_name_of_another_step_is_passed_over(shards: Path, tmp_path: Path) -> None:
    settings = tiny(shards, tmp_path)
    train(settings, stopping_at(5))
    shutil.copytree(tmp_path / "checkpoints/step_0000003", tmp_path / "checkpoints/step_0000090")
    events: list[Event] = []
    assert train(settings, events.append).step == 6
    assert "step_0000090 is named wrongly: it is that of step 3" in notes(events)
    assert train(settings).already_finished
