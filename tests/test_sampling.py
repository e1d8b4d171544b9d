"""From logits to ids."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gptcli.errors import UsageError
from gptcli.inference.sampling import Sampling, choose, row_generator, uniforms


def random_logits(rows: int, vocabulary: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * 3


@given(
    rows=st.integers(1, 4),
    real=st.integers(1, 12),
    padding=st.integers(0, 4),
    temperature=st.sampled_from([0.0, 1e-30, 0.5, 1.0, 50.0]),
    top_k=st.sampled_from([None, 0, 1, 3, 1000]),
    top_p=st.sampled_from([1e-9, 0.5, 1.0]),
    seed=st.integers(0, 2**63 - 1),
)
@settings(max_examples=150, deadline=None)
def test_no_id_outside_the_real_vocabulary_is_chosen(
    rows: int, real: int, padding: int, temperature: float, top_k: int | None, top_p: float, seed: int
) -> None:
    logits = random_logits(rows, real + padding, seed % 1000)
    logits[:, real:] = 1e4
    u = uniforms([row_generator(seed, row) for row in range(rows)])
    ids, logprobs = choose(logits, u, Sampling(temperature, top_k, top_p), real)
    assert ids.shape == logprobs.shape == (rows,)
    assert ((ids >= 0) & (ids < real)).all()


@given(top_k=st.integers(1, 12), seed=st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_each_row_chooses_among_its_own_top_k(top_k: int, seed: int) -> None:
    logits = random_logits(5, 10, seed)
    u = uniforms([row_generator(seed, row) for row in range(5)])
    ids, _ = choose(logits, u, Sampling(1.0, top_k), 10)
    better = (logits > logits.gather(1, ids[:, None])).sum(1)
    assert (better < top_k).all()


def test_top_k_keeps_exactly_k_of_equal_logits() -> None:
    logits = torch.zeros(1, 8).expand(4000, 8)
    ids, _ = choose(logits, torch.linspace(0, 1 - 1e-9, 4000, dtype=torch.float64), Sampling(1.0, 3), 8)
    assert len(ids.unique()) == 3


def test_top_p_chooses_among_the_fewest_tokens_that_hold_the_probability() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().expand(1000, 4)
    u = torch.linspace(0, 1 - 1e-9, 1000, dtype=torch.float64)
    for top_p, expected in ((0.4, {0}), (0.6, {0, 1}), (0.9, {0, 1, 2}), (1.0, {0, 1, 2, 3})):
        ids, _ = choose(logits, u, Sampling(1.0, None, top_p), 4)
        assert set(ids.tolist()) == expected


def test_top_p_counts_within_the_top_k() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().expand(1000, 4)
    u = torch.linspace(0, 1 - 1e-9, 1000, dtype=torch.float64)
    ids, _ = choose(logits, u, Sampling(1.0, 2, 0.6), 4)  # of the two, the first alone holds 0.625
    assert set(ids.tolist()) == {0}


@pytest.mark.parametrize(
    "sampling", [Sampling(1.0, None), Sampling(0.7, None), Sampling(1.3, 4), Sampling(1.0, None, 0.8)]
)
def test_ids_come_as_often_as_their_probability_says(sampling: Sampling) -> None:
    logits = random_logits(1, 6, seed=3)
    n = 50_000
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    ids, _ = choose(logits.expand(n, 6), u, sampling, 6)
    expected = torch.softmax(logits[0].double() / sampling.temperature, 0)
    order = expected.argsort(descending=True)
    keep = order[: sampling.top_k or 6]
    if sampling.top_p < 1:
        keep = order[: int((expected[order].cumsum(0) < sampling.top_p).sum()) + 1]
    kept = torch.zeros(6, dtype=torch.float64).index_fill(0, keep, 1.0) * expected
    frequencies = torch.bincount(ids, minlength=6).double() / n
    torch.testing.assert_close(frequencies, kept / kept.sum(), atol=1e-3, rtol=0)


def test_temperature_zero_takes_the_likeliest() -> None:
    logits = random_logits(4, 9)
    ids, _ = choose(logits, torch.full((4,), 0.999, dtype=torch.float64), Sampling(0.0, 3, 0.5), 9)
    assert ids.tolist() == logits.argmax(1).tolist()


def test_a_tiny_temperature_is_nearly_greedy_and_does_not_overflow() -> None:
    logits = random_logits(4, 9) * 1e4
    ids, _ = choose(logits, torch.full((4,), 0.5, dtype=torch.float64), Sampling(1e-38, None), 9)
    assert ids.tolist() == logits.argmax(1).tolist()


def test_log_probabilities_are_the_models_own() -> None:
    logits = random_logits(3, 9).to(torch.bfloat16)
    ids, logprobs = choose(logits, torch.full((3,), 0.3, dtype=torch.float64), Sampling(0.5, 4, 0.9), 7)
    expected = torch.log_softmax(logits[:, :7].float(), 1).gather(1, ids[:, None])[:, 0]
    assert logprobs.dtype == torch.float32
    torch.testing.assert_close(logprobs, expected)


def test_a_row_draws_the_same_numbers_alone_and_beside_others() -> None:
    together, alone = [row_generator(7, row) for row in range(5)], [row_generator(7, row) for row in range(3, 4)]
    for _ in range(3):
        assert uniforms(together)[3] == uniforms(alone)[0]


def test_rows_and_seeds_draw_different_numbers() -> None:
    drawn = [uniforms([row_generator(seed, row) for row in range(4)]).tolist() for seed in (0, 1, 2, 2**32)]
    assert len({number for row in drawn for number in row}) == 16


def test_all_senseless_values_are_named_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        Sampling(-1.0, -1, 0.0)
    assert len(caught.value.faults) == 3


def test_min_p_drops_what_is_less_likely_than_its_part_of_the_likeliest() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().expand(1000, 4)
    u = torch.linspace(0, 1 - 1e-9, 1000, dtype=torch.float64)
    for min_p, expected in ((0.0, {0, 1, 2, 3}), (0.2, {0, 1, 2}), (0.5, {0, 1}), (1.0, {0})):
        ids, _ = choose(logits, u, Sampling(1.0, None, min_p=min_p), 4)
        assert set(ids.tolist()) == expected


def test_the_repetition_penalty_is_that_of_transformers() -> None:
    from transformers import RepetitionPenaltyLogitsProcessor

    logits, texts = random_logits(3, 12), [[4, 2, 2], [1, 0, 11], [5, 7, 7]]
    expected = RepetitionPenaltyLogitsProcessor(9.0)(torch.tensor(texts), logits.clone()).argmax(1)
    u = torch.zeros(3, dtype=torch.float64)
    ids, logprobs = choose(logits, u, Sampling(0.0, repetition_penalty=9.0), 12, texts)
    assert ids.tolist() == expected.tolist()
    assert not torch.equal(ids, logits.argmax(1)), "the logits were chosen so that the penalty matters"
    torch.testing.assert_close(logprobs, logits.log_softmax(1).gather(1, ids[:, None])[:, 0])


@pytest.mark.parametrize("values", [{"min_p": -0.1}, {"min_p": 1.1}, {"repetition_penalty": 0.0}])
def test_a_value_that_means_nothing_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Sampling(**values)
