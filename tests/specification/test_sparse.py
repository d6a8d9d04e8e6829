"""Sparse task vectors in a float type or in int8 with scales, and exact ones."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reference import sparse, tall
from tests.reference.dtype import narrow, widen
from tests.reference.select import keep
from tests.support import strategies
from tests.support.bits import INF, NAN, Array, assert_same_bits, f32
from tests.support.task_masks import BF16, FEWER, Floats, assert_same_model, is_set, trained


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
