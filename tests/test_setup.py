"""What a run decides before its first step: length, batch arithmetic, shape, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import tiny, write_shards

from gptcli.data.pipeline import tokenize
from gptcli.distributed.runtime import Ranks
from gptcli.errors import UsageError, UserError
from gptcli.model.config import GPTConfig
from gptcli.model.huggingface import write_model
from gptcli.model.network import GPT
from gptcli.planning import plan
from gptcli.presets import PRESETS
from gptcli.schedules import learning_rate
from gptcli.settings import TokenizeSettings, TrainSettings
from gptcli.training.length import ORIGINAL_STEPS
from gptcli.training.memory import Shape, memory_of
from gptcli.training.setup import Setup, describe, prepare


def resolved(shards: Path, **changes: object) -> Setup:
    return prepare(tiny(shards, Path("unused"), **changes))


def faults_of(shards: Path, **changes: object) -> list[str]:
    with pytest.raises(UsageError) as error:
        resolved(shards, **changes)
    return [f"{fault.message} {fault.hint}" for fault in error.value.faults]


# 6,000 training tokens are 374 windows of 16; a step of 64 tokens takes 4 of them: 93.5 steps a pass.
@pytest.mark.parametrize(
    ("max_iters", "n_epochs", "steps"),
    [(500, None, 500), (None, 1.0, 93), (None, 2.0, 187), (50, 1.0, 50), (500, 1.0, 93), (None, None, 93)],
)
def test_the_run_is_as_long_as_max_iters_and_n_epochs_say(
    shards: Path, max_iters: int | None, n_epochs: float | None, steps: int
) -> None:
    assert resolved(shards, max_iters=max_iters, n_epochs=n_epochs).steps == steps


def test_with_neither_the_run_is_never_longer_than_the_original(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "many", train_tokens=2 * 20_000 * 4)
    setup = resolved(folder, max_iters=None, total_batch_size=4, n_batches=1, context_length=4)
    assert setup.steps == ORIGINAL_STEPS


def test_a_batch_that_does_not_divide_names_the_nearest_that_do(shards: Path) -> None:
    (fault,) = faults_of(shards, total_batch_size=100)
    assert "2 × 16 tokens = 32 tokens" in fault
    assert "96 or 128" in fault
    (fault,) = faults_of(shards, n_batches=3, total_batch_size=64)
    assert "48 or 96" in fault
    assert "--n-batches 2" in fault


def test_every_number_of_processes_divides_the_same_batch(shards: Path) -> None:
    settings = tiny(shards, Path("unused"), total_batch_size=128)
    for processes in (1, 2, 4):
        setup = prepare(settings, Ranks(world_size=processes, launched=True))
        assert setup.tokens_per_step == 128
        assert setup.accumulation(processes) * processes * settings.n_batches * setup.length == 128


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    faults = faults_of(tmp_path / "nowhere", total_batch_size=7, metrics=("helaswag",), emb_dim=15, min_lr=1.0)
    text = "\n".join(faults)
    for part in ("nowhere", "--total-batch-size 7", "'hellaswag'", "emb_dim", "--min-lr 1"):
        assert part in text
    assert len(faults) == 5


def test_too_little_data_is_told_with_what_to_change(tmp_path: Path) -> None:
    short = write_shards(tmp_path / "short", train_tokens=40)
    assert "smaller --total-batch-size" in faults_of(short, max_iters=None)[0]
    assert resolved(short, max_iters=10).steps == 10  # repeats the data
    np.save(short / "train_000001.npy", np.zeros(3, dtype=np.uint16))
    np.save(short / "train_000002.npy", np.zeros(3, dtype=np.uint16))
    assert "has 6 tokens, too few for one sequence of 16" in faults_of(short)[0]


def test_the_vocabulary_is_the_datas_rounded_up(shards: Path, tmp_path: Path) -> None:
    assert resolved(shards).config.vocab_size == 50_304
    assert resolved(shards, vocab_size=60_000).config.vocab_size == 60_000
    (tmp_path / "a.txt").write_text("A word and a word. " * 200)
    tokenize(TokenizeSettings(sources=(str(tmp_path / "a.txt"),), local_dir=str(tmp_path / "data")))
    assert resolved(tmp_path / "data").config.vocab_size == 50_304
    assert "too small" in faults_of(tmp_path / "data", vocab_size=50_000)[0]


def test_a_default_warm_up_fits_itself_to_a_short_run_and_an_explicit_one_is_refused(shards: Path) -> None:
    settings = tiny(shards, Path("unused"), max_iters=60)
    short = prepare(
        settings.__class__(**{k: getattr(settings, k) for k in settings.model_fields_set - {"warmup_iters"}})
    )
    assert short.warmup == 6
    assert any("warm-up takes 6" in note for note in short.notes)
    assert "--warmup-iters 60 does not end" in faults_of(shards, max_iters=60, warmup_iters=60)[0]


def test_weights_to_start_from_bring_their_shape_and_options_may_not_contradict(shards: Path, tmp_path: Path) -> None:
    config = GPTConfig(vocab_size=50_304, emb_dim=8, context_length=16, n_layers=1, n_heads=2, qkv_bias=True)
    write_model(tmp_path, GPT.create(config, seed=0), eot=None)
    options = {
        "data_root": str(shards),
        "init_from": str(tmp_path),
        "max_iters": 5,
        "n_batches": 1,
        "total_batch_size": 16,
    }
    assert prepare(TrainSettings(**options)).config == config
    with pytest.raises(UsageError, match="--n-layers is 7"):
        prepare(TrainSettings(**options, n_layers=7))


def test_the_learning_rate_warms_up_and_falls_along_a_cosine() -> None:
    def lr(step: int) -> float:
        return learning_rate(step, steps=110, warmup=10, max_lr=1.0, min_lr=0.1)

    assert [lr(step) for step in (0, 4, 9, 10)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    assert lr(60) == pytest.approx(0.55)  # half-way down
    assert lr(110) == lr(1_000) == pytest.approx(0.1)
    assert all(lr(step) > lr(step + 1) for step in range(10, 109))
    assert learning_rate(0, steps=10, warmup=0, max_lr=1.0, min_lr=0.0) == 1.0


@pytest.mark.parametrize(
    ("preset", "card", "parameters"),
    [("modern-d12", 8, 162e6), ("modern-d16", 12, 305e6), ("modern-d24", 24, 834e6), ("modern-d32", 80, 1.82e9)],
)
def test_the_modern_presets_fit_their_cards_with_a_tenth_left(
    preset: str, card: int, parameters: float, shards: Path, tmp_path: Path
) -> None:
    settings = TrainSettings(preset=preset, data_root=str(shards), log_dir=str(tmp_path), max_iters=10, device="cpu")
    setup = prepare(settings)
    shape = Shape.of(setup, setup.micro_batch, "bf16", "cuda", 1)
    assert memory_of(shape).peak < 0.9 * card * 2**30
    assert shape.parameters == pytest.approx(parameters, rel=0.01)


@pytest.mark.parametrize("depth", [2, 6, 12, 24])
def test_the_depth_rule_counts_the_parameters_that_the_network_has(depth: int) -> None:
    preset = PRESETS[f"modern-d{depth}"]
    shape = {name: value for name, value in preset.items() if name in GPTConfig.__dataclass_fields__}
    with torch.device("meta"):
        parameters = GPT(GPTConfig(vocab_size=50_304, **shape)).n_parameters()  # type: ignore[arg-type]
    tokens = int(preset["max_iters"]) * int(preset["total_batch_size"])
    assert tokens == pytest.approx(20 * parameters, rel=0.01)


def test_a_length_that_is_given_replaces_the_presets_own(shards: Path, tmp_path: Path) -> None:
    def settings(**length: object) -> TrainSettings:
        return TrainSettings(preset="modern-d2", data_root=str(shards), log_dir=str(tmp_path), **length)

    assert (settings().max_iters, settings().n_epochs) == (PRESETS["modern-d2"]["max_iters"], 4.0)
    assert (settings(max_iters=7).max_iters, settings(max_iters=7).n_epochs) == (7, None)
    assert (settings(n_epochs=2).max_iters, settings(n_epochs=2).n_epochs) == (None, 2.0)
    assert settings(fit_time=60).max_iters is None


def test_the_plan_tells_size_and_length_without_building_anything(shards: Path) -> None:
    planned = plan(tiny(shards, Path("unused"), emb_dim=768, n_heads=12, n_layers=12, context_length=1024,
                        qkv_bias=True, n_batches=1, total_batch_size=2048, max_iters=10)).as_dict()  # fmt: skip
    assert planned["parameters"] == 124_439_808 + 47 * 768  # padded to 50,304 tokens
    assert planned["steps"] == 10
    assert planned["tokens"] == 20_480
    state = 4 * 4 * planned["parameters"]  # weights, gradients and two moments in fp32
    assert planned["peak_memory_bytes"] > state
    # 6 FLOPs for each weight that is multiplied with, and attention's scores: 12 layers × 12 × 768 × 1024.
    multiplied = planned["parameters"] - 1024 * 768
    assert planned["flops"] == (6 * multiplied + 12 * 12 * 768 * 1024) * 20_480


def test_a_validation_split_that_is_too_short_is_told_with_what_to_change(tmp_path: Path) -> None:
    short = write_shards(tmp_path / "short", val_tokens=12)
    assert "--val-tokens" in faults_of(short)[0]


def test_tokens_too_wide_for_gpt2_need_their_vocabulary_told(tmp_path: Path) -> None:
    wide = tmp_path / "wide"
    wide.mkdir()
    for name in ("val_000000", "train_000001"):
        np.save(wide / f"{name}.npy", np.arange(2_000, dtype=np.uint32))
    assert "--vocab-size" in faults_of(wide)[0]
    assert resolved(wide, vocab_size=128_256).tokenizer is None


def test_none_stands_alone_among_the_metrics(shards: Path) -> None:
    assert resolved(shards, metrics=("none",)).metrics == ()
    assert "none stands alone" in faults_of(shards, metrics=("hellaswag", "none"))[0]


def test_weights_of_another_tokenizer_are_refused(shards: Path, tmp_path: Path) -> None:
    config = GPTConfig(vocab_size=60_000, emb_dim=8, context_length=16, n_layers=1, n_heads=2)
    write_model(tmp_path, GPT.create(config, seed=0), eot=None)
    (tmp_path / "tokenizer_config.json").write_text(
        '{"gptcli_encoding": {"name": "gpt2", "sha256": "' + "0" * 64 + '"}}', encoding="utf-8"
    )
    with pytest.raises(UserError, match="not the one"):
        resolved(shards, init_from=str(tmp_path), context_length=16, emb_dim=8, n_layers=1, n_heads=2)


def test_one_of_a_kind_is_told_in_the_singular(shards: Path) -> None:
    told = describe(resolved(shards, n_layers=1, n_heads=1, max_iters=1, warmup_iters=0), 10, 1)
    assert "1 layer, 1 head, " in told["Model"]
    assert told["Length"].startswith("1 step, ")
