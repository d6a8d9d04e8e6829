"""Singular values, polar factors and inverse roots against plain decompositions."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from tallies.linalg import inverse_root, spectral
from tests.reference import matrices as reference
from tests.support.matrices import Array, assert_near, has_clear_rank, task_matrices


@given(task_matrices(max_experts=1))
def test_the_singular_values_are_those_of_a_plain_decomposition(deltas: Array) -> None:
    x = deltas[0]
    u, s, v = spectral.thin_svd(torch.from_numpy(x))
    expected = reference.svd(x.astype(np.float64))[1]
    assume(has_clear_rank(x))
    assert len(s) == len(expected)
    assert np.allclose(s.numpy(), expected, rtol=1e-9, atol=0)
    assert torch.allclose(u.T @ u, torch.eye(len(s), dtype=u.dtype), atol=1e-8)
    assert torch.allclose(v @ v.T, torch.eye(len(s), dtype=u.dtype), atol=1e-8)
    assert_near(((u * s) @ v).numpy(), x, 2.0**-22)


@pytest.mark.parametrize("smallest", [1e-1, 1e-3, 1e-5, 3e-7])
@pytest.mark.parametrize("shape", [(80, 30), (30, 80), (40, 40)])
def test_small_singular_values_keep_their_accuracy(shape: tuple[int, int], smallest: float) -> None:
    rng = np.random.default_rng(0)
    r = min(shape)
    u, v = (np.linalg.qr(rng.standard_normal((n, r)))[0] for n in shape)
    s = np.geomspace(1, smallest, r)
    factor, total = spectral.polar(torch.from_numpy((u * s) @ v.T))
    found = spectral.thin_svd(torch.from_numpy((u * s) @ v.T))[1]
    assert np.allclose(found.numpy(), s, rtol=1e-7, atol=0)
    assert np.isclose(total, s.sum(), rtol=1e-7, atol=0)
    assert_near(factor.numpy(), u @ v.T, 1e-6)


def test_directions_that_are_rounding_alone_count_as_zero() -> None:
    rng = np.random.default_rng(1)
    x = (rng.standard_normal((50, 4)) @ rng.standard_normal((4, 60))).astype(np.float64)
    factor, total = spectral.polar(torch.from_numpy(x))
    assert np.isclose(total, np.linalg.svd(x, compute_uv=False)[:4].sum(), rtol=1e-9, atol=0)
    assert torch.linalg.matrix_rank(factor) == 4
    factor, total = spectral.polar(torch.zeros(7, 5))
    assert total == 0 and not factor.any()


def with_spectrum(shape: tuple[int, int], s: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(3)
    u, v = (np.linalg.qr(rng.standard_normal((n, len(s))))[0] for n in shape)
    return ((u * s) @ v.T).astype(np.float32)


@pytest.mark.parametrize("unit", [1.0, 1e-18, 1e18])
@pytest.mark.parametrize("largest", [1.0, 3.0, 7.5, 9.0, 1e3])
@pytest.mark.parametrize("shape", [(150, 70), (70, 150), (90, 70)])
def test_the_polar_factor_by_shifted_inverses_or_not(
    shape: tuple[int, int], largest: float, unit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spectral, "_SHIFTED", 1)
    x = with_spectrum(shape, np.geomspace(1, largest, 70) * unit)
    factor, total = spectral.polar(torch.from_numpy(x))
    u, s, v = np.linalg.svd(x.astype(np.float64), full_matrices=False)
    assert_near(factor.numpy(), u @ v, 2.0**-19)
    assert np.isclose(total, s.sum(), rtol=1e-6, atol=0)


@given(st.floats(1e-6, 1e6), st.floats(1, 100))
def test_shifts_and_weights_give_the_inverse_root(low: float, condition: float) -> None:
    found = inverse_root.terms(low, low * condition)
    for x in np.geomspace(low, low * condition, 333):
        assert abs(sum(w / (s + x) for s, w in found) * np.sqrt(x) - 1) < 2.0**-20


@pytest.mark.parametrize("n", [5, 64, 130])
def test_an_inverse_root_is_one_or_is_not_given(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inverse_root, "_SPLIT", 16)
    q = np.linalg.qr(np.random.default_rng(n).standard_normal((n, n)))[0]

    def of(values: npt.NDArray[Any]) -> torch.Tensor | None:
        return inverse_root.inverse_root(torch.from_numpy((q * values) @ q.T))

    for condition in (1.0, 4.0, 60.0):
        values = np.geomspace(1, condition, n)
        root = of(values)
        assert root is not None
        assert_near(root.numpy(), (q / np.sqrt(values)) @ q.T, 2.0**-19)
    assert of(np.geomspace(1, 200, n)) is None
    assert of(np.linspace(-0.01, 1, n)) is None
    assert of(np.zeros(n)) is None


def test_a_direction_that_the_estimate_misses_is_found_by_trying(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inverse_root, "_extremes", lambda g: (0.9, 1.1))
    for smallest in (0.1, 0.01, 1e-4):
        diagonal = torch.ones(300, dtype=torch.float64)
        diagonal[7] = smallest
        assert inverse_root.inverse_root(torch.diag(diagonal)) is None


def test_long_matrices_go_through_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.from_numpy(np.random.default_rng(2).standard_normal((37, 9)))
    whole = spectral.thin_svd(x)
    monkeypatch.setattr(spectral, "_BLOCK", 40)
    monkeypatch.setattr(spectral, "_PANEL", 4)
    for one, other in zip(whole, spectral.thin_svd(x), strict=True):
        assert torch.allclose(one.abs(), other.abs(), atol=1e-12)
