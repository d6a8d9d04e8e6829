"""Merges in memory against the reference, and models that tell variants of methods apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallies import InputError, merge_state_dicts
from tests.reference.dtype import promoted
from tests.reference.linear import linear
from tests.reference.task_arithmetic import task_arithmetic
from tests.reference.ties import ties_model
from tests.support import strategies
from tests.support.everywhere import on_every_target
from tests.support.state_dicts import Array, Dict, assert_same, f32, mixed_models, snapshot, threads
from tests.support.strategies import DTYPES, Models


def assert_merges_everywhere(
    expected: Mapping[str, Array], base: Dict | None, experts: Sequence[Dict], **options: Any
) -> None:
    inputs = [*([base] if base is not None else []), *experts]
    before = snapshot(*inputs)
    for merged in on_every_target(
        lambda: merge_state_dicts(base, experts, nonfinite="propagate", **options)
    ).values():
        assert_same(merged, expected)
    assert snapshot(*inputs) == before


# Against the reference.


@given(mixed_models(), strategies.scales(), threads(), st.data())
def test_ties(models: Models, scale: float, n_threads: int | None, data: st.DataObject) -> None:
    n = len(models.experts)
    weights = data.draw(strategies.weights(n))
    one = strategies.densities()
    density = data.draw(one | st.lists(one, min_size=n, max_size=n))
    options = data.draw(
        st.fixed_dictionaries({"semantics": st.just("mergekit"), "normalize": st.booleans()})
        | st.fixed_dictionaries(
            {
                "scope": st.sampled_from(["model", "tensor"]),
                "equal": st.sampled_from(["keep", "first"]),
            }
        )
    )
    expected = ties_model(models.base, models.experts, density, weights, scale, **options)
    assert_merges_everywhere(
        expected,
        models.base,
        models.experts,
        method="ties",
        density=density,
        weights=weights,
        scale=scale,
        threads=n_threads,
        **options,
    )


def weights_cancel(weights: list[float] | None) -> bool:
    """Tell whether the sum of the weights is too small to divide by."""
    given_ = weights or [1.0]
    return abs(math.fsum(given_)) <= 1e-6 * math.fsum(map(abs, given_))


@given(mixed_models(), strategies.scales(), st.booleans(), threads(), st.data())
def test_task_arithmetic(
    models: Models, scale: float, normalize: bool, n_threads: int | None, data: st.DataObject
) -> None:
    weights = data.draw(strategies.weights(len(models.experts)))
    options: dict[str, Any] = {"weights": weights, "scale": scale, "normalize": normalize}
    options["threads"] = n_threads
    if normalize and weights_cancel(weights) and models.base:
        with pytest.raises(InputError, match="sum to zero"):
            merge_state_dicts(models.base, models.experts, method="task_arithmetic", **options)
        return
    semantics = data.draw(st.sampled_from(["paper", "mergekit"]))
    every = [models.base, *models.experts]
    expected = {
        name: task_arithmetic(
            tensor,
            [x[name] for x in models.experts],
            weights,
            scale,
            normalize=normalize,
            out_dtype=promoted(x[name] for x in every) if semantics == "mergekit" else None,
        )
        for name, tensor in models.base.items()
    }
    assert_merges_everywhere(
        expected,
        models.base,
        models.experts,
        method="task_arithmetic",
        semantics=semantics,
        **options,
    )


@given(mixed_models(), st.booleans(), threads(), st.data())
def test_linear(
    models: Models, normalize: bool, n_threads: int | None, data: st.DataObject
) -> None:
    every = [models.base, *models.experts]
    weights = data.draw(strategies.weights(len(every)))
    options: dict[str, Any] = {"weights": weights, "normalize": normalize, "threads": n_threads}
    if normalize and weights_cancel(weights) and models.base:
        with pytest.raises(InputError, match="sum to zero"):
            merge_state_dicts(None, every, method="linear", **options)
        return
    expected = {name: linear([x[name] for x in every], weights, normalize) for name in models.base}
    assert_merges_everywhere(expected, None, every, method="linear", **options)


@given(mixed_models(), strategies.scales(), strategies.densities())
def test_every_result_that_is_not_finite_is_refused_and_no_other(
    models: Models, scale: float, density: float
) -> None:
    # With mergekit's semantics a zero vote is settled at once, so that this is exact.
    options: dict[str, Any] = {"scale": scale, "density": density, "semantics": "mergekit"}
    free = merge_state_dicts(models.base, models.experts, nonfinite="propagate", **options)
    with np.errstate(invalid="ignore"):
        finite = all(np.isfinite(tensor.astype(np.float32)).all() for tensor in free.values())
    if finite:
        assert_same(merge_state_dicts(models.base, models.experts, **options), free)
    else:
        with pytest.raises(InputError, match=r"NaN or infinite|overflow"):
            merge_state_dicts(models.base, models.experts, **options)
        with pytest.warns(UserWarning, match=r"NaN or infinite|overflow"):
            warned = merge_state_dicts(models.base, models.experts, nonfinite="warn", **options)
        assert_same(warned, free)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_merges_with_itself_and_the_others(dtype: np.dtype[Any]) -> None:
    x = (np.arange(5000) % 41 - 20).astype(np.float32) / 16
    base = {"w": x.astype(dtype)}
    for other in DTYPES:
        experts = [{"w": (x * 2).astype(other)}, {"w": (1 - x).astype(other)}]
        expected = ties_model(base, experts, 0.4)
        assert_merges_everywhere(expected, base, experts, density=0.4)


# Models that tell the variants of the published methods apart.


def merge_columns(*ys: float, **options: Any) -> float:
    """TIES of one parameter that is 0 in the base, nothing trimmed."""
    experts = [{"w": f32(y)} for y in ys]
    return float(merge_state_dicts({"w": f32(0)}, experts, density=1.0, **options)["w"][0])


def test_a_fifth_of_ten_is_three_or_two() -> None:
    base, expert = {"w": np.zeros(10, np.float32)}, {"w": np.arange(1, 11, dtype=np.float32) / 10}
    for options, kept in (({}, 3), ({"equal": "first"}, 2), ({"semantics": "mergekit"}, 2)):
        merged = merge_state_dicts(base, [expert], density=0.2, **options)  # type: ignore[arg-type]
        assert np.count_nonzero(merged["w"]) == kept


def test_entries_equal_to_the_threshold_all_stay_or_the_first_ones_do() -> None:
    base, expert = {"w": np.zeros(10, np.float32)}, {"w": f32(2, 1, -2, 1, 2, 1, -2, 1, 2, 1)}
    for options, kept in (
        ({}, [0, 2, 4, 6, 8]),
        ({"equal": "first"}, [0, 2, 4]),
        ({"semantics": "mergekit"}, [0, 2, 4]),
    ):
        merged = merge_state_dicts(base, [expert], density=0.3, **options)  # type: ignore[arg-type]
        assert np.flatnonzero(merged["w"]).tolist() == kept


def test_density_is_a_share_never_a_percentage() -> None:
    base, expert = {"w": np.zeros(4, np.float32)}, {"w": f32(1, 2, 3, 4)}
    assert merge_state_dicts(base, [expert], density=1)["w"].tolist() == [1, 2, 3, 4]
    assert merge_state_dicts(base, [expert], density=0)["w"].tolist() == [0, 0, 0, 0]
    with pytest.raises(InputError, match="density: found 20, expected a finite number from 0 to 1"):
        merge_state_dicts(base, [expert], density=20)


def test_cancellation_takes_the_sign_of_the_majority() -> None:
    base = {"w": np.zeros(4, np.float32)}
    experts = [{"w": f32(1, -3, -3, -3)}, {"w": f32(-1, -3, -3, -3)}]
    assert merge_state_dicts(base, experts, density=1.0)["w"].tolist() == [-1, -3, -3, -3]
    flipped = [{"w": -x["w"]} for x in experts]
    assert merge_state_dicts(base, flipped, density=1.0)["w"].tolist() == [1, 3, 3, 3]
    merged = merge_state_dicts(base, experts, semantics="mergekit")
    assert merged["w"].tolist() == [1, -3, -3, -3]


def test_the_majority_may_come_from_a_later_tensor_or_be_the_tensors_own() -> None:
    base = {"a": np.zeros(1, np.float32), "b": np.zeros(100_000, np.float32)}
    ones = np.ones(100_000, np.float32)
    experts = [{"a": f32(1), "b": ones}, {"a": f32(-1), "b": ones}]
    for n_threads in (1, 4):
        merged = merge_state_dicts(base, experts, density=1.0, threads=n_threads)
        assert merged["a"].tolist() == [1]
    assert merge_state_dicts(base, experts, density=1.0, scope="tensor")["a"].tolist() == [-1]


@pytest.mark.parametrize("scope", ["model", "tensor"])
def test_cancellations_guessed_wrong_in_many_stretches_are_settled(scope: str) -> None:
    rng = np.random.default_rng(7)
    base, experts = {}, [{}, {}]  # type: ignore[var-annotated]
    # The first tensors lean to negative, the last and largest one to positive.
    for name, n, positive in (("a", 300_000, 0.4), ("b", 70_001, 0.5), ("c", 500_000, 0.7)):
        signs = np.where(rng.random((2, n)) < positive, np.float32(1), np.float32(-1))
        base[name] = np.zeros(n, np.float32)
        for expert, row in zip(experts, signs, strict=True):
            expert[name] = row
    expected = ties_model(base, experts, 1.0, scope=scope)
    for n_threads in (1, 4):
        assert_merges_everywhere(
            expected, base, experts, density=1.0, scope=scope, threads=n_threads
        )


def test_cancellation_without_a_majority_is_negative() -> None:
    assert merge_columns(1, -1) == -1
    assert merge_columns(1, -1, semantics="mergekit") == 1


def test_weights_multiply_and_only_mergekit_divides_by_them() -> None:
    assert merge_columns(1, 3) == 2
    assert merge_columns(1, 3, normalize=False) == 4
    assert merge_columns(1, 3, weights=[1, 3]) == 5
    assert merge_columns(1, 3, weights=[1, 3], semantics="mergekit") == 2.5
    assert merge_columns(1, 3, weights=[1, 3], semantics="mergekit", normalize=False) == 10


def test_weights_take_part_in_the_election() -> None:
    assert merge_columns(2, -1.5) == 2
    assert merge_columns(2, -1.5, weights=[1, 2]) == -3
    assert merge_columns(2, -1.5, weights=[1, 2], semantics="mergekit") == -1.5


def test_scope_model_wipes_the_small_tensor_and_scope_tensor_halves_both() -> None:
    base = {"a": np.zeros(100, np.float32), "b": np.zeros(100, np.float32)}
    large = np.arange(200, 300, dtype=np.float32)
    expert = {"a": large, "b": np.arange(1, 101, dtype=np.float32) / 128}

    def survivors(**options: Any) -> list[int]:
        merged = merge_state_dicts(base, [expert], density=0.5, **options)
        return [int(np.count_nonzero(merged[name])) for name in ("a", "b")]

    assert survivors() == [100, 1]
    assert survivors(equal="first") == [100, 0]
    assert survivors(scope="tensor") == [51, 51]
    assert survivors(scope="tensor", equal="first") == [50, 50]
    assert survivors(semantics="mergekit") == [50, 50]
