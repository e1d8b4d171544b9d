"""`--profile`: what is recorded, to which part each moment goes, and that the run is the same."""

from __future__ import annotations

import errno
import gzip
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_runs import MODERN, tiny
from test_distributed import start, words_of
from test_training import files_of, stopping_at

from gptcli import train
from gptcli.cli.monitor import Lines, Quiet
from gptcli.cli.report import console
from gptcli.errors import UsageError
from gptcli.model.config import GPTConfig
from gptcli.model.locate import checkpoints_of
from gptcli.model.network import GPT
from gptcli.training import profiling, setup
from gptcli.training.breakdown import PARTS, break_down
from gptcli.training.events import Event, Note, Profiled
from gptcli.training.logbook import Logbook
from gptcli.training.metrics import read
from gptcli.training.profiling import WARM_STEPS, Profile
from gptcli.training.telemetry import PeakMemory

CPU = torch.device("cpu")
ONE_PROCESS = {"attention", "MLP", "embeddings and norms", "head and loss", "optimiser", "data", "other"}


def profiled(events: list[Event]) -> Profiled:
    (found,) = [event for event in events if isinstance(event, Profiled)]
    return found


def trace_of(run: Path) -> list[dict[str, Any]]:
    (file,) = (run / "profile").iterdir()
    events: list[dict[str, Any]] = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    return events


def steps_in(trace: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in trace if event.get("cat") == "user_annotation" and event["name"].startswith("step ")]


# Runs


@pytest.mark.parametrize(
    "changes",
    [{}, {"activation_checkpointing": "block"}, MODERN],
    ids=["gpt2", "recomputed", "modern"],
)
def test_a_profile_is_a_trace_of_so_many_steps_whose_parts_add_up_to_them(
    changes: dict[str, object], shards: Path, tmp_path: Path
) -> None:
    events: list[Event] = []
    train(tiny(shards, tmp_path, profile=2, **changes), events.append)
    trace, told = trace_of(tmp_path), profiled(events)
    assert (told.step, told.steps, told.path) == (5, 2, tmp_path / "profile" / "step_0000005.json.gz")
    assert [event["name"] for event in steps_in(trace)] == ["step 4", "step 5"]  # those between two evaluations
    assert told.parts.keys() == ONE_PROCESS
    assert all(part > 0 for part in told.parts.values())
    whole = sum(round(1000 * event["dur"]) for event in steps_in(trace))
    assert sum(break_down(trace, 2, on_device=False).parts.values()) == whole
    assert told.step_ms == pytest.approx(whole / 2e6)
    (row,) = [row for row in read(tmp_path / "metrics.jsonl") if "parts_ms" in row]
    assert (row["kind"], row["step"], row["message"]) == ("event", 5, "profiled 2 steps")
    assert (row["parts_ms"], row["step_ms"]) == (told.parts, told.step_ms)
    assert (tmp_path / row["trace"]).samefile(told.path)
    slowed = [row["step"] for row in read(tmp_path / "metrics.jsonl") if row.get("profiled")]
    assert slowed == [4, 5]


def test_a_profiled_run_is_the_same_bit_for_bit(shards: Path, tmp_path: Path) -> None:
    for name, steps in (("with", 2), ("without", None)):
        train(tiny(shards, tmp_path / name, drop_rate=0.1, profile=steps))
    with_profile, without = (
        [files_of(folder) for folder in checkpoints_of(tmp_path / name)] for name in ("with", "without")
    )
    assert with_profile == without


@pytest.mark.parametrize("stop", [None, 4])
def test_a_run_that_ends_early_tells_what_it_has(stop: int | None, shards: Path, tmp_path: Path) -> None:
    events: list[Event] = []

    def listen(event: Event) -> None:
        events.append(event)
        if stop:
            stopping_at(stop)(event)

    train(tiny(shards, tmp_path, profile=100), listen)
    told = profiled(events)
    assert (told.step, told.steps) == ((stop, 2) if stop else (6, 4))
    assert len(steps_in(trace_of(tmp_path))) == told.steps


