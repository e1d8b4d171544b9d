"""`--weights auto`: what is chosen by loss and speed, remembered, and taken from then on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import sharp, tiny

from gptcli import train
from gptcli.cli.main import run
from gptcli.errors import UsageError
from gptcli.evals.run import evaluate
from gptcli.inference import kernel_choice, weight_choice
from gptcli.inference.linears import Int8Linear
from gptcli.inference.load import load
from gptcli.inference.weight_choice import decided, pick
from gptcli.model.config import GPTConfig
from gptcli.model.huggingface import write_model
from gptcli.model.locate import locate_model
from gptcli.settings import EvalSettings
from gptcli.tokenizer import get_tokenizer
from gptcli.tokenizer_files import write_tokenizer

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache of each test's own."""
    for module in (weight_choice, kernel_choice):
        monkeypatch.setattr(module, "cache_dir", lambda: tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def letters(tmp_path: Path) -> tuple[Path, Path]:
    """A random model of bytes, and a text."""
    folder, text = tmp_path / "model", tmp_path / "text.txt"
    folder.mkdir()
    words = "the quick brown fox jumps over the lazy dog. " * 20
    tokenizer = get_tokenizer("bytes")
    write_model(folder, sharp(GPTConfig(tokenizer.vocab_size, 16, 32, 2, 4)), tokenizer.eot)
    write_tokenizer(folder, tokenizer, 16)
    text.write_text(words)
    return folder, text


def set_speeds(monkeypatch: pytest.MonkeyPatch, **speeds: float) -> None:
    monkeypatch.setattr(weight_choice, "decode_speeds", lambda models: speeds)


@pytest.mark.parametrize(
    ("loss", "speeds", "chosen"),
    [
        ((3.0, 3.0, 3.0), (10.0, 20.0, 30.0), "int8"),
        ((3.0, 3.0, 3.0), (30.0, 20.0, 10.0), "fp32"),
        ((3.0, 3.01, 3.0149), (10.0, 20.0, 30.0), "int8"),
        ((3.0, 3.01, 3.0151), (10.0, 20.0, 30.0), "bf16"),
        ((3.0, 4.0, float("nan")), (10.0, 20.0, 30.0), "fp32"),
        ((3.0, 2.9, 4.0), (10.0, 20.0, 30.0), "bf16"),
        ((float("nan"), 2.9, 4.0), (10.0, 20.0, 30.0), "fp32"),
    ],
)
def test_the_fastest_within_half_a_percent_of_the_loss_is_taken(
    loss: tuple[float, ...], speeds: tuple[float, ...], chosen: str
) -> None:
    names = ("fp32", "bf16", "int8")
    assert pick(dict(zip(names, loss, strict=True)), dict(zip(names, speeds, strict=True))) == chosen


def test_auto_is_fp32_until_it_is_decided_and_what_was_decided_from_then_on(
    letters: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    folder, text = letters
    assert load(folder, "auto", "cpu").weights == "fp32"
    set_speeds(monkeypatch, fp32=1.0, bf16=2.0, int8=1.5)
    results = evaluate(
        EvalSettings(tasks=("loss",), model=(str(folder),), text=str(text), weights="auto", device="cpu")
    )
    assert [result.weights for result in results] == ["fp32", "bf16", "int8"]
    assert {result.model for result in results} == {str(folder)}
    assert "--weights auto takes bf16" in results[0].notes[-1]
    assert str(text) in results[0].notes[-2]
    assert load(folder, "auto", "cpu").weights == "bf16"
    decision = decided(folder, CPU)
    assert decision is not None
    assert decision.loss["fp32"] == results[0].measured.figures["loss"]
    moved = folder.rename(folder.with_name("moved"))
    assert load(moved, "auto", "cpu").weights == "bf16", "it is the weights that are known, not their place"
    again = sharp(GPTConfig(load(moved).model.config.vocab_size, 16, 32, 2, 4))
    with torch.no_grad():
        again.blocks[1].mlp.up.weight[3, 4] += 1e-3  # type: ignore[union-attr, index]
    write_model(moved, again, 0)
    assert load(moved, "auto", "cpu").weights == "fp32", "and other weights are another model"


def test_a_decision_that_can_not_be_read_is_none(
    letters: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    folder, _ = letters
    set_speeds(monkeypatch, fp32=1.0, bf16=2.0, int8=1.5)
    weight_choice.decide(folder, CPU, lambda model, name: 1.0)
    assert load(folder, "auto", "cpu").weights == "bf16"
    (file,) = (own_cache / "weights").glob("*.json")
    for content in ("{", "[]", '{"weights": "fp4", "loss": {}, "tokens_per_second": {}}'):
        file.write_text(content)
        assert load(folder, "auto", "cpu").weights == "fp32"


def test_weights_are_held_as_the_device_wants_that_they_go_to(
    letters: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = letters
    asked: list[str] = []

    def fastest(weights: str, linear: torch.nn.Linear, layers: int) -> Any:
        asked.append(linear.weight.device.type)
        return kernel_choice.WAYS_ELSEWHERE[weights][0]

    monkeypatch.setattr("gptcli.inference.held_weights.fastest_way", fastest)
    for weights in ("fp32", "bf16", "int8"):
        model, _ = weight_choice.read_held(folder, weights, torch.device("meta"))
        assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}
    assert asked == ["meta"] * 3
    linear = torch.nn.Linear(8, 8, device="meta")
    assert kernel_choice.fastest_way("bf16", linear, 10**9) is kernel_choice.Bf16Linear


def test_a_gpu_gets_steps_of_fixed_shapes(letters: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from gptcli.inference import language_model
    from gptcli.model.network import GPT

    model, made = load(letters[0], device="cpu"), []
    monkeypatch.setattr(language_model, "Engine", lambda *_, **options: made.append(options["fixed_shapes"]))
    monkeypatch.setattr(language_model, "free_memory", lambda device: 2**30)
    model.engine(1, 8)
    monkeypatch.setattr(GPT, "device", torch.device("cuda"))
    model.engine(1, 8)
    assert made == [False, True]


def test_as_many_texts_at_a_time_as_the_memory_has_room_for(
    letters: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(letters[0], device="cpu")
    row = 2 * 2 * 32 * 16 * 4  # keys and values of 2 layers, width 32, 16 positions, in fp32
    for free, texts, rows in ((100 * row, 40, 16), (100 * row, 3, 3), (8 * row, 40, 4), (0, 40, 1)):
        monkeypatch.setattr("gptcli.inference.language_model.free_memory", lambda device, free=free: free)
        assert model.engine(texts, 10**6).rows == rows


def test_int8_weights_are_read_from_a_copy_that_is_rounded_already(
    letters: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    folder, text = letters
    set_speeds(monkeypatch, fp32=1.0, bf16=2.0, int8=3.0)
    monkeypatch.setattr(weight_choice, "LARGEST_LOSS", 2.0)
    evaluate(EvalSettings(tasks=("loss",), model=(str(folder),), text=str(text), weights="auto", device="cpu"))
    monkeypatch.setattr(weight_choice, "read_model", lambda folder: pytest.fail("the original was read"))
    (copy,) = (own_cache / "weights").glob("*.int8.safetensors")
    os.utime(copy, (0, 0))
    model = load(folder, "auto", "cpu")
    assert model.weights == "int8"
    assert copy.stat().st_mtime > 0, "the copies used last are the ones that are kept"
    assert isinstance(model.model.blocks[0].mlp.up, Int8Linear)  # type: ignore[union-attr]
    monkeypatch.undo()
    monkeypatch.setattr(weight_choice, "cache_dir", lambda: own_cache)
    expected = load(folder, "int8", "cpu").generate("the ", max_new_tokens=20, seed=1)
    assert model.generate("the ", max_new_tokens=20, seed=1) == expected
    copy.write_bytes(b"damaged")
    assert load(folder, "auto", "cpu").generate("the ", max_new_tokens=20, seed=1) == expected


def test_only_the_last_copies_are_kept(
    letters: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    folder, _ = letters
    set_speeds(monkeypatch, fp32=1.0, bf16=2.0, int8=3.0)
    (own_cache / "weights").mkdir(parents=True)
    for i in range(6):
        (own_cache / "weights" / f"{i}.int8.safetensors").touch()
    weight_choice.decide(folder, CPU, lambda model, name: 1.0)
    assert len(list((own_cache / "weights").glob("*.int8.safetensors"))) == 4
    assert weight_choice._copy_file(folder).exists()


def test_a_cache_that_can_not_be_written_costs_the_memory_only(
    letters: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    folder, _ = letters
    own_cache.write_text("no folder")
    set_speeds(monkeypatch, fp32=1.0, bf16=2.0, int8=3.0)
    assert weight_choice.decide(folder, CPU, lambda model, name: 1.0).weights == "int8"
    assert load(folder, "auto", "cpu").weights == "fp32"


def test_speeds_are_those_of_whole_steps() -> None:
    model = sharp(GPTConfig(40, 8, 32, 2, 4))
    speeds = weight_choice.decode_speeds({"fp32": model, "bf16": model})
    assert list(speeds) == ["fp32", "bf16"]
    assert all(speed > 0 for speed in speeds.values())


def test_a_run_is_measured_on_its_own_validation_split(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    train(tiny(shards, tmp_path / "log"))
    assert run(["eval", "loss", "--weights", "auto", "--device", "cpu", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert len(results) == 3
    assert len({result["tokens"] for result in results}) == 1
    assert decided(locate_model(None), CPU) is not None


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"tasks": ("loss", "hellaswag")}, "decides by it alone"),
        ({"gpus": 2}, "measures on one device"),
        ({"save": "rows.jsonl"}, "scores a model three times"),
        ({"text": None}, "measures the loss on a text"),
    ],
)
def test_what_does_not_go_together_with_deciding_is_refused(
    changes: dict[str, Any], fault: str, letters: tuple[Path, Path]
) -> None:
    folder, text = letters
    asked = {"tasks": ("loss",), "model": (str(folder),), "text": str(text), "weights": "auto", "device": "cpu"}
    with pytest.raises(UsageError, match=fault):
        evaluate(EvalSettings(**asked | changes))


def test_other_tasks_take_what_was_decided(letters: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, text = letters
    set_speeds(monkeypatch, fp32=1.0, bf16=2.0, int8=1.5)
    asked: dict[str, Any] = {"model": (str(folder),), "device": "cpu"}
    evaluate(EvalSettings(tasks=("loss",), text=str(text), weights="auto", **asked))
    (result,) = evaluate(EvalSettings(tasks=("loss",), text=str(text), weights="bf16", **asked))
    (exact,) = evaluate(EvalSettings(tasks=("loss",), text=str(text), **asked))
    assert (result.weights, exact.weights) == ("bf16", "fp32")
    assert result.as_dict()["weights"] == "bf16"
    assert result.measured.figures["loss"] != exact.measured.figures["loss"]
    assert result.measured.figures["loss"] == pytest.approx(exact.measured.figures["loss"], rel=5e-3)
    goals = text.with_name("piqa.jsonl")
    goals.write_text(json.dumps({"goal": "jump over", "sol1": "the dog.", "sol2": "the fox.", "label": 0}) + "\n")
    (other,) = evaluate(EvalSettings(tasks=("piqa",), data=str(goals), weights="auto", **asked))
    assert other.weights == "bf16"
