"""What `--dry-run` tells, held against what a run then takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_runs import MODERN, tiny, write_shards

from gptcli.distributed import machine_memory
from gptcli.distributed.machine_memory import GIB
from gptcli.distributed.runtime import Ranks
from gptcli.errors import UsageError
from gptcli.model.network import GPT
from gptcli.model.size import parameters_by_part
from gptcli.planning import Plan, plan
from gptcli.planning.exchange import bytes_exchanged
from gptcli.settings import TrainSettings
from gptcli.training import hardware, metrics
from gptcli.training.hardware import ACCELERATORS, by_name, named, peak_of
from gptcli.training.memory import Shape, memory_of
from gptcli.training.micro_batch import usable
from gptcli.training.setup import prepare

RUN = """
import json, sys
from gptcli import train
from gptcli.settings import TrainSettings
train(TrainSettings(**json.loads(sys.argv[1])))
"""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("data"), 60_000, 12_000)


@pytest.fixture
def without_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gptcli.planning.planner.by_probe", lambda *of_run: 2.0)


def on(shards: Path, named_gpus: str, **options: object) -> Plan:
    settings = {"total_batch_size": 524_288, "context_length": 1024, "max_iters": 10, "preset": "gpt2-xl", **options}
    return plan(TrainSettings(data_root=str(shards), on=named_gpus, dry_run=True, warmup_iters=1, **settings))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells a process' peak memory")
@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(
            {"n_layers": 4, "n_heads": 4, "emb_dim": 256, "n_batches": 16, "accumulated": 1}, marks=pytest.mark.slow
        ),
        pytest.param(
            {"n_layers": 8, "n_heads": 6, "emb_dim": 384, "n_batches": 8, "accumulated": 1}, marks=pytest.mark.slow
        ),
        pytest.param(
            {"n_layers": 6, "n_heads": 6, "emb_dim": 384, "n_batches": 8, "accumulated": 2}, marks=pytest.mark.slow
        ),
    ],
)
def test_the_planned_peak_is_within_a_tenth_of_the_measured_one(
    shape: dict[str, int], shards: Path, tmp_path: Path
) -> None:
    shape = dict(shape)
    accumulated = shape.pop("accumulated")
    total = accumulated * shape["n_batches"] * 256
    options = {"context_length": 256, "total_batch_size": total, "max_iters": 3, "warmup_iters": 1, **shape}
    settings = tiny(shards, tmp_path / "run", eval_every=100, save_every=100, sample_every=100, eval_iters=1, **options)
    setup = prepare(settings)
    planned = memory_of(Shape.of(setup, setup.micro_batch, "fp32", "cpu", 1)).peak
    given = json.dumps({**settings.model_dump(mode="json", exclude_unset=True), "precision": "fp32"})
    subprocess.run([sys.executable, "-c", RUN, given], check=True, timeout=280)
    rows = metrics.read(tmp_path / "run" / metrics.METRICS)
    measured = max(row["peak_memory_bytes"] for row in rows if row["kind"] == "train")
    assert planned == pytest.approx(measured, rel=0.1)


def test_parts_add_up_to_the_parameters_of_the_network(shards: Path, tmp_path: Path) -> None:
    for changes in ({"qkv_bias": True}, MODERN):
        config = prepare(tiny(shards, tmp_path, **changes)).config
        assert sum(parameters_by_part(config).values()) == GPT(config).n_parameters()
    assert set(parameters_by_part(config)) == {"token embedding", "attention", "MLP", "norms", "head"}


@pytest.mark.usefixtures("without_probe")
def test_a_plan_allocates_nothing(shards: Path) -> None:
    settings = tiny(shards, Path("unused"), emb_dim=65_536, n_heads=64, n_layers=1_000, max_iters=10)
    planned = plan(settings)  # petabytes
    assert planned.weight_bytes > 2**44
    assert (planned.fits, planned.remedies, planned.seconds) == (False, (), None)
    assert "take a smaller model" in planned.facts["Fits"]


@pytest.mark.usefixtures("without_probe")
def test_time_follows_from_that_of_a_step(shards: Path) -> None:
    planned = plan(tiny(shards, Path("unused"), max_iters=10))
    assert (planned.seconds, planned.tokens_per_second) == (20.0, 32.0)
    assert "0:00:20 for all steps" in planned.facts["Time"]


@pytest.mark.parametrize("changes", [{}, MODERN, {"activation_checkpointing": "block", "drop_rate": 0.1}])
def test_every_kind_of_run_has_a_probe(changes: dict[str, object], shards: Path) -> None:
    planned = plan(tiny(shards, Path("unused"), **changes))
    assert planned.seconds_per_step is not None
    assert planned.seconds_per_step > 0


def test_named_gpus_are_planned_by_their_data_sheet(shards: Path) -> None:
    planned = on(shards, "8xh100")
    assert (planned.processes, planned.device, planned.precision) == (8, "H100", "bf16")
    assert planned.fits
    assert planned.seconds_per_step == pytest.approx(planned.flops / 10 / (8 * 989.4e12 * 0.4))
    assert on(shards, "h100", gpus=8) == planned
    assert on(shards, "1xh100", gpus=8).processes == 1
    assert "40%" in planned.facts["Time"]


def test_what_does_not_fit_is_told_with_what_would(shards: Path) -> None:
    planned = on(shards, "8xrtx4090", max_iters=10)
    assert not planned.fits
    assert planned.remedies
    for remedy in planned.remedies:
        words = remedy.split()
        options = {words[i].removeprefix("--").replace("-", "_"): words[i + 1] for i in range(0, len(words), 2)}
        assert on(shards, "8xrtx4090", **options).fits, remedy
    assert on(shards, "8xrtx4090", shard="full", n_batches="auto").fits


def test_a_run_in_fp16_is_not_told_to_shard_in_it(shards: Path) -> None:
    assert on(shards, "4xt4").precision == "fp16"
    assert on(shards, "4xt4", shard="full").precision == "fp32"


def test_devices_are_known_by_names_however_they_are_written() -> None:
    assert [named(text)[:2] for text in ("8xh100", "8 x H100", "NVIDIA A100", "2×rtx-4090")] == [
        (8, "H100"), (8, "H100"), (None, "A100"), (2, "RTX 4090"),
    ]  # fmt: skip
    for wrong in ("h10", "0xh100", ""):
        with pytest.raises(UsageError, match="no such device"):
            named(wrong)


def test_peaks_follow_the_precision() -> None:
    a100, t4 = ACCELERATORS["A100"], ACCELERATORS["T4"]
    assert peak_of(a100, "bf16", "high") == 312e12
    assert peak_of(a100, "fp32", "high") == 156e12
    assert peak_of(a100, "fp32", "highest") == 19.5e12
    assert peak_of(t4, "bf16", "high") is None
    assert peak_of(t4, "fp32", "high") == 8.1e12
    assert hardware.known(torch.device("cpu")) is None


def test_what_is_exchanged_is_once_all_gradients_or_the_shards_of_each_micro_batch(shards: Path) -> None:
    def sent(processes: int, shard: str = "none", micro: int = 2) -> int:
        settings = tiny(shards, Path("unused"), shard=shard, precision="fp32", n_batches=micro, total_batch_size=128)
        setup = prepare(settings, Ranks(world_size=processes))
        return bytes_exchanged(Shape.of(setup, micro, "fp32", "cpu", processes))

    size = 4 * sum(parameters_by_part(prepare(tiny(shards, Path("unused"))).config).values())
    assert sent(1) == 0
    assert sent(2) == size
    assert sent(4) == int(size * 1.5)
    assert sent(4, "optimizer") == int(2 * size * 0.75)  # one micro-batch: gathered once, summed once
    assert sent(2, "full", micro=1) == int(4 * 3 * size * 0.5)


@pytest.mark.usefixtures("without_probe")
def test_auto_takes_the_largest_micro_batch_that_fits_and_makes_up_a_step(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny(shards, Path("unused"), n_batches="auto", total_batch_size=16 * 24, emb_dim=64)
    peaks = {}
    for n in (1, 2, 3, 4, 6, 8, 12, 24):
        peaks[n] = memory_of(Shape.of(prepare(settings), n, "fp32", "cpu", 1)).peak
    for n, peak in peaks.items():
        monkeypatch.setattr(machine_memory, "free_memory", lambda device, peak=peak: int(peak / 0.8) + 1)
        assert plan(settings).n_batches == max(m for m in peaks if peaks[m] <= peaks[n])
    monkeypatch.setattr(machine_memory, "free_memory", lambda device: 1)
    assert plan(settings).n_batches == 1
    assert not plan(settings).fits


def test_on_is_for_plans_alone(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing is trained"):
        prepare(tiny(shards, tmp_path, on="h100"))


def test_usable_memory_is_less_than_there_is_and_shared_by_processes() -> None:
    for kind in ("cpu", "cuda", "mps"):
        assert 0 < usable(GIB, kind, 2) <= usable(GIB, kind, 1) / 2 < GIB / 2


def test_a_part_or_a_variant_of_a_gpu_is_not_taken_for_it() -> None:
    assert by_name("NVIDIA H100 80GB HBM3") == ACCELERATORS["H100"]
    assert by_name("NVIDIA H100 NVL") == ACCELERATORS["H100 NVL"]
    assert by_name("NVIDIA GeForce RTX 4090") == ACCELERATORS["RTX 4090"]
    for other in ("RTX 4090 Laptop GPU", "RTX 4090 D", "RTX 3090 Ti", "H200 NVL", "H100 MIG 1g.10gb", "GTX 1080"):
        assert by_name(f"NVIDIA {other}") is None
