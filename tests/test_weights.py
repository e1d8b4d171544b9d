"""Weights in fp32, bf16 and int8: how they are held, and how near to the original they stay."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import sharp
from torch import nn

from gptcli.errors import UsageError
from gptcli.inference import kernel_choice
from gptcli.inference.engine import Engine
from gptcli.inference.held_weights import (
    check_weights,
    hold_weights,
    quantize_model,
    read_quantized,
    write_quantized,
)
from gptcli.inference.kernel_choice import WAYS, fastest_way
from gptcli.inference.linears import (
    Int8Linear,
    OneDnnLinear,
    PlainLinear,
    Quantized,
    SplitInt8Linear,
    quantize,
)
from gptcli.inference.requests import Request
from gptcli.inference.sampling import Sampling
from gptcli.model.config import GPTConfig
from gptcli.model.network import GPT

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE: dict[str, Any] = {"vocab_size": 96, "context_length": 16, "emb_dim": 64, "n_layers": 2, "n_heads": 4}
MODERN: dict[str, Any] = {
    "positions": "rotary", "norm": "rms", "mlp": "swiglu", "bias": False, "qkv_bias": False, "tie_embeddings": False,
}  # fmt: skip
EACH_WAY = [(weights, way) for weights, ways in WAYS.items() for way in ways if way is not PlainLinear]
each_way = pytest.mark.parametrize(("weights", "way"), EACH_WAY, ids=[way.__name__ for _, way in EACH_WAY])


def works_here(way: type[nn.Module]) -> bool:
    try:
        with torch.inference_mode():
            way(PlainLinear(nn.Linear(8, 8)))(torch.randn(1, 8))
    except (RuntimeError, AttributeError):
        return False
    return True


def held(weights: str, way: type[nn.Module], **changes: Any) -> tuple[GPT, GPT]:
    """A random model in fp32, and the same held otherwise."""
    if not works_here(way):
        pytest.skip(f"this build of torch has no kernel for {way.__name__}")
    model, other = (sharp(GPTConfig(**SHAPE | changes)) for _ in range(2))
    hold_weights(other, weights, way)
    return model, other


@each_way
@pytest.mark.parametrize("family", [{}, MODERN], ids=["gpt2", "modern"])
@pytest.mark.parametrize("rows", [1, 9])
def test_logits_are_fp32_and_nearly_the_same(
    weights: str, way: type[nn.Module], family: dict[str, Any], rows: int
) -> None:
    model, other = held(weights, way, **family)
    ids = torch.arange(rows * 4).view(rows, 4) % 96
    with torch.inference_mode():
        expected, logits = model(ids), other(ids)
    assert logits.dtype == torch.float32
    error = float((logits - expected).norm() / expected.norm())
    least, largest = {"fp32": (0.0, 1e-5), "bf16": (1e-7, 0.02), "int8": (1e-4, 0.05)}[weights]
    assert least <= error < largest


@each_way
def test_a_row_beside_others_is_what_it_is_alone(weights: str, way: type[nn.Module]) -> None:
    _, model = held(weights, way)
    ids = torch.arange(12).view(3, 4)
    with torch.inference_mode():
        together = model(ids)
        alone = torch.cat([model(row[None]) for row in ids])
    # Where activations are rounded to bf16, other kernels for more rows round another way.
    torch.testing.assert_close(
        together, alone, atol=1e-4 if way not in (*WAYS["bf16"][:1], Int8Linear) else 0.3, rtol=0
    )


@each_way
def test_the_cache_changes_no_likeliest_token(weights: str, way: type[nn.Module]) -> None:
    _, model = held(weights, way)
    engine = Engine(model, vocab_size=96, rows=2)
    texts = [engine.add([i, 2, 3], Request(20, Sampling(0.0))) for i in range(3)]
    while engine.busy:
        engine.step()
    for text in texts:
        with torch.inference_mode():
            logits = model(torch.tensor([(text.prompt + text.ids)[:16]]))[0, 2:-1]
        chosen = logits.gather(1, torch.tensor(text.ids[:13])[:, None])[:, 0]
        assert (chosen >= logits.amax(1) - 0.3).all()


def test_int8_activations_in_two_parts_are_as_exact_as_thirteen_bits() -> None:
    if not works_here(SplitInt8Linear):
        pytest.skip("this build of torch has no FBGEMM")
    layer = nn.Linear(256, 32)
    split = SplitInt8Linear(layer)
    x = torch.randn(5, 256)
    x[0, 3] = 50.0  # one number far beyond the others
    x[1] = 0.0
    weight, scale = quantize(layer.weight.detach())
    with torch.inference_mode():
        exact = x @ (weight.float() * scale).T + layer.bias
        error = (split(x) - exact).abs().amax(1)
    # Half a step of each number, 1/126 of 1/63 of the row's largest, added up over a row of weights.
    bound = 0.5 / 126 / 63 * x.abs().amax(1) * (weight.float() * scale).abs().sum(1).max()
    assert (error <= bound + 1e-6).all()


def test_int8_weights_are_within_half_a_step_of_the_original() -> None:
    weight = torch.randn(7, 33)
    weight[2] = 0.0
    rounded, scale = quantize(weight)
    assert rounded.dtype == torch.int8
    assert ((rounded * scale - weight).abs() <= scale / 2 + 1e-7).all()


@pytest.mark.parametrize("family", [{}, MODERN], ids=["gpt2", "modern"])
def test_rounded_weights_come_back_from_their_file_as_they_were(family: dict[str, Any], tmp_path: Path) -> None:
    model = sharp(GPTConfig(**SHAPE | family))
    quantize_model(model)
    write_quantized(model, tmp_path / "int8.safetensors")
    again = read_quantized(model.config, tmp_path / "int8.safetensors")
    assert (tmp_path / "int8.safetensors").stat().st_size < sum(p.numel() for p in sharp(model.config).parameters()) * 2
    for each in (model, again):
        hold_weights(each, "int8", Int8Linear)
    ids = torch.arange(8)[None]
    with torch.inference_mode():
        assert torch.equal(model(ids), again(ids))


def test_int8_weights_of_tied_embedding_and_head_are_held_once() -> None:
    model = sharp(GPTConfig(**SHAPE))
    hold_weights(model, "int8", Int8Linear)
    assert model.head.weight.data_ptr() == model.token_embedding.weight.data_ptr()


def test_packing_in_threads_leaves_the_process_as_it_was() -> None:
    if not works_here(SplitInt8Linear):
        pytest.skip("this build of torch has no FBGEMM")
    before = torch.backends.quantized.engine, list(warnings.filters)
    torch.set_num_threads(2)
    for _ in range(5):
        hold_weights(sharp(GPTConfig(**SHAPE | {"n_layers": 8})), "int8", SplitInt8Linear)
    assert (torch.backends.quantized.engine, list(warnings.filters)) == before


def test_fp32_in_another_way_still_learns() -> None:
    model, other = held("fp32", OneDnnLinear)
    ids = torch.arange(8)[None]
    for each in (model, other):
        each(ids, targets=ids).backward()
    assert list(model.state_dict()) == list(other.state_dict())
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad)  # type: ignore[arg-type]


def test_an_unknown_way_to_hold_weights_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        check_weights("bf61")
    assert "bf16" in caught.value.faults[0].hint


class Slow(Quantized):
    """A way that is never the fastest."""

    def __init__(self, linear: nn.Linear) -> None:
        rounded = Quantized.of(linear)
        super().__init__(rounded.weight, rounded.scale, rounded.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(200):
            x = x + torch.randn_like(x)
        return x


class Missing(nn.Module):
    """A way whose kernel this build of torch has not."""

    def __init__(self, linear: nn.Linear) -> None:
        raise RuntimeError("no such operator")


def test_the_fastest_way_is_measured_once_and_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kernel_choice, "cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setattr(kernel_choice, "_SMALL", 1000)
    monkeypatch.setattr(kernel_choice, "_READ", 1000)
    monkeypatch.setitem(WAYS, "int8", (Slow, Missing, Int8Linear))
    layer = nn.Linear(32, 32)
    assert fastest_way("int8", layer, 2) is Int8Linear
    monkeypatch.setattr(kernel_choice, "_measured", lambda *_: pytest.fail("measured again"))
    assert fastest_way("int8", layer, 2) is Int8Linear
    monkeypatch.setattr(kernel_choice, "_SMALL", 10**9)
    assert fastest_way("int8", layer, 2) is Slow, "small models take the first"


def test_a_cache_that_can_not_be_written_costs_the_memory_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr(kernel_choice, "cache_dir", lambda: tmp_path / "file")
    monkeypatch.setattr(kernel_choice, "_SMALL", 1000)
    monkeypatch.setattr(kernel_choice, "_READ", 1000)
    assert fastest_way("fp32", nn.Linear(32, 32), 2) in WAYS["fp32"]
