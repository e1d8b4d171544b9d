"""A run on one process: what it computes, what it writes, how it goes on."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import MODERN, tiny, write_shards

from gptcli import train
from gptcli.data.order import window_of
from gptcli.data.shards import open_shards
from gptcli.distributed.group import Group
from gptcli.distributed.runtime import Ranks
from gptcli.errors import UsageError, UserError
from gptcli.model.locate import checkpoints_of
from gptcli.model.network import GPT
from gptcli.optim.optimizers import Rates, make_adamw
from gptcli.schedules import learning_rate
from gptcli.settings import TrainSettings
from gptcli.training import checkpoint
from gptcli.training.events import Evaluated, Event, Note, Saved, Started, StepDone
from gptcli.training.metrics import read
from gptcli.training.setup import prepare

HELLASWAG_ROWS = [
    {"ctx": f"Number {i} walks into", "endings": ["a bar.", "the sea.", "a wall.", "town."], "label": i % 4}
    for i in range(8)
]


def losses(run: Path, kind: str = "train") -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in read(run / "metrics.jsonl") if row["kind"] == kind]


def files_of(folder: Path) -> dict[str, bytes]:
    """Everything in a checkpoint but how long it took, what its calls were, and the checksums, which tell of both."""
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    state = json.loads(files["training/state.json"])
    del files["training/checksums.json"]
    files["training/state.json"] = json.dumps(state | {"seconds": 0}).encode()
    told = json.loads(files["provenance.json"])
    of_calls = {"run", "started", "saved", "command", "settings", "computed"}
    files["provenance.json"] = json.dumps({key: told[key] for key in told.keys() - of_calls}, sort_keys=True).encode()
    return files


def stopping_at(step: int) -> Callable[[Event], None]:
    """A listener that asks the run to stop, as Ctrl-C does, when it hears of `step`."""

    def listen(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == step:
            signal.raise_signal(signal.SIGINT)

    return listen


def test_losses_and_weights_are_those_of_a_loop_written_by_hand(shards: Path, tmp_path: Path) -> None:
    settings = tiny(shards, tmp_path / "run", weight_decay=0.3, grad_clip=0.5)
    train(settings)
    setup = prepare(settings)
    model = GPT.create(setup.config, settings.seed)
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.3}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.95), eps=1e-8)
    stream = open_shards(shards).split("train")
    expected = []
    for step in range(6):
        windows = window_of(np.arange(step * 4, step * 4 + 4), setup.train_windows, settings.seed)
        rows = torch.tensor(np.stack([stream.read(int(w) * 16, 17) for w in windows]))
        logits = model(rows[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps=6, warmup=2, max_lr=1e-2, min_lr=1e-3)
        optimizer.step()
        optimizer.zero_grad()
        expected.append((step + 1, loss.item()))
    got = losses(tmp_path / "run")
    assert [step for step, _ in got] == [step for step, _ in expected]
    assert [loss for _, loss in got] == pytest.approx([loss for _, loss in expected], abs=2e-5)
    trained = GPT.create(setup.config, 0)
    alone = Group(Ranks(), torch.device("cpu"))
    optimizers = make_adamw(trained, Rates(1e-2, 1e-2, 1e-2), betas=(0.9, 0.95), weight_decay=0.3, fused=True)
    checkpoint.restore(checkpoints_of(tmp_path / "run")[-1], trained, optimizers, alone)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(trained.state_dict()[name], tensor, atol=2e-4, rtol=0)


@pytest.mark.parametrize("drop_rate", [0.0, 0.2])
def test_a_run_that_was_stopped_and_continued_equals_an_uninterrupted_one_bit_for_bit(
    shards: Path, tmp_path: Path, drop_rate: float
) -> None:
    train(tiny(shards, tmp_path / "whole", drop_rate=drop_rate))
    parts = tiny(shards, tmp_path / "parts", drop_rate=drop_rate)
    for stop in (1, 3, 4):
        result = train(parts, stopping_at(stop))
        assert (result.signal, result.step) == (signal.SIGINT, stop)
    assert train(parts).signal is None
    for kind in ("train", "val"):
        assert losses(tmp_path / "parts", kind) == losses(tmp_path / "whole", kind)
    assert read(tmp_path / "parts" / "samples.jsonl") == read(tmp_path / "whole" / "samples.jsonl")
    whole, joined = (checkpoints_of(tmp_path / name)[-1] for name in ("whole", "parts"))
    assert files_of(joined) == files_of(whole)


def test_a_modern_run_is_continued_bit_for_bit_too(shards: Path, tmp_path: Path) -> None:
    train(tiny(shards, tmp_path / "whole", **MODERN))
    parts = tiny(shards, tmp_path / "parts", **MODERN)
    for stop in (1, 4):
        assert train(parts, stopping_at(stop)).step == stop
    assert train(parts).signal is None
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert losses(tmp_path / "whole")[-1][1] < losses(tmp_path / "whole")[0][1]
    whole, joined = (checkpoints_of(tmp_path / name)[-1] for name in ("whole", "parts"))
    assert files_of(joined) == files_of(whole)


def test_lines_past_the_checkpoint_are_dropped_when_a_run_goes_on_from_it(shards: Path, tmp_path: Path) -> None:
    settings = tiny(shards, tmp_path)
    train(settings)
    before = {kind: losses(tmp_path, kind) for kind in ("train", "val")}
    shutil.rmtree(checkpoints_of(tmp_path)[-1])  # as if it had died before the last save: step 3 is the newest
    train(settings)
    assert {kind: losses(tmp_path, kind) for kind in ("train", "val")} == before


def test_metrics_have_the_promised_lines_and_values(shards: Path, tmp_path: Path) -> None:
    train(tiny(shards, tmp_path))
    rows = read(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows if row["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in rows if row["kind"] == "val"] == [0, 3, 6]
    for row in rows:
        assert row["tokens"] == 64 * row["step"]
        assert row["time"] >= 0
    values = {"loss", "lr", "grad_norm", "tokens_per_second", "step_ms", "peak_memory_bytes"}
    assert all(values <= row.keys() and "mfu" not in row for row in rows if row["kind"] == "train")
    assert sorted(row["time"] for row in rows) == [row["time"] for row in rows]


def test_the_validation_loss_does_not_depend_on_the_micro_batch(shards: Path, tmp_path: Path) -> None:
    for n_batches in (1, 4):
        train(tiny(shards, tmp_path / str(n_batches), n_batches=n_batches, max_iters=3))
    first, second = (losses(tmp_path / name, "val") for name in ("1", "4"))
    assert [loss for _, loss in first] == pytest.approx([loss for _, loss in second], abs=1e-5)


def test_the_validation_loss_is_the_mean_over_its_first_windows(shards: Path, tmp_path: Path) -> None:
    settings = tiny(shards, tmp_path, eval_iters=3, n_batches=4, total_batch_size=64)  # 12 windows of 65
    train(settings, stopping_at(1))
    model = GPT.create(prepare(settings).config, settings.seed).eval()
    stream = open_shards(shards).split("val")
    rows = torch.tensor(np.stack([stream.read(16 * w, 17) for w in range(12)]))
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
    assert losses(tmp_path, "val")[0] == (0, pytest.approx(loss.item(), abs=1e-5))


def test_transformers_loads_what_was_trained(shards: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = train(tiny(shards, tmp_path)).checkpoint
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor([tokenizer("On a clear day")["input_ids"]])
    from gptcli import load

    ours = load(str(tmp_path)).model
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, ours(ids), atol=1e-5, rtol=0)


def test_a_finished_run_says_so_and_does_nothing(shards: Path, tmp_path: Path) -> None:
    settings = tiny(shards, tmp_path)
    first = train(settings)
    before = {
        path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file() and "lock" not in path.name
    }
    again = train(settings)
    assert again.already_finished
    assert (again.checkpoint, again.val_loss) == (first.checkpoint, first.val_loss)
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_run_may_grow_with_a_note_and_not_shrink(shards: Path, tmp_path: Path) -> None:
    train(tiny(shards, tmp_path, max_iters=4))
    events: list[Event] = []
    assert train(tiny(shards, tmp_path, max_iters=6), events.append).step == 6
    assert any(isinstance(event, Note) and "grows from 4 to 6 steps" in event.message for event in events)
    with pytest.raises(UsageError, match="not shrink to 5"):
        train(tiny(shards, tmp_path, max_iters=5))


def test_what_makes_another_run_is_refused_and_every_difference_named(shards: Path, tmp_path: Path) -> None:
    train(tiny(shards, tmp_path, max_iters=4), stopping_at(1))
    other = tiny(shards, tmp_path, max_iters=4, seed=2, n_layers=1, total_batch_size=32, max_lr=0.5)
    with pytest.raises(UsageError) as error:
        train(other)
    told = " ".join(fault.message for fault in error.value.faults)
    for name in ("--seed 1; this call says 2", "--n-layers 2", "--total-batch-size 64", "--max-lr 0.01"):
        assert name in told
    assert "--fresh" in error.value.faults[-1].hint


def test_other_data_is_refused(shards: Path, tmp_path: Path) -> None:
    train(tiny(shards, tmp_path / "run"), stopping_at(1))
    other = write_shards(tmp_path / "other", train_tokens=5_000)
    with pytest.raises(UsageError, match="data with fingerprint"):
        train(tiny(other, tmp_path / "run"))


def test_micro_batch_and_intervals_are_free_to_change(shards: Path, tmp_path: Path) -> None:
    train(tiny(shards, tmp_path / "whole"))
    train(tiny(shards, tmp_path / "run"), stopping_at(2))
    train(tiny(shards, tmp_path / "run", n_batches=4, eval_every=2, save_every=2, keep_last=1))
    assert [loss for _, loss in losses(tmp_path / "run")] == pytest.approx(
        [loss for _, loss in losses(tmp_path / "whole")], abs=1e-5
    )
    assert len(checkpoints_of(tmp_path / "run")) == 1


def test_fresh_moves_the_old_run_aside_and_deletes_nothing(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tiny(shards, run, max_iters=3))
    events: list[Event] = []
    train(tiny(shards, run, max_iters=4, fresh=True), events.append)
    assert any(isinstance(event, Note) and "run.1" in event.message for event in events)
    assert checkpoints_of(tmp_path / "run.1")[-1].name == "step_0000003"
    assert checkpoints_of(run)[-1].name == "step_0000004"


def test_a_second_writer_is_refused(shards: Path, tmp_path: Path) -> None:
    from gptcli.data.locks import FolderLock

    with FolderLock(tmp_path), pytest.raises(UserError):
        train(tiny(shards, tmp_path))
    assert not (tmp_path / "run.json").exists()


def test_the_run_records_what_it_was_told(shards: Path, tmp_path: Path) -> None:
    settings = tiny(shards, tmp_path)
    train(settings, stopping_at(1), command=["gpt", "train"])
    train(settings, command=["gpt", "train"])
    recorded = json.loads((tmp_path / "run.json").read_text())
    assert TrainSettings(**recorded["settings"]) == settings
    assert recorded["command"] == ["gpt", "train"]
    assert recorded["data"]["fingerprint"] == open_shards(shards).fingerprint
    assert recorded["versions"].keys() == {"gpt", "torch", "python"}
    assert len(recorded["calls"]) == 2


def test_events_come_in_the_order_of_the_work(shards: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    train(tiny(shards, tmp_path, max_iters=3), events.append)
    kinds = [type(event).__name__ for event in events if not isinstance(event, Note)]
    assert kinds == ["Started", "Evaluated", "StepDone", "StepDone", "StepDone", "Evaluated", "Sampled", "Saved"]
    started = next(event for event in events if isinstance(event, Started))
    assert "2 × 16 tokens × 2 accumulated × 1 process = 64 tokens a step" in started.facts["Batch"]
    assert [event.step for event in events if isinstance(event, Evaluated | Saved)] == [0, 3, 3]


def test_hellaswag_is_scored_on_a_part_while_training_and_in_full_at_the_end(shards: Path, tmp_path: Path) -> None:
    data = tmp_path / "hellaswag.jsonl"
    data.write_text("".join(json.dumps(row | {"ind": i}) + "\n" for i, row in enumerate(HELLASWAG_ROWS)))
    run = tmp_path / "run"
    train(tiny(shards, run, metrics=("Hellaswag",), hellaswag_data=str(data), eval_examples=5, context_length=32))
    rows = [row for row in read(run / "metrics.jsonl") if row["kind"] == "hellaswag"]
    assert [(row["step"], row["n"]) for row in rows] == [(3, 5), (6, len(HELLASWAG_ROWS))]
    few = {"eval_examples": 2, "final_eval_examples": 4, "metrics": ("hellaswag",), "context_length": 32}
    train(tiny(shards, tmp_path / "few", hellaswag_data=str(data), **few))
    rows += [row for row in read(tmp_path / "few" / "metrics.jsonl") if row["kind"] == "hellaswag"]
    assert [row["n"] for row in rows[2:]] == [2, 4]
    assert rows[0]["acc"] in (0, 0.2, 0.4, 0.6, 0.8, 1)


def test_hellaswag_that_can_not_be_had_is_left_out_with_one_line_unless_it_was_asked_for(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gptcli.evals import question_task

    def unreachable(*args: object, **options: object) -> None:
        raise UserError("HellaSwag could not be fetched.", "Give --hellaswag-data FILE.")

    monkeypatch.setattr(question_task, "locate", unreachable)
    default = tiny(shards, tmp_path / "default", max_iters=3)
    fields = {k: getattr(default, k) for k in default.model_fields_set - {"metrics"}}
    events: list[Event] = []
    assert train(TrainSettings(**fields), events.append).step == 3
    assert sum(isinstance(event, Note) and "without HellaSwag" in event.message for event in events) == 1
    with pytest.raises(UserError, match="HellaSwag") as error:
        train(tiny(shards, tmp_path / "asked", metrics=("hellaswag",)))
    assert "--hellaswag-data FILE" in error.value.faults[0].hint
    assert losses(tmp_path / "asked") == []


def test_starting_from_other_weights_goes_on_from_their_loss(shards: Path, tmp_path: Path) -> None:
    train(tiny(shards, tmp_path / "first", max_iters=40, eval_every=40, min_lr=1e-2))
    train(tiny(shards, tmp_path / "second", init_from=str(tmp_path / "first")))
    assert losses(tmp_path / "second", "val")[0][1] == pytest.approx(losses(tmp_path / "first", "val")[-1][1], abs=1e-5)


def test_training_learns(shards: Path, tmp_path: Path) -> None:
    train(tiny(shards, tmp_path, max_iters=60, eval_every=60))
    values = [loss for _, loss in losses(tmp_path, "val")]
    assert values[0] == pytest.approx(np.log(50_304), abs=0.1)
    assert values[-1] < np.log(40) + 1.5  # the text has 40 words in random order


def test_a_validation_loss_that_is_not_finite_stops_the_run_too(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="so the run stops"):
        train(tiny(shards, tmp_path, max_lr=1e30, grad_clip=0, max_iters=40, save_every=1, eval_every=1))
    assert all(np.isfinite(loss) for _, loss in losses(tmp_path, "val"))


def test_ids_beyond_the_vocabulary_name_the_shard(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "data")
    np.save(folder / "train_000002.npy", np.full(3_000, 60_000, dtype=np.uint16))
    with pytest.raises(UserError, match=r"train_000002\.npy holds the id 60,000"):
        train(tiny(folder, tmp_path / "run", max_iters=30))


def test_shards_of_another_vocabulary_are_ids_only(shards: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    result = train(tiny(shards, tmp_path, vocab_size=60_000, max_iters=3), events.append)
    assert any(isinstance(event, Note) and "tokenizer is not known" in event.message for event in events)
    assert not (result.checkpoint / "tokenizer.json").exists()
    assert json.loads((result.checkpoint / "config.json").read_text())["eos_token_id"] is None
    assert not (tmp_path / "samples.jsonl").exists()


def test_a_call_that_failed_before_its_first_step_does_not_bind_the_next(shards: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{}\n")
    run = tmp_path / "run"
    with pytest.raises(UserError, match=r"bad\.jsonl"):
        train(tiny(shards, run, metrics=("hellaswag",), hellaswag_data=str(bad)))
    assert train(tiny(shards, run, n_layers=1, max_iters=3)).step == 3


def test_checkpoints_of_an_unknown_run_are_left_alone(shards: Path, tmp_path: Path) -> None:
    train(tiny(shards, tmp_path, max_iters=3))
    (tmp_path / "run.json").unlink()
    with pytest.raises(UsageError, match=r"no run\.json"):
        train(tiny(shards, tmp_path, max_iters=3))
    assert len(checkpoints_of(tmp_path)) == 1


def test_a_crash_between_the_renames_of_a_save_loses_no_checkpoint(shards: Path, tmp_path: Path) -> None:
    settings = tiny(shards, tmp_path)
    folder = train(settings, stopping_at(2)).checkpoint
    before = files_of(folder)
    folder.rename(folder.with_name(".replaced-step_0000002"))
    checkpoint.remove_unfinished(tmp_path)
    assert files_of(folder) == before


def test_a_run_that_grows_keeps_its_warm_up(shards: Path, tmp_path: Path) -> None:
    def settings(max_iters: int) -> TrainSettings:
        asked = tiny(shards, tmp_path, max_iters=max_iters)
        return TrainSettings(**{k: getattr(asked, k) for k in asked.model_fields_set - {"warmup_iters"}})

    train(settings(20))  # the default warm-up becomes 2 steps of 20
    train(settings(60), stopping_at(22))
    rates = [row["lr"] for row in read(tmp_path / "metrics.jsonl") if row["kind"] == "train"]
    assert rates[20] == learning_rate(20, steps=60, warmup=2, max_lr=1e-2, min_lr=1e-3)


def test_a_run_continues_without_the_weights_that_it_began_with(shards: Path, tmp_path: Path) -> None:
    train(tiny(shards, tmp_path / "first", max_iters=3))
    second = tiny(shards, tmp_path / "second", init_from=str(tmp_path / "first"))
    train(second, stopping_at(2))
    shutil.rmtree(tmp_path / "first")
    assert train(second).step == 6


def test_numbers_that_are_read_a_step_late_are_the_same(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gptcli.training import loop

    train(tiny(shards, tmp_path / "at once"))
    monkeypatch.setattr(loop, "reads_late", lambda device: True)
    order: list[int] = []
    read_step = loop.Loop._read

    def noting(self: loop.Loop) -> None:
        order.append(self._step - self._unread.step if self._unread else -1)
        read_step(self)

    monkeypatch.setattr(loop.Loop, "_read", noting)
    train(tiny(shards, tmp_path / "late"))
    assert losses(tmp_path / "late") == losses(tmp_path / "at once")
    assert 1 in order  # between evaluations a step is read while the next one runs


def test_a_sample_may_hold_any_character_that_ends_lines(shards: Path, tmp_path: Path) -> None:
    from gptcli.training.metrics import Log, keep_rows

    file = tmp_path / "samples.jsonl"
    Log(file).append({"step": 1, "text": "a\u2028b\x85c"})
    Log(file).append({"step": 2, "text": "d"})
    keep_rows(file, lambda row: row["step"] == 1)
    assert read(file) == [{"step": 1, "text": "a\u2028b\x85c"}]


def test_what_the_user_was_told_is_an_event_in_the_metrics(shards: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    train(tiny(shards, tmp_path, max_iters=3), events.append)
    told = [event.message for event in events if isinstance(event, Note)]
    assert told
    events_logged = [row["message"] for row in read(tmp_path / "metrics.jsonl") if row["kind"] == "event"]
    assert [message for message in events_logged if not message.startswith("saved ")] == [*told, "finished"]


def test_python_gets_the_preset_too_and_no_silent_single_process(shards: Path, tmp_path: Path) -> None:
    assert TrainSettings(preset="gpt2-medium", n_heads=8).model_dump()["n_layers"] == 24
    assert TrainSettings(preset="gpt2-medium", n_heads=8).n_heads == 8
    with pytest.raises(UsageError, match="one process"):
        train(tiny(shards, tmp_path, gpus=2))
    with pytest.raises(UsageError, match="dry-run"):
        train(tiny(shards, tmp_path, dry_run=True))
