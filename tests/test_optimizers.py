"""Muon, its learning rates and its place beside AdamW."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gptcli import GPT, GPTConfig
from gptcli.model.config import stacked
from gptcli.optim import muon
from gptcli.optim.muon import Matrix, Muon, momentum_at, orthogonalised
from gptcli.optim.optimizers import Optimizers, Rates, make_adamw, make_muon
from gptcli.schedules import learning_rate

MODERN = GPTConfig(
    vocab_size=50, emb_dim=32, context_length=8, n_layers=2, n_heads=4, n_kv_heads=2, positions="rotary", norm="rms",
    mlp="swiglu", bias=False, qk_norm=True, tie_embeddings=False,
)  # fmt: skip
GOOD, BAD = torch.tensor(0.0), torch.tensor(1.0)


def muon_for(model: GPT, rates: Rates = Rates(0.3, 0.01, 0.03), decay: float = 0.0) -> Optimizers:  # noqa: B008
    return make_muon(
        model, rates, stacked(model.config), betas=(0.9, 0.95), weight_decay=decay, fused=True, dtype=torch.float32
    )


def step(model: GPT, optimizers: Optimizers, left_out: Tensor = GOOD, seed: int = 0) -> None:
    ids = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(seed))
    logits = model(ids[:, :-1])
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
    optimizers.step(0, 0.03, left_out)
    optimizers.zero_grad()


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 64, 24), (2, 24, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_orthogonalised_matrix_keeps_its_directions_and_loses_their_sizes(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    results = orthogonalised(matrices, dtype)
    assert (results.shape, results.dtype) == (matrices.shape, torch.float32)
    for matrix, result in zip(matrices, results, strict=True):
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        along = u.T @ result @ v.T  # diagonal, if the directions are the same
        assert (along - along.diagonal().diag()).abs().max() < (1e-4 if dtype == torch.float32 else 0.1)
        assert along.diagonal().min() > (0.4 if shape[1] != shape[2] else 0.0)
        assert along.diagonal().max() < 1.7


def test_a_matrix_of_zeros_stays_one() -> None:
    assert orthogonalised(torch.zeros(1, 4, 6), torch.float32).count_nonzero() == 0


def test_with_the_polynomials_of_torch_an_update_is_that_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    torch_muon = pytest.importorskip("torch.optim", reason="torch before 2.9").Muon
    monkeypatch.setattr(muon, "_POLYNOMIALS", ((3.4445, -4.7750, 2.0315),) * 5)
    monkeypatch.setattr(muon, "_SAFETY", 1.0)
    start = torch.randn(24, 16, generator=torch.Generator().manual_seed(0))
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    our = Muon([Matrix(ours, (24,))], weight_decay=0.1, dtype=torch.bfloat16)
    their = torch_muon([theirs], lr=0.02, weight_decay=0.1, momentum=0.95)
    for seed in range(5):
        gradient = torch.randn(24, 16, generator=torch.Generator().manual_seed(seed))
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        our.param_groups[0]["lr"] = 0.02
        our.step()
        their.step()
    # Theirs scales by sqrt(max(1, out / in)), which is ours where a matrix is as high as it is wide, or higher.
    torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=0)


def test_matrices_that_are_stacked_in_one_weight_are_orthogonalised_one_by_one() -> None:
    parts = [torch.randn(16, 12, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    together = torch.nn.Parameter(torch.zeros(48, 12))
    together.grad = torch.cat([parts[0], 100 * parts[1], parts[2]])  # of one size each, whatever their gradients' sizes
    alone = [torch.nn.Parameter(torch.zeros(16, 12)) for _ in parts]
    for weight, gradient in zip(alone, parts, strict=True):
        weight.grad = gradient
    for optimizer in (
        Muon([Matrix(together, (16, 16, 16))], weight_decay=0.0, dtype=torch.float32),
        Muon([Matrix(weight, (16,)) for weight in alone], weight_decay=0.0, dtype=torch.float32),
    ):
        optimizer.param_groups[0]["lr"] = 1.0
        optimizer.step()
    torch.testing.assert_close(together.detach(), torch.cat([weight.detach() for weight in alone]))


def test_the_momentum_grows_and_then_stays() -> None:
    assert [momentum_at(step) for step in (0, 150, 300, 10_000)] == pytest.approx([0.85, 0.90, 0.95, 0.95])
    optimizers = muon_for(GPT.create(MODERN, 0))
    optimizers.step(150, 0.01, GOOD)
    assert [group["momentum"] for group in optimizers.parts[0].param_groups] == [pytest.approx(0.90)]


def test_how_many_matrices_are_moved_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    together, apart = (GPT.create(MODERN, 0, "zero") for _ in range(2))
    step(together, muon_for(together))
    monkeypatch.setattr(muon, "_VALUES_AT_ONCE", 1)
    step(apart, muon_for(apart))
    for ours, theirs in zip(together.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_muon_has_the_matrices_of_the_blocks_and_adamw_all_else_at_their_rates() -> None:
    model = GPT.create(MODERN, 0, "zero")
    hidden, rest = muon_for(model).parts
    assert sum(len(group["params"]) for group in hidden.param_groups) == 4 * MODERN.n_layers
    scales = {id(p): group["scale"] for group in rest.param_groups for p in group["params"]}
    assert scales[id(model.token_embedding.weight)] == pytest.approx(10)
    assert scales[id(model.head.weight)] == pytest.approx(1 / 3)
    assert scales[id(model.final_norm.weight)] == pytest.approx(1 / 3)
    of_both = [p for part in (hidden, rest) for group in part.param_groups for p in group["params"]]
    assert {id(p) for p in of_both} == {id(p) for p in model.parameters()}
    assert len(of_both) == len(list(model.parameters()))


def test_rates_that_are_all_the_same_leave_adamw_with_two_groups() -> None:
    (optimizer,) = make_adamw(
        GPT.create(MODERN, 0), Rates(1e-3, 1e-3, 1e-3), betas=(0.9, 0.95), weight_decay=0.1, fused=True
    ).parts
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]


def test_an_update_that_is_left_out_changes_nothing() -> None:
    first, second = (GPT.create(MODERN, 0, "zero") for _ in range(2))
    for model, bad in ((first, (GOOD, GOOD)), (second, (GOOD, BAD, BAD, GOOD))):
        optimizers, good = muon_for(model, decay=0.1), 0
        for left_out in bad:
            step(model, optimizers, left_out, seed=good)
            good += left_out is GOOD
    for ours, theirs in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_moments_can_be_put_into_a_new_optimiser_that_then_goes_on_alike() -> None:
    model = GPT.create(MODERN, 0, "zero")
    optimizers = muon_for(model)
    for seed in range(3):
        step(model, optimizers, seed=seed)
    again = GPT.create(MODERN, 1)
    again.load_state_dict(model.state_dict())
    others = muon_for(again)
    others.prepare_moments(optimizers.updates())
    assert others.updates() == 3
    assert others.moments().keys() == optimizers.moments().keys()
    for name, moment in others.moments().items():
        moment.copy_(optimizers.moments()[name])
    for one, both in ((model, optimizers), (again, others)):
        step(one, both, seed=9)
    for ours, theirs in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_stable_schedule_stays_and_then_falls_straight() -> None:
    def lr(done: int) -> float:
        return learning_rate(done, steps=110, warmup=10, max_lr=1.0, min_lr=0.2, schedule="wsd", decay_share=0.4)

    assert [lr(step) for step in (0, 9, 10, 40, 70)] == pytest.approx([0.1, 1.0, 1.0, 1.0, 1.0])
    assert lr(90) == pytest.approx(0.6)
    assert lr(110) == lr(500) == pytest.approx(0.2)


def test_blocks_of_a_zero_network_begin_as_nothing_and_every_token_is_as_likely() -> None:
    model = GPT.create(MODERN, 0, "zero")
    ids = torch.arange(8)[None]
    assert model(ids).count_nonzero() == 0
    after = model.hidden(ids)
    norm = model.token_embedding(ids) / model.token_embedding(ids).pow(2).mean(-1, keepdim=True).sqrt()
    torch.testing.assert_close(after, norm, atol=1e-4, rtol=1e-4)
    assert model.blocks[0].mlp.up.weight.std().item() == pytest.approx(1 / math.sqrt(32), rel=0.05)
