"""Randomised singular triplets against plain decompositions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from tallies.linalg.randomised import RowBlocks, randomised_svd, svd_by_energy, uniform
from tests.support.matrices import Array, has_clear_rank, task_matrices


def with_spectrum(shape: tuple[int, int], s: np.ndarray, seed: int = 3) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    u, v = (np.linalg.qr(rng.standard_normal((n, len(s))))[0] for n in shape)
    return torch.from_numpy(((u * s) @ v.T).astype(np.float32))


def error(x: torch.Tensor, u: torch.Tensor, s: torch.Tensor, v: torch.Tensor) -> float:
    return float((x.double() - (u * s) @ v).norm() / x.double().norm())


SPECTRA = {
    "flat": np.ones(120),
    "slow": 1 / np.arange(1, 121) ** 0.5,
    "fast": np.geomspace(1, 1e-6, 120),
    "low and noise": np.r_[np.linspace(2, 1, 16), np.full(104, 0.02)],
}


@pytest.mark.parametrize("shape", [(300, 150), (150, 300), (200, 200)])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_the_error_is_near_the_least_that_the_rank_allows(
    spectrum: str, shape: tuple[int, int]
) -> None:
    s = SPECTRA[spectrum]
    x = with_spectrum(shape, s)
    found = randomised_svd(x, 16)
    least = np.sqrt((s[16:] ** 2).sum() / (s**2).sum())
    assert found.u.shape == (shape[0], 16) and found.v.shape == (16, shape[1])
    assert error(x, found.u, found.s, found.v) <= 1.02 * least + 1e-6
    assert found.error == pytest.approx(error(x, found.u, found.s, found.v), abs=1e-3)
    eye = torch.eye(16, dtype=torch.float64)
    assert torch.allclose(found.u.T @ found.u, eye, atol=1e-6)
    assert torch.allclose(found.v @ found.v.T, eye, atol=1e-6)


@pytest.mark.parametrize("size", [1e-30, 1e-18, 1.0, 1e15, 1e30])
def test_a_matrix_of_low_rank_comes_back_whole(size: float) -> None:
    x = with_spectrum((400, 260), np.geomspace(1, 1e-2, 8) * size)
    found = randomised_svd(x, 32)
    assert error(x, found.u, found.s, found.v) < 2e-6
    assert np.allclose(found.s[:8] / size, np.geomspace(1, 1e-2, 8), rtol=1e-4)


@given(task_matrices(max_experts=1), st.integers(1, 24))
def test_small_matrices_are_decomposed_exactly(deltas: Array, rank: int) -> None:
    x = deltas[0].astype(np.float64)
    assume(has_clear_rank(deltas[0]))
    # Rank and oversampling reach the smaller side: then the decomposition is exact.
    few = max(min(x.shape) - rank, 0)
    found = randomised_svd(torch.from_numpy(deltas[0]), rank, oversampling=few)
    expected = np.linalg.svd(x, compute_uv=False)
    n = len(found.s)
    assert n == min(rank, int((expected > 2.0**-23 * expected[0]).sum()))
    assert np.allclose(found.s, expected[:n], rtol=1e-6, atol=0)
    left, right = found.factors()
    rest = np.sqrt((expected[n:] ** 2).sum())
    assert np.linalg.norm(x - (left @ right).numpy()) <= rest + 1e-6 * np.linalg.norm(x)


@pytest.mark.parametrize("n_rows", [1, 7, 64, 1000])
def test_blocks_of_any_size_give_the_same_triplets(n_rows: int) -> None:
    x = with_spectrum((300, 150), SPECTRA["slow"])

    def read() -> Iterator[tuple[int, torch.Tensor]]:
        for first in range(0, len(x), n_rows):
            yield first, x[first : first + n_rows]

    whole = randomised_svd(x, 8, seed=5)
    found = randomised_svd(RowBlocks((300, 150), read), 8, seed=5)
    assert torch.allclose(found.s, whole.s, rtol=1e-6)
    assert torch.allclose(found.u, whole.u, atol=1e-4)
    assert torch.allclose(found.v, whole.v, atol=1e-4)
    assert found.energy == pytest.approx(whole.energy, rel=1e-12)


def test_a_seed_decides_the_bits_whatever_torch_drew_before() -> None:
    x = with_spectrum((300, 150), SPECTRA["flat"])
    torch.manual_seed(1)
    one = randomised_svd(x, 8, seed=1)
    torch.manual_seed(2)
    again, other = randomised_svd(x, 8, seed=1), randomised_svd(x, 8, seed=2)
    assert torch.equal(one.u, again.u) and torch.equal(one.v, again.v)
    assert not torch.equal(one.v, other.v)


def test_the_largest_entries_of_right_vectors_are_positive() -> None:
    v = randomised_svd(with_spectrum((300, 150), SPECTRA["slow"]), 8).v
    assert (v.gather(1, v.abs().argmax(1, keepdim=True)) > 0).all()


def test_a_matrix_of_zeros_has_no_triplets() -> None:
    for shape in ((5, 4), (300, 150)):
        found = randomised_svd(torch.zeros(*shape), 4)
        assert found.u.shape == (shape[0], 0) and found.v.shape == (0, shape[1])
        assert found.error == 0
        assert not len(svd_by_energy(torch.zeros(*shape), 0.9).s)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_the_fewest_triplets_that_hold_the_energy(spectrum: str, share: float) -> None:
    s = SPECTRA[spectrum]
    x = with_spectrum((300, 150), s)
    found = svd_by_energy(x, share)
    fewest = int((np.cumsum(s**2) < share * (1 - 1e-6) * (s**2).sum()).sum()) + 1
    assert fewest <= len(found.s) <= fewest + 1
    assert error(x, found.u, found.s, found.v) <= np.sqrt(1 - share) + 1e-4


def test_a_bound_on_the_rank_wins_over_the_energy() -> None:
    found = svd_by_energy(with_spectrum((300, 150), SPECTRA["flat"]), 0.9, most=20)
    assert len(found.s) == 20


def test_all_of_the_energy_is_the_whole_rank() -> None:
    x = with_spectrum((300, 150), np.linspace(2, 1, 100))
    found = svd_by_energy(x, 1.0)
    assert error(x, found.u, found.s, found.v) < 2e-6
    assert len(found.s) <= 101


def test_random_numbers_look_uniform_and_hang_on_their_position_alone() -> None:
    numbers = uniform(500, 40, 9)
    assert torch.equal(uniform(500, 7, 9), numbers[:, :7])
    assert torch.equal(uniform(20, 40, 9), numbers[:20])
    assert float(numbers.abs().max()) < 1 and float(numbers.mean()) == pytest.approx(0, abs=0.02)
    assert float(numbers.var()) == pytest.approx(1 / 3, abs=0.01)
    correlations = torch.corrcoef(numbers.T) - torch.eye(40)
    assert float(correlations.abs().max()) < 0.25
    # The numbers of a seed are a specification: another release must draw the same.
    first = [[-10664869, -11379949], [10271053, -15664339]]
    assert (numbers[:2, :2] * 2**24).tolist() == first
