"""TALL's masks and shared vector, and the paper's storage."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reference import emr, magnitude, tall
from tests.reference.dtype import widen
from tests.reference.masks import unpack_bits
from tests.reference.ties import ties_model
from tests.support import strategies
from tests.support.bits import Array, f32
from tests.support.task_masks import BF16, FEWER, LAMBDAS, assert_same_model, is_set, trained


def test_tall_compares_task_vectors_not_weights() -> None:
    """With base 10 the weights would say |10 - 0.1| > 0.4 |1 - 0.1|."""
    base, experts = {"w": f32(10)}, [{"w": f32(10.1)}, {"w": f32(10.9)}]
    tasks = tall.vectors(base, experts, ["w"])
    masks = tall.masks(tasks, tall.shared_vector(tasks))
    assert [is_set(bits, "w", 1) for bits in masks] == [[False], [True]]


@pytest.mark.parametrize("lam", LAMBDAS)
def test_tall_is_strict(lam: float) -> None:
    """x = m = 0 is out and x = m = 1 is in, whatever lambda is."""
    tasks: list[tall.Vector] = [{"w": f32(0, 1, 0)}, {"w": f32(0, 0, 1)}]
    shared = tall.shared_vector(tasks)
    assert shared["w"].tolist() == [0, 1, 1]
    (first, second) = tall.masks(tasks, shared, lam)
    assert is_set(first, "w", 3) == [False, True, False]
    assert is_set(second, "w", 3) == [False, False, True]


def test_each_task_may_have_its_own_lambda() -> None:
    tasks: list[tall.Vector] = [{"w": f32(1)}, {"w": f32(1)}]
    masks = tall.masks(tasks, tall.shared_vector(tasks), [0.5, 1.0])
    assert [is_set(bits, "w", 1) for bits in masks] == [[True], [False]]


def test_masks_come_from_the_sum_before_it_is_rounded() -> None:
    """At lambda 1 and x = 1 the bit says m < 2; in bfloat16 this m is 2."""
    base = {"w": f32(0)}
    tasks = tall.vectors(base, [{"w": f32(1)}, {"w": f32(1 - 2**-10)}], ["w"])
    shared = tall.shared_vector(tasks)
    stored = tall.stored(shared, base, BF16)
    assert widen(stored["w"]).tolist() == [2]
    masks = tall.masks(tasks, shared, 1)
    assert [is_set(bits, "w", 1) for bits in masks] == [[True], [False]]
    assert tall.unpack(base, stored, masks[0])["w"].tolist() == [2]
    assert tall.stored(shared, base)["w"].tolist() == [2 - 2**-10]


def test_shared_ties_sums_what_agrees_over_the_whole_model() -> None:
    tasks: list[tall.Vector] = [
        {"a": f32(8, 1, 5), "b": f32(-9, 0.5)},
        {"a": f32(8, 1, -5), "b": f32(-9, -7)},
    ]
    merged = tall.shared_vector(tasks, "ties", 0.4)
    assert merged["a"].tolist() == [16, 0, 5]
    assert merged["b"].tolist() == [-18, -7]
    assert tall.shared_vector(tasks, "ties", 1)["a"].tolist() == [16, 2, -5]


@FEWER
@given(strategies.models())
def test_shared_ties_of_one_task_is_what_ties_merges(models: strategies.Models) -> None:
    """There the sum of the agreeing entries is their mean."""
    expert = models.experts[0]
    base = {name: np.zeros_like(widen(tensor)) for name, tensor in models.base.items()}
    names = sorted(base, key=str.encode)
    merged = tall.shared_vector(tall.vectors(base, [expert], names), "ties")
    assert_same_model(merged, {name: ties_model(base, [expert], 0.2)[name] for name in names})


@FEWER
@given(strategies.models())
def test_lambda_0_marks_what_moved(models: strategies.Models) -> None:
    names, tasks = trained(models)
    shared = tall.shared_vector(tasks)
    for x, masks in zip(tasks, tall.masks(tasks, shared, 0), strict=True):
        for name in names:
            with np.errstate(all="ignore"):
                finite = np.isfinite(shared[name] - x[name])
            moved = (x[name] != 0) & finite  # 0 * infinity compares with nothing
            assert is_set(masks, name, moved.size) == moved.ravel().tolist()


@FEWER
@given(strategies.models(nonfinite=False), st.sampled_from(["ta", "ties"]))
def test_lambda_1_comes_as_near_as_one_bit_can(models: strategies.Models, shared: str) -> None:
    names, tasks = trained(models)
    merged = tall.shared_vector(tasks, shared)
    for x, masks in zip(tasks, tall.masks(tasks, merged, 1), strict=True):
        for name in names:
            m, size = merged[name], merged[name].size
            with np.errstate(all="ignore"):
                restored = np.where(unpack_bits(masks[name], size).reshape(m.shape), m, 0)
                error = np.abs(restored - x[name])
                best = np.fmin(np.abs(x[name]), np.abs(m - x[name]))
                defined = ~np.isnan(m - x[name])
            assert np.array_equal(error[defined], best[defined])


@st.composite
def near_pairs(draw: st.DrawFn, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """A base and an expert whose difference is exact: each within twice the other, or equal."""
    group = draw(strategies.groups(dtype, 1, 1, min_size=1, nonfinite=False))
    b, e = group.base.astype(np.float64), group.experts[0].astype(np.float64)
    near = (b * e > 0) & (np.abs(b) <= 2 * np.abs(e)) & (np.abs(e) <= 2 * np.abs(b))
    return group.base, np.where(near, group.experts[0], group.base)


@pytest.mark.parametrize("dtype", [np.dtype(np.float32), BF16], ids=str)
@given(st.data())
def test_one_task_comes_back_exactly(dtype: np.dtype[Any], data: st.DataObject) -> None:
    """EMR, TALL at any lambda and magnitude at density 1, when there is nothing to share with."""
    weight, weight_of_expert = data.draw(near_pairs(dtype))
    bias, bias_of_expert = data.draw(near_pairs(dtype))
    base = {"w": weight, "b": bias}
    expert = {"w": weight_of_expert, "b": bias_of_expert}
    names = tall.trained_names(base, [expert])
    tasks = tall.vectors(base, [expert], names)
    unified, total = emr.unified_vector(tasks), tall.shared_vector(tasks)
    moved = [(x != 0).ravel().tolist() for x in tasks[0].values()]
    for masks in (emr.masks(tasks, unified), *(tall.masks(tasks, total, lam) for lam in LAMBDAS)):
        assert [is_set(masks[0], name, base[name].size) for name in names] == moved
    scales = [*emr.scales(tasks, unified), *emr.scales(tasks, unified, "paper")]
    assert scales == [1, 1]
    for shared, masks in (
        (unified, emr.masks(tasks, unified)),
        (total, tall.masks(tasks, total)),
        (total, magnitude.masks(tasks, 1)),
    ):
        assert all(np.array_equal(shared[name], tasks[0][name]) for name in names)
        out = tall.unpack(base, tall.stored(shared, base, np.float32), masks[0])
        assert all(np.array_equal(out[name], expert[name]) for name in base)


@pytest.mark.parametrize(
    ("n_tasks", "experts_gbit", "store_gbit"),
    [(8, 23.31, 7.14), (14, 40.18, 7.67), (20, 57.04, 8.20)],
)
def test_storage_of_the_paper(n_tasks: int, experts_gbit: float, store_gbit: float) -> None:
    """The image tower of CLIP ViT-B/32, in gigabits."""
    n_trained, n_frozen = 87_849_216, 25_599_489
    assert round(tall.bits_of_experts(n_trained, n_frozen, n_tasks) / 1e9, 2) == experts_gbit
    assert round(tall.bits_on_disk(n_trained, n_frozen, n_tasks) / 1e9, 2) == store_gbit


def test_storage_at_another_width() -> None:
    assert tall.bits_on_disk(10, 3, 2, 16) == (16 + 16 + 2) * 10 + 16 * 3
    assert tall.bits_of_experts(10, 3, 2, 16) == 16 * (2 * 10 + 3)
