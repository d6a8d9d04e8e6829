"""The store's reference: the codecs against values known by hand, laws, and their definitions."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.reference import bitdelta, consensus, emr, magnitude, sparse, tall
from tests.reference.dtype import narrow, widen
from tests.reference.masks import unpack_bits
from tests.reference.select import keep
from tests.reference.task_arithmetic import task_arithmetic
from tests.reference.ties import ties_model
from tests.support import strategies

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

NAN, INF = np.nan, np.inf
BF16 = np.dtype(ml_dtypes.bfloat16)
LAMBDAS = (0.0, 0.4, 1.0, 6.0)

FEWER = settings(max_examples=50)
"""For whole models, which are slow to draw and hold several tensors each."""


def f32(*values: float) -> Floats:
    return np.array(values, np.float32)


def assert_same_bits(actual: Array, expected: Array) -> None:
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    assert actual.tobytes() == expected.tobytes()


def assert_same_model(actual: tall.Model, expected: tall.Model) -> None:
    assert list(actual) == list(expected)
    for name in expected:
        assert_same_bits(actual[name], expected[name])


def is_set(masks: tall.Masks, name: str, n: int) -> list[bool]:
    """The first `n` bits of one mask; the padding after them is clear."""
    assert masks[name].size == (n + 7) // 8
    assert not unpack_bits(masks[name], 8 * masks[name].size)[n:].any()
    return [bool(bit) for bit in unpack_bits(masks[name], n)]


def trained(models: strategies.Models) -> tuple[list[str], list[tall.Vector]]:
    """The trained names of a model drawn by hypothesis, and the task vectors."""
    names = tall.trained_names(models.base, models.experts)
    return names, tall.vectors(models.base, models.experts, names)


# What takes part.


def test_frozen_tensors_are_those_whose_bytes_never_change() -> None:
    nan = np.array([0x7FC00001], np.uint32).view(np.float32)
    base = {"z": f32(1), "a": f32(1), "zero": f32(0), "nan": nan, "step": np.array(1), "B": f32(1)}
    same: tall.Model = {name: tensor.copy() for name, tensor in base.items()}
    other = {**same, "z": f32(2), "zero": f32(-0.0), "step": np.array(2), "B": f32(3)}
    assert tall.trained_names(base, [same, other]) == ["B", "z", "zero"]
    assert tall.trained_names(base, [same, other], integers=True) == ["B", "step", "z", "zero"]
    assert tall.trained_names(base, [same]) == []


def test_the_same_values_or_bytes_in_another_dtype_are_trained() -> None:
    halves = f32(1).astype(np.float16)
    assert tall.trained_names({"w": f32(1)}, [{"w": halves}]) == ["w"]
    assert tall.trained_names({"w": halves}, [{"w": halves.view(BF16)}]) == ["w"]


def test_frozen_tensors_do_not_count_as_parameters() -> None:
    base = {"frozen": np.ones(8, np.float32), "w": np.zeros(8, np.float32)}
    expert = {"frozen": base["frozen"], "w": np.arange(1, 9, dtype=np.float32)}
    marked = {}
    for names in (tall.trained_names(base, [expert]), ["frozen", "w"]):
        (masks,) = magnitude.masks(tall.vectors(base, [expert], names), 0.25)
        marked[len(names)] = sum(is_set(masks, "w", 8))
    assert marked == {1: 3, 2: 5}


def test_a_store_without_trained_tensors_is_the_base() -> None:
    base = {"w": f32(-0.0, NAN), "step": np.array([3])}
    tasks = tall.vectors(base, [base, base], [])
    shared = tall.shared_vector(tasks)
    masks = tall.masks(tasks, shared)
    assert [tall.unpack(base, shared, bits)["w"].tobytes() for bits in masks] == (
        [base["w"].tobytes()] * 2
    )
    assert emr.scales(tasks, emr.unified_vector(tasks)) == [1, 1]
    assert magnitude.masks(tasks) == sparse.pack_exact(base, [base, base]) == [{}, {}]


@FEWER
@given(strategies.models(), st.sampled_from(["ta", "ties"]), st.sampled_from(LAMBDAS))
def test_unpack_copies_what_is_frozen(models: strategies.Models, shared: str, lam: float) -> None:
    base = {**models.base, "frozen": f32(NAN, -0.0), "steps": np.array([1, 2])}
    experts = [{**expert, "frozen": base["frozen"]} for expert in models.experts]
    names = tall.trained_names(base, experts)
    assert "frozen" not in names
    tasks = tall.vectors(base, experts, names)
    merged = tall.shared_vector(tasks, shared)
    for masks in tall.masks(tasks, merged, lam):
        out = tall.unpack(base, tall.stored(merged, base), masks)
        assert list(out) == list(base)
        for name, tensor in base.items():
            assert out[name].dtype == tensor.dtype
            assert out[name].shape == tensor.shape
            assert out[name] is not tensor
            if name not in names:
                assert_same_bits(out[name], tensor)


# TALL.


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


# EMR.


def test_emr_elects_the_negative_sign_when_a_sum_is_zero() -> None:
    tasks: list[tall.Vector] = [{"w": f32(1, 2, 0, 3, 5, NAN)}, {"w": f32(-1, 1, -0.0, 5, -2, 1)}]
    unified = emr.unified_vector(tasks)
    assert unified["w"][:5].tolist() == [-1, 2, 0, 5, 5]
    assert not np.signbit(unified["w"][2])
    assert np.isnan(unified["w"][5])
    (first, second) = emr.masks(tasks, unified)
    assert is_set(first, "w", 6) == [False, True, False, True, True, False]
    assert is_set(second, "w", 6) == [True, True, False, True, False, False]


def test_emr_rescales_by_means_or_by_the_whole() -> None:
    """In the code b weighs as much as the 200 elements of w, in the paper as one of them."""
    tasks: list[tall.Vector] = [
        {"b": f32(4), "w": np.tile(f32(1, -1, 2, 0.5), 50)},
        {"b": f32(1), "w": np.tile(f32(2, 1, -1, 0.5), 50)},
    ]
    unified = emr.unified_vector(tasks)
    code, paper = emr.scales(tasks, unified), emr.scales(tasks, unified, "paper")
    assert [round(scale, 4) for scale in code] == [0.9535, 0.4595]
    assert [round(scale, 4) for scale in paper] == [0.8208, 1.7519]
    assert code == [float(np.float32(5.125 / 5.375)), float(np.float32(2.125 / 4.625))]
    assert paper == [float(np.float32(229 / 279)), float(np.float32(226 / 129))]


@pytest.mark.parametrize("rescale", ["code", "paper"])
def test_emr_of_a_task_without_a_bit_is_the_base(rescale: str) -> None:
    """Its x is zero, or outvoted everywhere; the scale then multiplies nothing."""
    base = {"w": f32(1, 2)}
    tasks = tall.vectors(base, [{"w": f32(4, 5)}, base, {"w": f32(0, 1)}], ["w"])
    unified = emr.unified_vector(tasks)
    assert emr.scales(tasks, unified, rescale) == [1, 1, 1]
    for masks in emr.masks(tasks, unified)[1:]:
        assert tall.unpack(base, unified, masks)["w"].tolist() == [1, 2]


@FEWER
@given(strategies.models(nonfinite=False), st.sampled_from(["code", "paper"]))
def test_emr_element_by_element(models: strategies.Models, rescale: str) -> None:
    names, tasks = trained(models)
    assume(all(np.isfinite(x[name]).all() for x in tasks for name in names))
    unified = emr.unified_vector(tasks)
    masks = emr.masks(tasks, unified)
    own, marked = [Fraction(0)] * len(tasks), [Fraction(0)] * len(tasks)
    for name in names:
        u = unified[name].ravel()
        share = Fraction(1, u.size if rescale == "code" else 1)
        bits = [is_set(each, name, u.size) for each in masks]
        for i, xs in enumerate(zip(*(x[name].ravel() for x in tasks), strict=True)):
            total = np.float32(0)
            with np.errstate(over="ignore"):
                for x in xs:
                    total = np.float32(total + x)
            assert u[i] == max((x for x in xs if (x > 0) == (total > 0)), key=abs, default=0)
            for t, x in enumerate(xs):
                assert bits[t][i] == (np.sign(x) * np.sign(u[i]) == 1)
                own[t] += share * Fraction(abs(float(x)))
                marked[t] += share * Fraction(abs(float(u[i]))) * bits[t][i]
    with np.errstate(over="ignore"):
        expected = [
            float(np.float32(a / b)) if b else 1.0 for a, b in zip(own, marked, strict=True)
        ]
    # Within one unit: the float64 ratio may lie on the other side of a midpoint of float32.
    assert emr.scales(tasks, unified, rescale) == pytest.approx(expected, rel=2**-23, abs=2**-149)


# Magnitude.


@FEWER
@given(strategies.models(), strategies.densities())
def test_magnitude_marks_the_largest_of_all_trained(
    models: strategies.Models, density: float
) -> None:
    names, tasks = trained(models)
    for x, masks in zip(tasks, magnitude.masks(tasks, density), strict=True):
        whole = np.concatenate([f32(), *(x[name].ravel() for name in names)])
        marked = [bit for name in names for bit in is_set(masks, name, x[name].size)]
        assert marked == keep(whole, density).tolist()


def test_magnitude_unpacks_the_sum_where_the_task_is_largest() -> None:
    base = {"w": f32(1, 1, 1)}
    tasks = tall.vectors(base, [{"w": f32(6, 2, 1)}, {"w": f32(2, 2, 4)}], ["w"])
    shared = tall.shared_vector(tasks)
    assert shared["w"].tolist() == [6, 2, 3]
    (first, second) = magnitude.masks(tasks, 0.0001)
    assert tall.unpack(base, shared, first)["w"].tolist() == [7, 1, 1]
    assert tall.unpack(base, shared, second)["w"].tolist() == [1, 1, 4]


# Sparse.


@FEWER
@given(
    strategies.models(),
    strategies.densities(),
    st.sampled_from(["model", "tensor"]),
    st.sampled_from(["base", "bf16", "f32"]),
)
def test_sparse_adds_the_kept_entries(
    models: strategies.Models, density: float, scope: str, values: str
) -> None:
    names, tasks = trained(models)
    whole = [np.concatenate([f32(), *(x[name].ravel() for name in names)]) for x in tasks]
    packed = sparse.pack(models.base, tasks, density, scope=scope, values=values)
    for t, task in enumerate(packed):
        out = sparse.unpack(models.base, task)
        start = 0
        for name in names:
            base, x = models.base[name], tasks[t][name].ravel()
            if scope == "tensor":
                kept = keep(x, density)
            else:
                kept = keep(whole[t], density)[start : start + x.size]
            start += x.size
            dtype = {"base": base.dtype, "bf16": BF16, "f32": np.dtype(np.float32)}[values]
            assert_same_bits(task[name].values, narrow(x[kept], dtype))
            assert is_set({name: task[name].mask}, name, x.size) == kept.tolist()
            with np.errstate(all="ignore"):
                added = np.where(kept, widen(narrow(x, dtype)), np.float32(0)).reshape(base.shape)
                assert_same_bits(out[name], narrow(widen(base) + added, base.dtype))
        assert all(
            out[name].tobytes() == models.base[name].tobytes() for name in out if name not in names
        )


def float32_rows(max_rows: int = 4) -> st.SearchStrategy[Floats]:
    """Finite matrices [rows, n] with rows of different size, full mantissas, no subnormals."""
    value = st.floats(-1, 1, width=32, allow_subnormal=False)
    row = st.tuples(st.lists(value, min_size=5, max_size=5), st.sampled_from([1e-20, 1.0, 3e7]))
    rows = st.lists(row, min_size=1, max_size=max_rows)
    return rows.map(lambda r: np.array([np.array(v) * size for v, size in r]).astype(np.float32))


@given(float32_rows(), st.lists(st.booleans(), min_size=20, max_size=20))
def test_int8_is_off_by_half_a_scale_at_most(x: Floats, bits: list[bool]) -> None:
    """Half a scale for the rounding to integers, which is all when the quotients are exact.

    The float32 quotient, at most 127 (1 + 2^-23), adds 2^-24 of itself, the product q * scale
    2^-24 of its own: together less than 2^-15 of half a scale.
    """
    kept = np.array(bits[: x.size]).reshape(x.shape)
    entries = sparse.entries(x, kept, "int8", np.float32)
    assert entries.scales is not None
    assert entries.scales.shape == (len(x),)
    assert entries.values.dtype == np.int8
    restored = sparse.dense(entries, x.shape)
    for row in range(len(x)):
        largest = np.abs(x[row][kept[row]]).max(initial=0)
        scale = entries.scales[row]
        assert scale == np.float32(largest / np.float32(127))
        if 0 < scale < np.finfo(np.float32).tiny:
            continue
        bound = Fraction(float(scale)) / 2 * (1 + Fraction(1, 2**15))
        for value, original, stays in zip(restored[row], x[row], kept[row], strict=True):
            assert stays or value == 0
            error = abs(Fraction(float(value)) - Fraction(float(original)))
            assert not stays or error <= bound


@given(st.integers(-100, 100), st.lists(st.integers(-127 * 64, 127 * 64), max_size=40))
def test_int8_is_off_by_half_a_scale_exactly_where_nothing_else_rounds(
    exponent: int, multiples: list[int]
) -> None:
    x = np.ldexp(f32(127 * 64, *multiples), exponent - 6).astype(np.float32)
    entries = sparse.entries(x, np.ones(x.shape, np.bool_), "int8", np.float32)
    assert entries.scales is not None
    assert entries.scales.tolist() == [2.0**exponent]
    assert np.abs(sparse.dense(entries, x.shape) - x).max() <= 2.0 ** (exponent - 1)


def test_int8_scales_each_row_by_what_it_keeps() -> None:
    x = np.array([[127, 1, -63.5, 900], [0, -0.0, 0, 0], [-254, 3, 2, 1]], np.float32)
    kept = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 0, 1]], np.bool_)
    entries = sparse.entries(x, kept, "int8", np.float32)
    assert entries.scales is not None
    assert entries.scales.tolist() == [1, 0, 2]
    assert entries.values.tolist() == [127, 1, -64, 0, 0, -127, 2, 0]
    flat = sparse.entries(x.reshape(-1), kept.reshape(-1), "int8", np.float32)
    assert flat.scales is not None
    assert flat.scales.tolist() == [2]
    scalar = sparse.entries(np.array(127, np.float32), np.array(True), "int8", np.float32)
    assert sparse.dense(scalar, ()).tolist() == 127


def test_int8_clips_what_a_subnormal_scale_overshoots() -> None:
    smallest = 2.0**-149
    x = f32(128 * smallest, -128 * smallest, 63 * smallest)
    entries = sparse.entries(x, np.ones(3, np.bool_), "int8", np.float32)
    assert entries.values.tolist() == [127, -127, 63]
    tiny = sparse.entries(f32(smallest, 0), np.ones(2, np.bool_), "int8", np.float32)
    assert tiny.scales is not None
    assert tiny.scales.tolist() == [0]
    assert tiny.values.tolist() == [0, 0]


@pytest.mark.parametrize("odd", [NAN, INF, -INF])
def test_int8_does_not_hide_what_is_not_finite(odd: float) -> None:
    x = np.array([[odd, 1, 2], [odd, 127, 2]], np.float32)
    kept = np.array([[1, 1, 0], [0, 1, 1]], np.bool_)
    restored = sparse.dense(sparse.entries(x, kept, "int8", np.float32), x.shape)
    assert np.isnan(restored[0]).tolist() == [True, True, False]
    assert restored[0, 2] == 0
    assert restored[1].tolist() == [0, 127, 2]


def with_integers(model: tall.Model) -> dict[str, Array]:
    """The model, and each of its tensors once more as integers of the same bits."""
    integers = {
        f"{name}.integers": tensor.view(f"i{tensor.dtype.itemsize}")
        for name, tensor in model.items()
    }
    return {**model, **integers}


@FEWER
@given(strategies.models())
def test_exact_brings_every_bit_back(models: strategies.Models) -> None:
    base, experts = with_integers(models.base), [with_integers(each) for each in models.experts]
    for expert, task in zip(experts, sparse.pack_exact(base, experts), strict=True):
        assert_same_model(sparse.unpack_exact(base, task), {name: expert[name] for name in base})
        for name, entries in task.items():
            tensor, other = base[name].ravel(), expert[name].ravel()
            differs = [a.tobytes() != b.tobytes() for a, b in zip(tensor, other, strict=True)]
            assert is_set({name: entries.mask}, name, tensor.size) == differs
            assert entries.values.dtype == tensor.dtype
            assert len(entries.values) == sum(differs)


def test_exact_keeps_payloads_signs_and_integers() -> None:
    base = {
        "w": np.array([0x7FC0, 0x0000, 0x3F80, 0x7F81, 0x7F80, 0x3F80], np.uint16).view(BF16),
        "steps": np.array([[2**40, -1]]),
        "flag": np.array(True),
    }
    expert = {
        "w": np.array([0xFFC1, 0x8000, 0x3F80, 0x7F81, 0xFF80, 0x7F82], np.uint16).view(BF16),
        "steps": np.array([[2**40 + 1, -1]]),
        "flag": np.array(False),
    }
    (task,) = sparse.pack_exact(base, [expert])
    assert is_set({"w": task["w"].mask}, "w", 6) == [True, True, False, False, True, True]
    assert task["w"].values.view(np.uint16).tolist() == [0xFFC1, 0x8000, 0xFF80, 0x7F82]
    assert task["steps"].values.tolist() == [2**40 + 1]
    assert_same_model(sparse.unpack_exact(base, task), expert)
    assert base["steps"].tolist() == [[2**40, -1]]


def test_exact_refuses_another_dtype() -> None:
    with pytest.raises(ValueError, match="w: the expert's dtype is float32, expected bfloat16"):
        sparse.pack_exact({"w": f32(1).astype(BF16)}, [{"w": f32(1)}])


# BitDelta.


def test_bitdelta_adds_the_mean_where_nothing_moved() -> None:
    """A zero counts as positive, and so does -0."""
    base = {"w": np.array([[1, 1, 1, 1]], np.float32)}
    (task,) = bitdelta.pack(base, [{"w": np.array([[1, 2, -4, 1]], np.float32)}])
    signs = task["w"]
    assert isinstance(signs, bitdelta.SignBits)
    assert signs.scale == 1.5
    assert is_set({"w": signs.bits}, "w", 4) == [True, True, False, True]
    assert bitdelta.unpack(base, task)["w"].tolist() == [[2.5, 2.5, -0.5, 2.5]]
    assert is_set({"w": bitdelta.sign_bits(f32(-0.0, NAN, -1)).bits}, "w", 3) == [True, True, False]


def test_bitdelta_is_for_matrices_outside_the_dense_names() -> None:
    base: dict[str, Array] = {
        "h.0.proj": np.zeros((2, 3), np.float16),
        "h.0.bias": np.zeros(3, np.float16),
        "h.0.conv": np.zeros((1, 2, 3), np.float16),
        "model.embed_tokens": np.zeros((2, 3), np.float16),
        "steps": np.array([[1]]),
        "frozen": np.ones((2, 2), np.float16),
    }
    expert = {
        name: tensor if name == "frozen" else (tensor + 1 + 2**-12).astype(np.float32)
        for name, tensor in base.items()
    }
    (task,) = bitdelta.pack(base, [{**expert, "steps": np.array([[1]])}])
    assert {name: type(part).__name__ for name, part in task.items()} == {
        "h.0.bias": "ndarray",
        "h.0.conv": "ndarray",
        "h.0.proj": "SignBits",
        "model.embed_tokens": "ndarray",
    }
    out = bitdelta.unpack(base, task)
    for name, tensor in base.items():
        kept = tensor if name in ("steps", "frozen") else expert[name]
        assert_same_bits(out[name], np.ones_like(tensor) if name == "h.0.proj" else kept)
    assert bitdelta.is_binary("lm_head.weight", np.zeros((1, 1)), dense=())
    assert not bitdelta.is_binary("lm_head.weight", np.zeros((1, 1)))


def test_bitdelta_keeps_the_bits_of_dense_tensors() -> None:
    base = {"bias": np.array([1.0, 2.0])}
    expert = {"bias": np.array([0x7FF8_0000_0000_0001, 0x3FF0_0000_0000_0001]).view(np.float64)}
    assert_same_model(bitdelta.unpack(base, bitdelta.pack(base, [expert])[0]), expert)


@given(strategies.groups(np.float16, min_size=1, nonfinite=False))
def test_bitdelta_scale_is_the_mean_magnitude(group: strategies.Group) -> None:
    base = {"w": group.base.reshape(1, -1)}
    tasks = bitdelta.pack(base, [{"w": expert.reshape(1, -1)} for expert in group.experts])
    for task, expert in zip(tasks, group.experts, strict=True):
        if not task:
            continue  # no expert differs from the base
        signs = task["w"]
        assert isinstance(signs, bitdelta.SignBits)
        x = widen(expert) - widen(group.base)
        total = sum(abs(Fraction(float(value))) for value in x)
        assert signs.scale == np.float32(float(total) / x.size)
        out = bitdelta.unpack(base, task)["w"]
        for value, before, moved in zip(out[0], group.base, x, strict=True):
            step = -signs.scale if moved < 0 else signs.scale
            assert_same_bits(value, narrow(np.float32(before) + step, np.float16)[()])


# Consensus.


def test_consensus_needs_k_masks() -> None:
    """Element i is claimed by i of the three tasks, at lambda 0.4: 1 > 0.4 * |m - 1|."""
    base = {"w": f32(-0.0, 1, 1, 1), "frozen": f32(-0.0)}
    deltas = [f32(0, 1, 1, 1), f32(0, 0, 1, 1), f32(0, 0, 0, 1)]
    experts = [{**base, "w": base["w"] + delta} for delta in deltas]
    names = tall.trained_names(base, experts)
    expected = {
        0: [0, 2, 3, 4],
        1: [0, 2, 3, 4],
        2: [0, 1, 3, 4],
        3: [0, 1, 1, 4],
        4: [0, 1, 1, 1],
    }
    for k, values in expected.items():
        out = consensus.consensus_merge(base, experts, names, k=k)
        assert out["w"].tolist() == values
        assert not np.signbit(out["w"][0])
        assert_same_bits(out["frozen"], base["frozen"])
    half = consensus.consensus_merge(base, experts, names, k=2, scale=0.5)
    assert half["w"].tolist() == [0, 1, 2, 2.5]


@FEWER
@given(strategies.models(), strategies.scales(), st.sampled_from(["ta", "ties"]))
def test_consensus_at_its_ends(models: strategies.Models, scale: float, shared: str) -> None:
    names, tasks = trained(models)
    merged = tall.shared_vector(tasks, shared)
    n = len(tasks)

    def merge(k: int) -> dict[str, Array]:
        return consensus.consensus_merge(
            models.base, models.experts, names, shared, k=k, scale=scale
        )

    with np.errstate(all="ignore"):
        everything, nothing = merge(0), merge(n + 1)
        for name, tensor in models.base.items():
            if name not in names:
                assert_same_bits(everything[name], tensor)
                assert_same_bits(nothing[name], tensor)
                continue
            unchanged = widen(tensor) + np.float32(scale) * np.float32(0)
            assert_same_bits(nothing[name], narrow(unchanged, tensor.dtype))
            whole = widen(tensor) + np.float32(scale) * merged[name]
            assert_same_bits(everything[name], narrow(whole, tensor.dtype))
            if shared == "ta":
                experts = [expert[name] for expert in models.experts]
                added = task_arithmetic(tensor, experts, scale=scale)
                assert_same_bits(everything[name], added)


@FEWER
@given(strategies.models(), st.integers(0, 5), st.sampled_from(LAMBDAS))
def test_consensus_counts_masks_element_by_element(
    models: strategies.Models, k: int, lam: float
) -> None:
    names, tasks = trained(models)
    merged = tall.shared_vector(tasks)
    masks = tall.masks(tasks, merged, lam)
    with np.errstate(all="ignore"):
        out = consensus.consensus_merge(models.base, models.experts, names, lambdas=lam, k=k)
        for name in names:
            tensor = models.base[name]
            each = [is_set(bits, name, tensor.size) for bits in masks]
            claimed = np.array([sum(votes) >= k for votes in zip(*each, strict=True)], np.bool_)
            added = np.where(claimed.reshape(tensor.shape), merged[name], np.float32(0))
            assert_same_bits(out[name], narrow(widen(tensor) + added, tensor.dtype))


def test_consensus_from_masks_takes_any_shared_vector() -> None:
    base = {"w": f32(1, 1)}
    masks: list[tall.Masks] = [
        {"w": np.array([0b11], np.uint8)},
        {"w": np.array([0b10], np.uint8)},
    ]
    out = consensus.consensus(base, {"w": f32(2, 3).astype(BF16)}, masks)
    assert out["w"].tolist() == [1, 4]
