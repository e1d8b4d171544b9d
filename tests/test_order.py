from __future__ import annotations

import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptcli.data.order import Permutation, n_windows, samples_of, window_of

seeds = st.integers(0, 2**63 - 1)
epochs = st.integers(0, 10**6)


@given(n=st.integers(1, 3000), seed=seeds, epoch=epochs)
def test_a_permutation_takes_every_value_once(n: int, seed: int, epoch: int) -> None:
    values = Permutation(n, seed, epoch).indices(np.arange(n))
    assert np.array_equal(np.sort(values), np.arange(n))


@given(n=st.integers(1, 2**62), seed=seeds, epoch=epochs, data=st.data())
def test_different_positions_of_a_huge_permutation_differ(n: int, seed: int, epoch: int, data: st.DataObject) -> None:
    positions = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20, unique=True))
    values = Permutation(n, seed, epoch).indices(np.array(positions))
    assert len(set(values.tolist())) == len(positions)
    assert values.min() >= 0
    assert values.max() < n


def test_one_index_is_the_same_alone_as_among_others() -> None:
    permutation = Permutation(1000, 7, 3)
    together = permutation.indices(np.arange(1000).reshape(20, 50))
    assert together.shape == (20, 50)
    assert [permutation[i] for i in range(1000)] == together.reshape(-1).tolist()
    with pytest.raises(IndexError):
        permutation[1000]


def test_the_order_stays_what_it_was_so_that_old_runs_can_continue() -> None:
    assert Permutation(10, 1337, 0).indices(np.arange(10)).tolist() == [0, 3, 9, 7, 1, 6, 4, 8, 5, 2]
    assert Permutation(10**12, 1337, 5)[123_456_789] == 175625537228


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = {
        tuple(Permutation(100, seed, epoch).indices(np.arange(100)).tolist())
        for seed in range(20)
        for epoch in range(20)
    }
    assert len(orders) == 400


@pytest.mark.parametrize("n", [3, 5, 16])
def test_every_value_is_about_equally_likely_at_every_position(n: int) -> None:
    draws = 600
    counts = np.zeros((n, n))
    for seed in range(draws):
        counts[np.arange(n), Permutation(n, seed, 0).indices(np.arange(n))] += 1
    freedom = (n - 1) ** 2  # rows and columns have fixed sums
    chi2 = ((counts - draws / n) ** 2 / (draws / n)).sum() * (n - 1) / n
    assert chi2 < freedom + 5 * np.sqrt(2 * freedom)


def test_all_orders_of_three_occur_about_equally() -> None:
    # A Feistel network with narrow halves makes only even permutations: half of these orders would be missing.
    counts = Counter(tuple(Permutation(3, 5, epoch).indices(np.arange(3)).tolist()) for epoch in range(1200))
    assert len(counts) == 6
    assert min(counts.values()) > 140
    assert max(counts.values()) < 260


def test_neighbours_are_not_kept_together() -> None:
    values = Permutation(10_000, 1, 0).indices(np.arange(10_000))
    correlation = np.corrcoef(values[:-1], values[1:])[0, 1]
    assert abs(correlation) < 0.05


def test_a_permutation_of_any_length_takes_the_same_memory() -> None:
    tracemalloc.start()
    Permutation(2**40, 1, 0).indices(np.arange(1000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


@given(n=st.integers(1, 200), seed=seeds)
def test_samples_run_on_from_epoch_to_epoch(n: int, seed: int) -> None:
    windows = window_of(np.arange(3 * n), n, seed)
    for epoch in range(3):
        expected = Permutation(n, seed, epoch).indices(np.arange(n))
        assert np.array_equal(windows[epoch * n : (epoch + 1) * n], expected)
    assert np.array_equal(window_of(np.arange(3 * n)[n // 2 :: 2], n, seed), windows[n // 2 :: 2])


def dealt(draw: st.DrawFn, windows_per_step: int) -> tuple[int, int]:
    """A number of processes and a micro-batch that a step can be dealt out to."""
    world_size = draw(st.sampled_from([k for k in range(1, windows_per_step + 1) if windows_per_step % k == 0]))
    share = windows_per_step // world_size
    return world_size, draw(st.sampled_from([k for k in range(1, share + 1) if share % k == 0]))


@given(n=st.integers(1, 150), windows_per_step=st.integers(1, 60), seed=seeds, data=st.data())
def test_all_processes_together_see_every_window_once_an_epoch_though_their_number_changes(
    n: int, windows_per_step: int, seed: int, data: st.DataObject
) -> None:
    samples: list[np.ndarray] = []
    for step in range(-(-3 * n // windows_per_step)):
        world_size, n_batches = data.draw(st.composite(lambda draw: dealt(draw, windows_per_step))())
        samples += [
            samples_of(step, micro, rank, world_size, n_batches, windows_per_step)
            for micro in range(windows_per_step // (world_size * n_batches))
            for rank in range(world_size)
        ]
        assert sum(part.size for part in samples) == (step + 1) * windows_per_step
    seen = window_of(np.concatenate(samples), n, seed)
    for epoch in range(3):
        assert np.array_equal(np.sort(seen[epoch * n : (epoch + 1) * n]), np.arange(n))
    assert np.array_equal(seen, window_of(np.arange(seen.size), n, seed))


def test_a_step_that_can_not_be_dealt_out_evenly_is_refused() -> None:
    with pytest.raises(AssertionError, match="evenly"):
        samples_of(0, 0, 0, world_size=3, n_batches=2, windows_per_step=8)
    with pytest.raises(AssertionError, match="micro-batch 2"):
        samples_of(0, 2, 0, world_size=2, n_batches=2, windows_per_step=8)
    with pytest.raises(AssertionError, match="process 2 of 2"):
        samples_of(0, 0, 2, world_size=2, n_batches=2, windows_per_step=8)


@given(n_tokens=st.integers(0, 500), length=st.integers(1, 50))
def test_windows_overlap_by_one_token_and_leave_out_less_than_a_window(n_tokens: int, length: int) -> None:
    starts = [start for start in range(0, n_tokens, length) if start + length + 1 <= n_tokens]
    assert n_windows(n_tokens, length) == len(starts)
    assert n_tokens - (n_windows(n_tokens, length) * length + 1) <= length - 1
