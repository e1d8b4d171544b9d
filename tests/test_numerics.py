"""How a run computes: precision, scaled losses, recomputed blocks, compiled parts; chosen once and kept."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import MODERN, tiny, write_shards
from test_stopping import equal_runs
from test_training import stopping_at
from torch import Tensor

from gptcli import train
from gptcli.distributed.runtime import Ranks
from gptcli.errors import UserError
from gptcli.model.locate import checkpoints_of
from gptcli.model.network import GPT
from gptcli.settings import TrainSettings
from gptcli.training import compiling, metrics, numerics
from gptcli.training.events import Event, Note, Started

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("data"))


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in metrics.read(run / metrics.METRICS) if row["kind"] == "train"]


def choose(settings: TrainSettings, width: int = 768, measured: str = "fp32") -> numerics.Numerics:
    return numerics.choose(settings, CPU, Ranks(), width, lambda: measured)[0]


@pytest.mark.parametrize(
    ("capability", "precision"),
    [((9, 0), "bf16"), ((8, 0), "bf16"), ((7, 5), "fp16"), ((7, 0), "fp16"), ((6, 1), "fp32")],
)
def test_gpus_train_in_what_their_tensor_cores_have(
    capability: tuple[int, int], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert numerics.precision_of(CUDA, 64, lambda: pytest.fail("measured")) == precision


def test_processors_train_in_what_they_multiply_fastest_but_for_narrow_models() -> None:
    assert numerics.precision_of(CPU, 768, lambda: "bf16") == "bf16"
    assert numerics.precision_of(CPU, 768, lambda: "fp32") == "fp32"
    assert numerics.precision_of(CPU, 128, lambda: "bf16") == "fp32"


@pytest.mark.parametrize(("factor", "fastest"), [(1.5, "bf16"), (1.1, "fp32"), (0.5, "fp32"), (None, "fp32")])
def test_bf16_is_fastest_where_it_is_clearly_so(
    factor: float | None, fastest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def speed(device: torch.device, dtype: torch.dtype, size: int, seconds: float) -> float | None:
        return 1e9 if dtype == torch.float32 else factor and 1e9 * factor

    monkeypatch.setattr(numerics, "matmul_speed", speed)
    assert numerics.fastest_matmul(CPU) == fastest


def test_what_a_checkpoint_was_computed_in_stays_on_its_hardware(shards: Path, tmp_path: Path) -> None:
    before = choose(tiny(shards, tmp_path), measured="bf16")
    now = choose(tiny(shards, tmp_path))
    assert (before.precision, now.precision) == ("bf16", "fp32")
    assert numerics.keep(now, before.as_dict(), tiny(shards, tmp_path)) == (before, [])
    asked = tiny(shards, tmp_path, precision="fp32")
    kept, notes = numerics.keep(choose(asked), before.as_dict(), asked)
    assert kept.precision == "fp32"
    assert "precision was bf16, is fp32" in notes[0]
    elsewhere = {**before.as_dict(), "hardware": "another machine"}
    assert numerics.keep(now, elsewhere, tiny(shards, tmp_path))[0].precision == "fp32"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_learns_as_fp32_does_with_master_weights_in_fp32(
    precision: str, shards: Path, tmp_path: Path
) -> None:
    for name in ("fp32", precision):
        train(tiny(shards, tmp_path / name, precision=name, max_iters=12))
    assert losses(tmp_path / precision) == pytest.approx(losses(tmp_path / "fp32"), rel=0.02)
    assert losses(tmp_path / precision) != losses(tmp_path / "fp32")


@pytest.mark.parametrize("changes", [{"precision": "fp16"}, {"precision": "bf16", **MODERN}])
def test_a_run_in_low_precision_that_was_stopped_goes_on_bit_for_bit(
    changes: dict[str, object], shards: Path, tmp_path: Path
) -> None:
    train(tiny(shards, tmp_path / "whole", **changes))
    settings = tiny(shards, tmp_path / "parts", **changes)
    train(settings, stopping_at(4))
    train(settings)
    equal_runs(tmp_path / "whole", tmp_path / "parts")
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    state = json.loads((checkpoints_of(tmp_path / "parts")[-1] / "training" / "state.json").read_text())
    assert bool(state["loss_scale"]) == (changes["precision"] == "fp16")


def test_a_scale_too_large_for_fp16_shrinks_and_is_no_bad_step(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scaler(self: numerics.Numerics, device: torch.device) -> torch.amp.GradScaler:
        return torch.amp.GradScaler("cpu", init_scale=2.0**30)

    monkeypatch.setattr(numerics.Numerics, "scaler", scaler)
    train(tiny(shards, tmp_path, precision="fp16", max_iters=30, on_spike="stop", eval_every=30))
    rows = [row for row in metrics.read(tmp_path / metrics.METRICS) if row["kind"] == "train"]
    skipped = [row.get("skipped", False) for row in rows]
    assert skipped[0]
    assert not skipped[-1]
    state = json.loads((checkpoints_of(tmp_path)[-1] / "training" / "state.json").read_text())
    assert state["loss_scale"]["scale"] < 2.0**30
    assert all(math.isfinite(row["loss"]) for row in rows)


@pytest.mark.parametrize("changes", [{}, {"drop_rate": 0.2}, MODERN])
def test_recomputed_blocks_give_the_same_run_bit_for_bit(
    changes: dict[str, object], shards: Path, tmp_path: Path
) -> None:
    for name in ("none", "block"):
        train(tiny(shards, tmp_path / name, activation_checkpointing=name, **changes))
    assert losses(tmp_path / "none") == losses(tmp_path / "block")


def test_recomputed_blocks_keep_their_inputs_only() -> None:
    kept: dict[bool, int] = {}
    for recompute in (False, True):
        sizes: list[int] = []
        model = GPT.create(numerics_config(), seed=0).train()
        model.recompute_blocks = recompute

        def pack(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(torch.zeros(2, 16, dtype=torch.int64))
        kept[recompute] = sum(sizes)
    assert kept[True] < kept[False] / 3


def numerics_config() -> Any:
    from gptcli import GPTConfig

    return GPTConfig(vocab_size=32, emb_dim=32, context_length=16, n_layers=6, n_heads=2)


Backend = Callable[[torch.fx.GraphModule, Sequence[Any]], Callable[..., Any]]


@pytest.fixture
def compiled_by(monkeypatch: pytest.MonkeyPatch) -> Callable[[Backend], None]:
    """Have parts compiled by another backend than inductor, which takes long; torch finds graphs and guards as ever."""

    def arrange(backend: Backend) -> None:
        def parts(model: GPT) -> None:
            torch.compiler.reset()
            for part in compiling.compiled_parts(model):
                part.compile(dynamic=False, backend=backend)

        monkeypatch.setattr(compiling, "compile_parts", parts)
        monkeypatch.setattr(numerics, "_compile_fault", lambda device: "")

    return arrange


def test_parts_are_compiled_before_the_first_step_and_never_again(
    shards: Path, tmp_path: Path, compiled_by: Callable[[Backend], None]
) -> None:
    graphs: list[int] = []
    before: list[int] = []

    def counting(graph: torch.fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        graphs.append(len(inputs))
        return graph

    def watch(event: Event) -> None:
        if isinstance(event, Started):
            before.append(len(graphs))

    compiled_by(counting)
    train(tiny(shards, tmp_path / "compiled", compile="on", n_layers=4), watch)
    assert before[0] > 0
    assert len(graphs) == before[0]  # through evaluations of other shapes, and samples of growing length
    assert before[0] < 4, "blocks share what is compiled"
    train(tiny(shards, tmp_path / "plain", n_layers=4))
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), rel=1e-5)


def test_a_compiler_that_fails_ends_what_asked_for_it_and_nothing_else(
    shards: Path, tmp_path: Path, compiled_by: Callable[[Backend], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(graph: torch.fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        raise RuntimeError("no compiler is there\nand more lines")

    compiled_by(failing)
    with pytest.raises(UserError, match="no compiler is there"):
        train(tiny(shards, tmp_path / "on", compile="on"))
    # As on a device on which auto compiles.
    settle = compiling.settle
    monkeypatch.setattr(compiling, "settle", lambda trainee, ids, asked_for: settle(trainee, ids, asked_for=False))
    notes: list[str] = []
    result = train(
        tiny(shards, tmp_path / "auto", compile="on"),
        lambda event: notes.append(event.message) if isinstance(event, Note) else None,
    )
    assert result.complete
    assert sum("training goes on without it" in note for note in notes) == 1
    assert json.loads((tmp_path / "auto" / "run.json").read_text())["resolved"]["compile"] is False


@pytest.mark.slow
def test_inductor_compiles_what_eager_computes(shards: Path, tmp_path: Path) -> None:
    if numerics._compile_fault(CPU):
        pytest.skip("torch.compile does not work on this machine")
    for name, changes in (("classic", {}), ("modern", MODERN)):
        for compile in ("on", "off"):
            train(tiny(shards, tmp_path / f"{name}-{compile}", compile=compile, **changes))
        compiled, plain = losses(tmp_path / f"{name}-on"), losses(tmp_path / f"{name}-off")
        assert compiled == pytest.approx(plain, rel=1e-3)
