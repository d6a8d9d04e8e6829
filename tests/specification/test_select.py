"""Selection by magnitude: thresholds, densities, equal magnitudes and NaN."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reference.dtype import narrow, widen
from tests.reference.model import flatten, float_names, split
from tests.reference.select import (
    keep,
    keep_mask,
    kth_magnitude,
    magnitude_bits,
    mergekit_keep,
    paper_threshold,
    trim,
)
from tests.support import strategies
from tests.support.bits import INF, NAN, Array, assert_same_bits, f32


def test_paper_keeps_one_entry_more_than_the_density_says() -> None:
    x = np.arange(1, 11, dtype=np.float32) / 10
    assert keep(x, 0.2).sum() == 3
    assert keep(x, 0.2, "first").sum() == 2
    assert mergekit_keep(x, 0.2).sum() == 2


def test_entries_equal_to_the_threshold_all_stay_or_the_first_ones_do() -> None:
    x = f32(2, 1, -2, 1, 2, 1, -2, 1, 2, 1)
    assert np.flatnonzero(keep(x, 0.3)).tolist() == [0, 2, 4, 6, 8]
    assert np.flatnonzero(keep(x, 0.3, "first")).tolist() == [0, 2, 4]
    assert np.flatnonzero(mergekit_keep(x, 0.3)).tolist() == [0, 2, 4]


def test_density_is_a_share_and_one_keeps_everything() -> None:
    x = f32(0, -0.0, 1e-45, NAN)
    assert paper_threshold(x, 1) is None
    assert keep(x, 1).all()
    assert keep(x, 1, "first").all()
    assert mergekit_keep(x, 1).all()


def test_density_below_one_entry_keeps_the_largest_or_nothing() -> None:
    x = f32(1, -3, 3)
    assert keep(x, 0.1).tolist() == [False, True, True]
    assert keep(x, 0.1, "first").tolist() == [False, False, False]
    assert mergekit_keep(x, 0.1).tolist() == [False, True, False]


def test_threshold_of_zero_loses_nothing() -> None:
    x = f32(0, 0, 0, 0, 0, 0, 0, 0, 4, -0.0)
    assert paper_threshold(x, 0.2) == 0
    assert keep(x, 0.2).all()


def test_every_nan_is_one_magnitude_above_infinity() -> None:
    payloads = np.array([0x7F800001, 0xFFFFFFFF, 0x7FC00000], np.uint32).view(np.float32)
    assert len(set(magnitude_bits(payloads).tolist())) == 1
    assert magnitude_bits(payloads)[0] > magnitude_bits(f32(-INF))[0]
    assert np.isnan(kth_magnitude(f32(-INF, NAN, 3), 1))
    assert kth_magnitude(f32(-INF, NAN, 3), 2) == INF
    assert keep(np.append(payloads, f32(INF)), 0.25).tolist() == [True, True, True, False]


def test_kth_magnitude_refuses_a_rank_outside_the_array() -> None:
    for k in (0, 3):
        with pytest.raises(ValueError, match=f"k is {k}, expected 1 to 2"):
            kth_magnitude(f32(1, 2), k)


def test_model_order_is_that_of_the_names_bytes() -> None:
    model = {"b": f32(4, 5), "a.10": f32(2), "a": f32(1), "a.9": f32(3), "\N{EURO SIGN}": f32(6)}
    assert flatten(model, float_names(model)).tolist() == [1, 2, 3, 4, 5, 6]
    assert keep_mask({"b": f32(1), "a": f32(1)}, 0.5, equal="first") == {"a": [True], "b": [False]}


@given(strategies.arrays())
def test_magnitude_bits_order_like_magnitudes(x: Array) -> None:
    ordered = np.sort(np.abs(x))  # NaN last
    assert np.array_equal(np.sort(magnitude_bits(x)).view(np.float32), ordered, equal_nan=True)


@given(strategies.arrays(min_size=1), st.data())
def test_kth_magnitude_is_the_kth_of_the_sorted_ones(x: Array, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, x.size))
    assert np.array_equal(kth_magnitude(x, k), np.sort(np.abs(x))[::-1][k - 1], equal_nan=True)


@given(strategies.dtypes().flatmap(strategies.arrays), strategies.densities())
def test_trim_follows_the_rule_of_the_paper(x: Array, density: float) -> None:
    magnitudes = [INF if np.isnan(m) else float(m) for m in np.abs(widen(x))]
    k = int(len(magnitudes) * density)
    rank = [(bool(np.isnan(v)), m) for v, m in zip(widen(x), magnitudes, strict=True)]
    if density == 0:
        kept = [False for _ in rank]
    elif k >= len(rank):
        kept = [True for _ in rank]
    else:
        threshold = sorted(rank)[len(rank) - k - 1]
        kept = [r >= threshold for r in rank]
    trimmed = trim(x, density)
    for value, wide, stays in zip(trimmed, widen(x), kept, strict=True):
        assert_same_bits(value, narrow(wide if stays else 0.0, np.float32)[()])


@given(strategies.arrays(), strategies.densities())
def test_trim_first_keeps_exactly_k(x: Array, density: float) -> None:
    kept = keep(x, density, "first")
    k = min(x.size, int(x.size * density))
    order = sorted(range(x.size), key=lambda i: (-int(magnitude_bits(x)[i]), i))
    assert set(np.flatnonzero(kept)) == set(order[:k])
    assert set(np.flatnonzero(keep(x, density))) >= (set(order[:k]) if density > 0 else set())


@given(strategies.models(), strategies.densities(), st.sampled_from(["keep", "first"]))
def test_scope_model_selects_in_the_concatenation(
    models: strategies.Models, density: float, equal: str
) -> None:
    names = sorted(models.base)
    whole = np.concatenate([f32(), *(widen(models.base[name]).ravel() for name in names)])
    chosen = keep_mask(models.base, density, equal=equal)
    in_order = [bit for name in names for bit in chosen[name].ravel()]
    assert in_order == keep(whole, density, equal).tolist()
    assert all(chosen[name].shape == models.base[name].shape for name in names)


@given(strategies.models())
def test_split_undoes_flatten(models: strategies.Models) -> None:
    names = float_names(models.base)
    parts = split(flatten(models.base, names), models.base, names)
    assert parts.keys() == models.base.keys()
    for name, part in parts.items():
        assert_same_bits(part, widen(models.base[name]))