def test_a_step_that_was_broken_off_does_not_count(tmp_path: Path) -> None:
    profile, events = profile_of(GPT(GPTConfig(vocab_size=8, emb_dim=8, n_layers=1, n_heads=1)), 3, tmp_path)
    with profile:
        for step, result in enumerate([0] * WARM_STEPS + [0, None]):
            profile.begin(step)
            profile.take(step + 1, lambda result=result: result)  # type: ignore[misc]
        profile.end(WARM_STEPS + 1, last=True)
    assert profiled(events).steps == 1


def test_a_run_that_ends_while_it_warms_up_says_so(shards: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    train(tiny(shards, tmp_path, profile=1, max_iters=WARM_STEPS, warmup_iters=1), events.append)
    assert any(isinstance(event, Note) and "before a step could be recorded" in event.message for event in events)
    assert not (tmp_path / "profile").exists()


def test_a_profile_can_be_taken_of_a_run_that_goes_on_and_is_moved_with_it(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tiny(shards, run), stopping_at(1))
    events: list[Event] = []
    train(tiny(shards, run, profile=1), events.append)
    assert profiled(events).path.name == "step_0000004.json.gz"
    train(tiny(shards, run, max_iters=1, warmup_iters=0, fresh=True))
    assert (tmp_path / "run.1" / "profile" / "step_0000004.json.gz").exists()
    assert not (run / "profile").exists()


def test_a_trace_that_can_not_be_written_costs_one_line(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(profiling, "write_bytes", full)
    events: list[Event] = []
    assert train(tiny(shards, tmp_path, profile=1), events.append).step == 6
    assert any(isinstance(event, Note) and "No space left" in event.message for event in events)


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("shard", ["none", "full"])
def test_of_several_processes_the_first_writes_and_tells(shard: str, shards: Path, tmp_path: Path) -> None:
    settings = tiny(shards, tmp_path / "run", n_batches=1, profile=2, shard=shard)
    process = start(words_of(settings, "--gpus", "2"))
    _, told = process.communicate(timeout=200)
    assert process.returncode == 0, told
    assert told.count("profile of 2 steps") == 1
    (row,) = [row for row in read(tmp_path / "run" / "metrics.jsonl") if "parts_ms" in row]
    assert row["parts_ms"].keys() == ONE_PROCESS | {"communication"}
    assert len(steps_in(trace_of(tmp_path / "run"))) == 2


# One profile


def profile_of(model: GPT, steps: int, folder: Path) -> tuple[Profile, list[Event]]:
    events: list[Event] = []
    logbook = Logbook(folder, 8, PeakMemory(CPU), events.append, time.monotonic(), is_main=True)
    return Profile(model, CPU, steps, (), logbook), events


def pass_by(model: GPT) -> Callable[[], Any]:
    ids = torch.zeros(1, 4, dtype=torch.int64)
    return lambda: model(ids, targets=ids).backward() or True


def test_compiled_blocks_are_one_part_and_nothing_stays_behind(tmp_path: Path) -> None:
    model = GPT.create(GPTConfig(vocab_size=8, emb_dim=8, context_length=4, n_layers=2, n_heads=1), seed=1)
    model.blocks[0]._compiled_call_impl = model.blocks[0]._call_impl  # as if it were compiled
    before = [dict(vars(module)) for module in model.modules()]
    profile, events = profile_of(model, 1, tmp_path)
    with profile:
        for step in range(WARM_STEPS + 1):
            profile.begin(step)
            profile.take(step + 1, pass_by(model))
        profile.end(WARM_STEPS + 1, last=False)
    assert {"blocks", "attention", "MLP"} <= profiled(events).parts.keys()
    assert [dict(vars(module)) for module in model.modules()] == before


def test_an_error_ends_the_recording(tmp_path: Path) -> None:
    model = GPT.create(GPTConfig(vocab_size=8, emb_dim=8, context_length=4, n_layers=1, n_heads=1), seed=1)
    profile, events = profile_of(model, 1, tmp_path)
    for step in range(WARM_STEPS + 1):
        profile.begin(step)
    assert torch.autograd._profiler_enabled()
    with pytest.raises(ZeroDivisionError), profile:
        profile.take(1, lambda: 1 // 0)
    assert not torch.autograd._profiler_enabled()
    assert not events
    assert "forward" not in vars(model)


def test_a_device_whose_times_torch_does_not_tell_is_refused_before_anything_is_built(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "resolve_device", lambda asked, rank: torch.device("mps"))
    with pytest.raises(UsageError, match=r"--profile.*mps"):
        train(tiny(shards, tmp_path / "run", profile=1))
    assert not (tmp_path / "run").exists()


# To which part each moment goes: traces made by hand, in microseconds

MAIN, BACKWARD, GLOO = 1, 2, 3


def event(
    name: str, start: float, end: float, *, cat: str = "cpu_op", tid: object = MAIN, **arguments: object
) -> dict[str, Any]:
    args = {name.replace("_", " "): value for name, value in arguments.items()}
    return {"ph": "X", "cat": cat, "name": name, "ts": start, "dur": end - start, "tid": tid, "args": args}


def scope(name: str, start: float, end: float, **more: Any) -> dict[str, Any]:
    return event(name, start, end, cat="user_annotation", **more)


def forward(start: float, end: float, number: int) -> dict[str, Any]:
    return event("aten::mm", start, end, Sequence_number=number, Fwd_thread_id=0)


def node(start: float, end: float, number: int | None = None, tid: int = MAIN) -> dict[str, Any]:
    numbers = {} if number is None else {"Sequence_number": number, "Fwd_thread_id": 1}
    return event("autograd::engine::evaluate_function: Any", start, end, tid=tid, **numbers)


def microseconds(*events: dict[str, Any], steps: int = 1, on_device: bool = False) -> dict[str, float]:
    return {part: time / 1000 for part, time in break_down(events, steps, on_device).parts.items()}


def test_the_backward_pass_belongs_to_the_parts_of_the_forward_pass() -> None:
    assert microseconds(
        scope("step 1", 0, 100),
        scope("attention", 10, 20), forward(11, 12, 7), forward(13, 14, 8),
        scope("MLP", 20, 30), forward(21, 22, 9),
        node(40, 60, 11),  # made by the last operator too: nothing else began before it
        node(60, 65),  # its gradient is added up
        node(70, 73, 8), node(75, 76, 7), node(76, 77),
    ) == {"attention": 10 + 5, "MLP": 10 + 25, "other": 50}  # fmt: skip


def test_what_is_computed_again_in_the_backward_pass_goes_to_its_own_part() -> None:
    assert microseconds(
        scope("step 1", 0, 100),
        scope("attention", 0, 10), forward(1, 2, 1),
        scope("MLP", 10, 20), forward(11, 12, 2),
        node(20, 80, 2), scope("attention", 30, 50), forward(31, 32, 3), scope("MLP", 50, 60), forward(51, 52, 4),
        node(80, 100, 1),
    ) == {"attention": 10 + 20 + 20, "MLP": 10 + 40}  # fmt: skip


def test_torchs_own_names_are_known() -> None:
    assert microseconds(
        scope("step 1", 0, 100),
        scope("embeddings and norms", 0, 50),
        scope("FSDP::pre_forward (blocks.1)", 0, 10), event("c10d::_allgather_base_", 2, 8),
        event("_LinearCrossEntropy", 10, 40),
        scope("optimiser", 60, 80), event("_c10d_functional::wait_tensor", 60, 62),
        scope("Optimizer.zero_grad#AdamW.zero_grad", 90, 95),
    ) == {
        "communication": 12, "head and loss": 30, "embeddings and norms": 10, "optimiser": 18 + 5, "other": 25,
    }  # fmt: skip


def test_an_exchange_counts_where_the_thread_waits_for_it() -> None:
    exchange = scope("gloo:all_reduce", 15, 40, tid=GLOO)
    own_work = event("aten::div_", 38, 40, tid=GLOO)
    step = (scope("step 1", 0, 50), scope("MLP", 10, 20), scope("data", 30, 32))
    assert microseconds(*step, exchange, own_work) == {"MLP": 10, "data": 2, "communication": 18, "other": 20}


def test_time_between_and_after_the_steps_that_count_is_nobodys() -> None:
    assert microseconds(
        scope("step 1", 0, 10), scope("MLP", 0, 10),
        scope("attention", 12, 18),  # an evaluation
        scope("step 2", 20, 30), scope("data", 20, 25),
        scope("step 3", 30, 40), scope("data", 30, 40),  # broken off
        steps=2,
    ) == {"MLP": 10, "data": 5, "other": 5}  # fmt: skip


def launch(start: float, number: int, tid: int = MAIN) -> dict[str, Any]:
    return event("cudaLaunchKernel", start, start + 1, cat="cuda_runtime", tid=tid, correlation=number)


def kernel(start: float, end: float, number: int, name: str = "gemm", cat: str = "kernel") -> dict[str, Any]:
    return event(name, start, end, cat=cat, tid=7, correlation=number)


def test_on_a_device_the_time_is_that_of_kernels_by_what_launched_them() -> None:
    host = (
        scope("step 1", 0, 100),
        scope("data", 0, 6), launch(1, 1),
        scope("MLP", 10, 20), forward(11, 15, 5), launch(12, 2),
        launch(25, 3),
        node(30, 40, 5, tid=BACKWARD), launch(31, 4, tid=BACKWARD),
        event("c10d::allreduce_", 33, 36, tid=BACKWARD), launch(34, 5, tid=BACKWARD),
        scope("gloo:all_reduce", 88, 90, tid=GLOO),
    )  # fmt: skip
    device = (
        kernel(4, 8, 1, "Memcpy HtoD", "gpu_memcpy"),
        kernel(20, 30, 2), kernel(30, 35, 3), kernel(40, 60, 4),
        kernel(50, 70, 5, "ncclDevKernel_AllReduce"),  # 10 of them behind the arithmetic
    )  # fmt: skip
    assert microseconds(*host, *device, on_device=True) == {
        "MLP": 30, "data": 8, "communication": 10 + 2, "other": 5, "idle": 45,
    }  # fmt: skip


NAMES = st.sampled_from(["attention", "MLP", "data", "aten::mm", "_LinearCrossEntropy", "c10d::allreduce_"])


@given(
    st.lists(st.tuples(NAMES, st.integers(0, 99), st.integers(0, 99), st.sampled_from([MAIN, BACKWARD, GLOO]))),
    st.booleans(),
)
def test_the_parts_of_any_trace_add_up_to_its_steps(found: list[tuple[str, int, int, int]], on_device: bool) -> None:
    events = [scope("step 1", 10, 40), scope("step 2", 45, 80)]
    for number, (name, one, other, tid) in enumerate(found):
        start, end = sorted((one, other))
        kinds = (
            scope(name, start, end, tid=tid),
            scope("gloo:all_reduce", start, end, tid=GLOO),
            launch(start, number, tid),
            kernel(start, end, number - 1),
            node(start, end, one, tid),
        )
        events.append(kinds[(one + other) % len(kinds)])
    parts = break_down(events, 2, on_device).parts
    assert sum(parts.values()) == 65_000
    assert set(parts) <= set(PARTS)


# What is drawn


@pytest.mark.parametrize("kind", [Quiet, Lines])
def test_a_profile_is_drawn_as_a_table_the_largest_part_first(
    kind: type[Quiet], capsys: pytest.CaptureFixture[str]
) -> None:
    kind(console())(Profiled(1007, 5, {"attention": 50.0, "MLP": 1150.0}, Path("log/profile/step_0001007.json.gz")))
    assert capsys.readouterr().err.splitlines() == [
        "step 1,007  profile of 5 steps, 1,200.0 ms each",
        "  MLP           1,150.0 ms   95.8%",
        "  attention        50.0 ms    4.2%",
        "  trace, for ui.perfetto.dev: log/profile/step_0001007.json.gz",
    ]
