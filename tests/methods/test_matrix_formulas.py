"""Methods of whole matrices against the plain formulas."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tallies import merge_state_dicts
from tallies.methods.iso_cts import ranks
from tests.reference import matrices as reference
from tests.reference.select import keep
from tests.support.matrices import (
    BOUND,
    Array,
    assert_near,
    has_clear_rank,
    is_cut_clearly,
    merged,
    task_matrices,
)

# The methods against the plain formulas.


@given(task_matrices())
def test_iso_c(deltas: Array) -> None:
    assume(has_clear_rank(reference.float32_sum(deltas)))
    assert_near(merged(deltas, "iso_c"), reference.iso_c(deltas))


@example(np.float32([[[0.125, -0.131], [0.64, 0.105]], [[-0.125, 0.131], [-0.64, -0.105]]]), 0.0)
@given(task_matrices(), st.sampled_from([0.0, 0.5, 0.8, 1.0]))
def test_iso_cts(deltas: Array, fraction: float) -> None:
    r = min(deltas.shape[1:])
    k, d = reference.iso_cts_ranks(r, fraction, len(deltas))
    total = reference.float32_sum(deltas)
    assume(is_cut_clearly(total, k))
    u, s, v = (part[..., :k] if i < 2 else part[:k] for i, part in enumerate(reference.svd(total)))
    parts = []
    for x in deltas.astype(np.float64) if d else []:
        rest = x - u @ (u.T @ x)
        assume(np.linalg.norm(rest) < 1e-12 or is_cut_clearly(rest, d))
        parts.append(reference.svd(rest, reference.EPSILON * float(np.linalg.norm(x))))
    parts.append((u, s, v))
    assume(has_clear_rank(np.concatenate([part[0][:, :r] for part in parts], 1)))
    found = merged(deltas, "iso_cts", common_space_fraction=fraction)
    # Opposite task vectors cancel up to the rounding of float64.
    assert_near(found, reference.iso_cts(deltas, fraction), deltas=deltas)


@given(task_matrices())
def test_tsv_m(deltas: Array) -> None:
    k = min(deltas.shape[1:]) // len(deltas)
    assume(all(is_cut_clearly(x, k) for x in deltas))
    parts = [reference.svd(x.astype(np.float64)) for x in deltas]
    for side in (
        np.concatenate([u[:, :k] for u, _, _ in parts], 1),
        np.concatenate([v[:k] for _, _, v in parts]),
    ):
        assume(has_clear_rank(side))
    assert_near(merged(deltas, "tsv_m"), reference.tsv_m(deltas), deltas=deltas)


@given(task_matrices(), st.sampled_from([0.0, 40.0, 73.0, 100.0]))
def test_star(deltas: Array, eta: float) -> None:
    for x in deltas:
        assume(has_clear_rank(x))
        s = reference.svd(x.astype(np.float64))[1]
        share = np.cumsum(s) / s.sum() if s.size else np.zeros(0)
        assume(eta in (0, 100) or (np.abs(share - eta / 100) > 1e-9).all())
        n = int((share < eta / 100 - 1e-9).sum()) + 1
        assume(eta == 100 or is_cut_clearly(x, n))
    assert_near(merged(deltas, "star", eta=eta), reference.star(deltas, eta), deltas=deltas)


WUDI = {
    "vision": ({"variant": "vision"}, 1, 1e-5),
    "language": ({"variant": "language"}, 2, 2e-5),
    "fusionbench": ({"semantics": "fusionbench"}, 2, 1e-5),
}


@pytest.mark.parametrize("variant", WUDI)
@given(deltas=task_matrices())
def test_wudi(variant: str, deltas: Array) -> None:
    options, power, rate = WUDI[variant]
    found = merged(deltas, "wudi", steps=12, **options)
    expected = reference.wudi(deltas, power, rate, 12)
    # A gradient of rounding alone moves Adam anywhere, but by the rate a step at most.
    slopes = np.abs(reference.wudi_gradient(deltas, expected, power))
    sizes = np.abs(expected) @ sum(np.abs(x.T) @ np.abs(x) for x in deltas.astype(np.float64))
    norms = [np.linalg.norm(x) ** power for x in deltas if x.any()] or [1.0]
    clear = slopes > 1e-3 * (sizes / min(norms) + 1)
    assert (np.abs(found - expected) <= 2.1 * 12 * rate + BOUND * np.abs(expected).max()).all()
    error = np.abs(found - expected)[clear]
    assert (error <= BOUND * np.abs(expected).max() + 0.01 * rate).all()


@given(task_matrices(), st.sampled_from(["vision", "language"]))
def test_the_closed_form_of_wudi_is_where_the_gradient_is_zero(deltas: Array, variant: str) -> None:
    power = WUDI[variant][1]
    found = merged(deltas, "wudi", variant=variant, solver="closed_form")
    xs = [x for x in deltas.astype(np.float64) if x.any()]
    grams = sum(
        (x.T @ x / np.linalg.norm(x) ** power for x in xs), np.zeros((deltas.shape[2],) * 2)
    )
    assume(has_clear_rank(grams))
    assert_near(found, reference.wudi_minimum(deltas, power), deltas=deltas)
    size = max(np.linalg.norm(found), 2.0**-20 * np.linalg.norm(deltas))
    scale = np.linalg.norm(grams) * size
    assert np.linalg.norm(reference.wudi_gradient(deltas, found, power)) <= 1e-6 * scale


def test_the_published_wudi_stops_before_the_minimum() -> None:
    deltas = np.random.default_rng(0).standard_normal((3, 12, 10)).astype(np.float32)
    minimum = reference.wudi_minimum(deltas, 1)
    assert np.linalg.norm(reference.wudi_gradient(deltas, minimum, 1)) < 1e-12
    found = merged(deltas, "wudi")
    assert np.linalg.norm(reference.wudi_gradient(deltas, found, 1)) > 1
    assert_near(found, reference.wudi(deltas, 1, 1e-5, 300))


@given(task_matrices(), st.sampled_from([0.3, 1.0]))
def test_doge(deltas: Array, density: float) -> None:
    r = min(deltas.shape[1:])
    bases = []
    for x in deltas:
        assume(is_cut_clearly(x, r // len(deltas)))
        if x.any():
            bases.append(reference.svd(x.astype(np.float64))[0][:, : r // len(deltas)])
    stacked = np.concatenate(bases, 1) if bases else np.zeros((1, 0))
    assume(not stacked.size or is_cut_clearly(stacked, r // 6))
    kept = np.stack([keep(x, density) for x in deltas]).reshape(deltas.shape)
    found = merged(deltas, "doge", density=density, steps=12)
    expected = reference.doge(deltas, kept, steps=12)
    # The correction's own path is as long as 12 steps; its direction may be rounding alone.
    total = sum(0.07 / np.linalg.norm(x) for x in deltas if x.any())
    assert (np.abs(found - expected) <= 2.1 * 12 * 1e-4 * total + BOUND * 0.07).all()


def test_doge_follows_the_published_path() -> None:
    deltas = np.random.default_rng(1).standard_normal((3, 24, 18)).astype(np.float32) / 8
    kept = np.stack([keep(x, 0.3) for x in deltas]).reshape(deltas.shape)
    found = merged(deltas, "doge")
    assert_near(found, reference.doge(deltas, kept))
    uncorrected = reference.doge(deltas, kept, steps=0)
    assert np.linalg.norm(found - uncorrected) > 0.05 * np.linalg.norm(uncorrected)


def test_doge_ranks_the_matrices_together_and_no_other_tensor() -> None:
    base = {"a": np.zeros((2, 2)), "b": np.zeros((2, 2)), "c": np.zeros(4)}
    base = {name: x.astype(np.float32) for name, x in base.items()}
    expert = {
        "a": np.float32([[1, 2], [3, 4]]),
        "b": np.float32([[5, 6], [7, 8]]),
        "c": np.float32([9, 9, 9, 9]),
    }
    found = merge_state_dicts(base, [expert], method="doge", density=0.5, steps=0)
    # k + 1 = 5 of 8 entries reach the threshold, all but one of them in b.
    assert np.count_nonzero(found["a"]) == 1 and np.count_nonzero(found["b"]) == 4
    assert not found["c"].any()


def test_counts_of_directions() -> None:
    assert ranks(768, 0.8, 8) == (616, 19)
    assert ranks(768, 0.8, 2) == (614, 77)
    # Half to even: 2.5 is 2; and never more than there are.
    assert ranks(10, 0.0, 4) == (2, 2)
    assert ranks(5, 0.0, 8) == (5, 0)
    assert ranks(4, 1.0, 3) == (4, 0)


@pytest.mark.parametrize("shape", [(9, 5), (5, 9), (1, 6), (6, 1), (1, 1)])
def test_tsv_m_gives_one_expert_back(shape: tuple[int, int]) -> None:
    x = np.random.default_rng(3).standard_normal((1, *shape)).astype(np.float32)
    assert_near(merged(x, "tsv_m"), x[0], 2.0**-22)


def test_tsv_m_of_more_experts_than_directions_is_the_base() -> None:
    x = np.random.default_rng(4).standard_normal((4, 3, 8)).astype(np.float32)
    assert not merged(x, "tsv_m").any()
