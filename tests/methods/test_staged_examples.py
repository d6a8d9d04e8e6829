"""Examples, worked by hand, of methods that drop entries before the blend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.reference import dare, random
from tests.reference.elect import elect_signs
from tests.support.staged_cases import seed_with_survivors, staged


def test_rescaling_by_probability_and_by_l1() -> None:
    seed = seed_with_survivors(4, 1, 0.5)
    options: dict[str, Any] = {"density": 0.5, "seed": seed}
    for semantics, survivor in (("paper", 2), ("peft", 2), ("mergekit", 4)):
        found = staged(np.ones(4), "dare_linear", semantics=semantics, **options)
        assert sorted(found) == [0, 0, 0, survivor], semantics
    assert sorted(staged(np.ones(4), "dare_linear", rescale="none", **options)) == [0, 0, 0, 1]


def test_what_agrees_is_averaged_or_summed() -> None:
    assert staged([1], "dare_ties", [3], density=1)[0] == 2
    assert staged([1], "dare_ties", [3], density=1, semantics="mergekit")[0] == 4
    assert staged([1], "dare_ties", [3], density=1, semantics="mergekit", normalize=True)[0] == 2
    assert staged([1], "dare_ties", [3], density=1, semantics="peft")[0] == 2


def test_dare_ties_as_peft_elects_before_the_weights() -> None:
    rng, weights = np.random.default_rng(5), [1.0, 0.5, -2.0]
    rows = rng.integers(-3, 4, (3, 500)).astype(np.float32)
    found = staged(
        rows[0], "dare_ties", *rows[1:], density=0.5, semantics="peft", weights=weights, seed=6
    )
    thinned = np.stack([dare.drop(x, 0.5, random.key(6, e, "x")) for e, x in enumerate(rows)])
    agrees = np.sign(thinned) == elect_signs(thinned, None, "sum", "positive")
    sums = np.where(agrees, thinned * np.array(weights).reshape(-1, 1), 0).sum(axis=0)
    expected = sums / np.maximum(agrees.sum(axis=0), 1)
    assert np.array_equal(found, expected.astype(np.float32))
    kept = staged(rows[0], "dare_ties", *rows[1:], density=1, semantics="peft", weights=weights)
    whole = staged(rows[0], "ties", *rows[1:], density=1, semantics="peft", weights=weights)
    assert np.array_equal(kept, whole)


def test_a_cancelled_vote() -> None:
    one, other = [1, -1, -2], [-1, -1, -2]
    assert staged(one, "dare_ties", other, density=1).tolist() == [-1, -1, -2]
    for method in ("dare_ties", "breadcrumbs_ties", "della"):
        options = {"gamma": 0} if method == "breadcrumbs_ties" else {}
        found = staged(one, method, other, density=1, semantics="mergekit", **options)
        assert found[0] == 1


def test_each_rank_has_its_own_chance_and_factor() -> None:
    options: dict[str, Any] = {"density": 0.5, "epsilon": 0.3}
    kept = np.zeros(3)
    for seed in range(400):
        x = staged([1, 2, 3], "della_linear", seed=seed, **options)
        assert np.isin(x, np.float32([0, 5, 4, 3.75])).all()
        kept += x != 0
        common = staged([1, 2, 3], "della_linear", seed=seed, semantics="mergekit", **options)
        assert common.sum() in (0, 6)
    # Six deviations of 400 draws of chances .2, .5 and .8.
    assert (np.abs(kept / 400 - [0.2, 0.5, 0.8]) < 6 * (0.25 / 400) ** 0.5).all()


@pytest.mark.parametrize("shape", [(), (1,), (4000, 1)])
def test_rows_of_one_entry_stay_with_the_density(shape: tuple[int, ...]) -> None:
    kept = 0.0
    n_seeds = 1 if np.prod(shape) > 1 else 400
    for seed in range(n_seeds):
        x = staged(np.ones(shape), "della_linear", density=0.25, epsilon=0.2, seed=seed)
        assert np.isin(x, [0, 4]).all()
        kept += float((x != 0).mean())
    n = n_seeds * int(np.prod(shape))
    assert abs(kept / n_seeds - 0.25) < 6 * (0.1875 / n) ** 0.5


def test_no_outliers() -> None:
    x = [1, -5, 2, 3, -4, 6, 0, 7, 8, -9]
    for options in ({}, {"scope": "tensor"}, {"semantics": "mergekit"}):
        found = staged(x, "breadcrumbs", density=0.3, gamma=0, **options)
        assert np.flatnonzero(found).tolist() == [7, 8, 9], options


def test_a_tensor_too_small_for_an_outlier_is_not_lost() -> None:
    x = np.arange(1, 51)
    found = staged(x, "breadcrumbs", density=0.5, gamma=0.01, semantics="mergekit")
    assert np.flatnonzero(found).tolist() == list(range(25, 50))


def test_the_scope_of_the_band() -> None:
    x = np.array([[1, 2, 3, 4], [10, 20, 30, 40]])
    options: dict[str, Any] = {"density": 0.5, "gamma": 0.25}
    rows = staged(x, "breadcrumbs", **options)
    assert rows.tolist() == [[0, 2, 3, 0], [0, 20, 30, 0]]
    for more in ({"scope": "tensor"}, {"semantics": "mergekit"}):
        found = staged(x, "breadcrumbs", **options, **more)
        assert found.tolist() == [[0, 0, 3, 4], [10, 20, 0, 0]]


def test_of_equal_magnitudes_the_lowest_index_ranks_first() -> None:
    x = [2, -2, 2, 2, -2, 1, 1, 1, 1, 1]
    for scope in ("row", "tensor"):
        found = staged(x, "breadcrumbs", density=0.5, gamma=0.2, scope=scope)
        assert found.tolist() == [0, 0, 2, 2, -2, 1, 1, 0, 0, 0]


def test_both_ends_of_the_band_in_one_value() -> None:
    for scope in ("row", "tensor"):
        found = staged([3] * 10, "breadcrumbs", density=0.3, gamma=0.2, scope=scope)
        assert np.flatnonzero(found).tolist() == [2, 3, 4]


def test_too_many_for_both_drops() -> None:
    x = np.arange(1, 11)
    options: dict[str, Any] = {"density": 0.9, "gamma": 0.3}
    assert np.flatnonzero(staged(x, "breadcrumbs", **options)).tolist() == list(range(7))
    found = staged(x, "breadcrumbs", semantics="mergekit", **options)
    assert np.flatnonzero(found).tolist() == list(range(9))


def test_the_seed_decides_and_so_does_the_order() -> None:
    x, y = np.ones((2, 1000), np.float32)
    one, same = (staged(x, "dare_linear", y, density=0.5, weights=[1, 10]) for _ in range(2))
    other = staged(x, "dare_linear", y, density=0.5, weights=[1, 10], seed=1)
    turned = staged(x, "dare_linear", y, density=0.5, weights=[10, 1])
    assert np.array_equal(one, same)
    assert (one != other).mean() > 0.5 and (one != turned).mean() > 0.4


def test_mean_of_many_draws_is_the_task_vector() -> None:
    """Both ways of rescaling are unbiased: six deviations of the mean of 400."""
    x = np.float32([1, -2, 3, 4, -5, 6, 7, 8])
    for method, options in (("dare_linear", {}), ("della_linear", {"epsilon": 0.3})):
        draws = [staged(x, method, density=0.5, seed=s, **options) for s in range(400)]
        # The largest deviation is that of a chance of .2: sqrt(.8 / .2).
        bound = 6 * 2 * np.abs(x) / 400**0.5
        assert (np.abs(np.mean(draws, axis=0) - x) < bound).all()
