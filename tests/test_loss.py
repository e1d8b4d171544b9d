"""The loss that never holds the logits whole is the one that torch computes from them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gptcli.model.loss import IGNORED, SoftmaxGradient, linear_cross_entropy, rows_at_once

N, C, V = 37, 24, 101


def example(seed: int, ignored: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(N, C, generator=generator, requires_grad=True)
    weight = (torch.randn(V, C, generator=generator) * 0.5).requires_grad_()
    targets = torch.randint(V, (N,), generator=generator)
    targets[:ignored] = IGNORED
    return hidden, weight, targets


def both(hidden: Tensor, weight: Tensor, targets: Tensor, rows: int) -> list[tuple[Tensor, ...]]:
    """Loss and gradients by torch from the logits, and by chunks."""
    results = []
    for loss in (
        lambda h, w: F.cross_entropy(h @ w.T, targets),
        lambda h, w: linear_cross_entropy(h, w, targets, SoftmaxGradient(), rows),
    ):
        value = loss(hidden, weight)
        results.append((value.detach(), *torch.autograd.grad(value * 3.0, (hidden, weight))))
    return results


@pytest.mark.parametrize("rows", [1, 8, 37, 64])
@pytest.mark.parametrize("ignored", [0, 11])
def test_loss_and_gradients_are_those_of_torch_however_the_rows_are_cut(rows: int, ignored: int) -> None:
    theirs, ours = both(*example(1, ignored), rows)
    for expected, got in zip(theirs, ours, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_a_target_too_improbable_for_fp32_has_a_finite_loss() -> None:
    weight = torch.zeros(V, C, requires_grad=True)
    hidden = torch.zeros(1, C, requires_grad=True)
    with torch.no_grad():
        hidden[0, 0], weight[0, 0], weight[1, 0] = 1.0, 300.0, -300.0
    loss = linear_cross_entropy(hidden, weight, torch.tensor([1]), SoftmaxGradient())
    assert loss.item() == pytest.approx(600.0)


def test_in_bf16_it_is_as_exact_as_torch_from_bf16_logits() -> None:
    hidden, weight, targets = example(2)
    exact = both(hidden, weight, targets, 8)[0]
    with torch.autocast("cpu", torch.bfloat16):
        theirs, ours = both(hidden, weight, targets, 8)
    for expected, a, b in zip(exact, theirs, ours, strict=True):
        assert b.dtype == torch.float32
        assert (b - expected).norm() <= 1.2 * (a.float() - expected).norm() + 1e-3 * expected.norm()


def test_without_gradients_only_the_loss_is_computed() -> None:
    hidden, weight, targets = example(3)
    with torch.no_grad():
        loss = linear_cross_entropy(hidden, weight, targets, SoftmaxGradient(), 8)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, F.cross_entropy(hidden @ weight.T, targets).detach())


def test_no_more_logits_are_held_than_a_chunk() -> None:
    sizes: list[int] = []
    memories: set[tuple[int, int]] = set()

    class Watched(SoftmaxGradient):
        def forward(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            sizes.append(logits.shape[0])
            memories.add((logits.untyped_storage().data_ptr(), logits.untyped_storage().nbytes()))
            return super().forward(logits, targets)

    hidden, weight, targets = example(4)
    linear_cross_entropy(hidden, weight, targets, Watched(), 8).backward()
    assert sizes == [8, 8, 8, 8, 5]
    assert [size for _, size in memories] == [8 * V * 4]  # one memory for all of them


def test_rows_at_once_follow_from_the_vocabulary() -> None:
    assert rows_at_once(50_304, "cpu") == 512
    assert rows_at_once(200_064, "cpu") == 256  # never so few that products become slow
    assert rows_at_once(128, "cpu") > 100_000  # small vocabularies go in one piece
