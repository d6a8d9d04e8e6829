"""The functions on tensors have the values of the reference."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import tallies.torch as functions
from tallies import kernels
from tallies.torch.numbered import NUMBERS
from tests.reference import blend, combine, elect, select, ties
from tests.reference import masks as reference
from tests.reference.dtype import narrow
from tests.support import strategies
from tests.support.everywhere import assert_same_bits
from tests.support.operators import (
    BLENDS,
    CELL,
    VOTES,
    ZEROS,
    Array,
    arranged,
    array_of,
    assert_everywhere,
    deltas,
    groups,
    tensor_of,
    tensors,
)
from tests.support.strategies import KERNEL_DTYPES, Group


@given(tensors(min_size=1), st.data())
def test_kth_magnitude(pair: tuple[Array, Tensor], data: st.DataObject) -> None:
    x, t = pair
    k = data.draw(st.integers(1, x.size))
    assert_everywhere(
        lambda: functions.kth_magnitude(t, k),
        select.kth_magnitude(x, k),
        kernels.kth_magnitude(x, k),
    )


@given(tensors(), strategies.densities(), st.sampled_from(["keep", "first"]))
def test_trim(pair: tuple[Array, Tensor], density: float, equal: str) -> None:
    x, t = pair
    assert_everywhere(
        lambda: functions.trim(t, density, equal=equal),
        narrow(select.trim(x, density, equal), x.dtype),
        kernels.trim(x, density, equal=equal),
    )


@given(tensors(), st.data())
def test_magnitude_mask(pair: tuple[Array, Tensor], data: st.DataObject) -> None:
    x, t = pair
    own = [float(abs(value)) for value in x[:8].astype(np.float32)]
    edges: list[Any] = [0.0, -0.0, np.inf, np.nan, np.float32(np.nan), 1e-45, 1e300]
    threshold = data.draw(st.sampled_from([*own, *edges]) | st.floats(0, width=32))
    with np.errstate(over="ignore"):
        expected = reference.magnitude_mask(x, np.float32(threshold))
    assert_everywhere(
        lambda: functions.magnitude_mask(t, threshold),
        expected,
        kernels.magnitude_mask(x, threshold),
    )


@given(tensors(min_size=1), st.data())
def test_a_threshold_may_be_a_tensor(pair: tuple[Array, Tensor], data: st.DataObject) -> None:
    x, t = pair
    k = data.draw(st.integers(1, x.size))
    expected = kernels.magnitude_mask(x, kernels.kth_magnitude(x, k))
    assert_everywhere(lambda: functions.magnitude_mask(t, functions.kth_magnitude(t, k)), expected)


@given(deltas(), st.sampled_from(VOTES), st.sampled_from(ZEROS), st.data())
def test_elect_signs(
    pair: tuple[list[Array], Any], vote: str, zero: str, data: st.DataObject
) -> None:
    rows, x = pair
    weights = data.draw(strategies.weights(len(rows)))
    assert_everywhere(
        lambda: functions.elect_signs(x, weights, vote=vote, zero=zero),
        elect.elect_signs(np.stack(rows), weights, vote, zero),
        kernels.elect_signs(rows, weights, vote=vote, zero=zero),
    )


@given(deltas(), st.sampled_from(BLENDS), st.data())
def test_disjoint_merge(pair: tuple[list[Array], Any], kind: str, data: st.DataObject) -> None:
    rows, x = pair
    weights = data.draw(strategies.weights(len(rows)))
    n = rows[0].size
    raw = np.frombuffer(data.draw(st.binary(min_size=n, max_size=n)), np.int8)
    signs = raw if data.draw(st.booleans()) else raw % 3 - np.int8(1)
    elected = tensor_of(signs)
    assert_everywhere(
        lambda: functions.disjoint_merge(x, elected, weights, blend=kind),
        narrow(blend.disjoint_merge(np.stack(rows), signs, weights, kind), rows[0].dtype),
        kernels.disjoint_merge(rows, signs, weights, blend=kind),
    )


@given(groups(), strategies.scales(), st.data())
def test_ties(group: Group, scale: float, data: st.DataObject) -> None:
    n = len(group.experts)
    weights = data.draw(strategies.weights(n))
    semantics = data.draw(st.sampled_from(["paper", "mergekit"]))
    equal = data.draw(st.sampled_from(["keep", "first"])) if semantics == "paper" else "keep"
    one = strategies.densities()
    density = data.draw(one | st.lists(one, min_size=n, max_size=n))
    threads = data.draw(st.sampled_from([None, 1, 3]))
    casts = data.draw(st.lists(st.sampled_from(KERNEL_DTYPES), min_size=n, max_size=n))
    with np.errstate(all="ignore"):
        experts = [x.astype(dtype) for x, dtype in zip(group.experts, casts, strict=True)]
    base = data.draw(arranged(group.base))
    rows = [data.draw(arranged(x)) for x in experts]
    options: dict[str, Any] = {
        "density": density,
        "scale": scale,
        "weights": weights,
        "equal": equal,
        "semantics": semantics,
        "threads": threads,
    }
    assert_everywhere(
        lambda: functions.ties(base, rows, **options),
        ties.ties(group.base, experts, density, weights, scale, equal=equal, semantics=semantics),
        kernels.ties(group.base, experts, **options),
    )


@pytest.mark.parametrize("words", NUMBERS)
def test_a_number_stands_for_the_words_of_a_merge(words: tuple[str, ...]) -> None:
    base, *experts = torch.randn(4, 300).bfloat16().mul(4).round().unbind(0)
    keys = ("gate", "vote", "blend", "zero", "equal")
    named: dict[str, Any] = dict(zip(keys, words, strict=False))
    function: Any = functions.combine
    if len(words) == 4:
        function, named = functions.ties, dict(zip(("semantics", "equal"), words, strict=False))
    # A list of densities goes by the words.
    by_words = function(base, experts, density=[0.3] * 3, scale=0.7, **named)
    assert_same_bits(
        array_of(function(base, experts, density=0.3, scale=0.7, **named)), array_of(by_words)
    )


@given(groups(), st.booleans(), st.data())
def test_combine(group: Group, has_base: bool, data: st.DataObject) -> None:
    n = len(group.experts)
    options = data.draw(strategies.rules(n))
    casts = data.draw(st.lists(st.sampled_from(KERNEL_DTYPES), min_size=n, max_size=n))
    with np.errstate(all="ignore"):
        experts = [x.astype(dtype) for x, dtype in zip(group.experts, casts, strict=True)]
    rows = [data.draw(arranged(x)) for x in experts]
    origin = data.draw(arranged(group.base)) if has_base else None
    base = group.base if has_base else None
    assert_everywhere(
        lambda: functions.combine(origin, rows, **options),
        combine.combine(base, experts, **options),
    )


@given(groups(max_experts=2), st.floats(0, 3, width=32) | st.sampled_from([0.1, 1e-46, 3e38]))
def test_tall_mask(group: Group, lam: float) -> None:
    x, m = group.experts[0], group.experts[-1].astype(np.float32)
    rows = tensor_of(x), tensor_of(m)
    assert_everywhere(
        lambda: functions.tall_mask(*rows, lam),
        reference.tall_mask(x, m, lam),
        kernels.tall_mask(x, m, lam),
    )


@given(strategies.sizes(max_size=300), st.data())
def test_consensus_mask(n: int, data: st.DataObject) -> None:
    n_masks = data.draw(st.integers(1, 9))
    n_bytes = (n + 7) // 8
    raw = data.draw(st.binary(min_size=n_masks * n_bytes, max_size=n_masks * n_bytes))
    # Bits past the n-th are set as well: they must not come through.
    packed = np.frombuffer(raw, np.uint8).reshape(n_masks, n_bytes)
    k = data.draw(st.integers(0, n_masks + 1))
    stacked = tensor_of(packed)
    masks = stacked if data.draw(st.booleans()) else [row[:] for row in stacked]
    assert_everywhere(
        lambda: functions.consensus_mask(masks, n, k),
        reference.consensus_mask(list(packed), n, k),
        kernels.consensus_mask(packed, n, k),
    )


@given(strategies.sizes(max_size=300), st.data())
def test_pack_bits_and_back(n: int, data: st.DataObject) -> None:
    mask = np.frombuffer(data.draw(st.binary(min_size=n, max_size=n)), np.uint8) % 2 == 1
    packed = functions.pack_bits(data.draw(arranged(mask)))
    assert_same_bits(array_of(packed), reference.pack_bits(mask))
    assert_same_bits(array_of(functions.unpack_bits(packed, n)), mask)


@given(groups(max_experts=1), strategies.scales(), st.data())
def test_apply_mask(group: Group, scale: float, data: st.DataObject) -> None:
    shared = group.experts[0].astype(np.float32)
    n_bytes = (group.base.size + 7) // 8
    packed = np.frombuffer(data.draw(st.binary(min_size=n_bytes, max_size=n_bytes)), np.uint8)
    given_ = data.draw(arranged(group.base)), data.draw(arranged(shared)), tensor_of(packed)
    assert_everywhere(
        lambda: functions.apply_mask(*given_, scale),
        reference.apply_mask(group.base, shared, packed, scale),
        kernels.apply_mask(group.base, shared, packed, scale),
    )


@given(deltas())
def test_gram(pair: tuple[list[Array], Any]) -> None:
    rows, x = pair
    assert_everywhere(lambda: functions.gram(x), kernels.gram(rows))


@given(deltas())
def test_block_dots_are_those_of_gram(pair: tuple[list[Array], Any]) -> None:
    rows, x = pair
    expected = kernels.gram(rows)[0]
    assert_everywhere(lambda: functions.block_dots(x[0], x), expected)


@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
def test_inner_products_add_the_cells_in_order(dtype: np.dtype[Any]) -> None:
    n = 2 * CELL + 3
    rows = np.random.default_rng(0).standard_normal((3, n)).astype(dtype)
    grad = rows[0].astype(np.float32)
    expected = np.zeros(2)
    for first in range(0, n, CELL):
        part = rows[:, first : first + CELL].astype(np.float32)
        expected += kernels.gram(part)[0, 1:]
    deltas = [tensor_of(row) for row in rows[1:]]
    assert_everywhere(lambda: functions.block_dots(tensor_of(grad), deltas), expected)
    products = functions.gram([tensor_of(row) for row in rows])
    assert_same_bits(array_of(products)[0, 1:], expected)
    assert_same_bits(array_of(products), kernels.gram(rows))
    wide = rows.astype(np.float64)
    for found, delta in zip(expected, wide[1:], strict=True):
        bound = (n / CELL + 290) * 2**-53 * math.fsum(abs(wide[0] * delta))
        assert abs(found - math.fsum(wide[0] * delta)) <= bound


@pytest.mark.parametrize("n", [2047, 2048, 2049, 70_001])
@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
def test_tensors_of_all_sizes(n: int, dtype: np.dtype[Any]) -> None:
    rng = np.random.default_rng(n)
    # Sixteenths: full of equal magnitudes, of zeros and of votes that cancel.
    base, *rows = (rng.integers(-40, 41, (4, n)) / 16).astype(dtype)
    rows[1] = rows[1].astype(KERNEL_DTYPES[n % 3])
    tensors = [tensor_of(row) for row in rows]
    same_type, one_type = [rows[0], rows[2]], [tensors[0], tensors[2]]
    assert_everywhere(
        lambda: functions.kth_magnitude(tensors[0], n // 3), kernels.kth_magnitude(rows[0], n // 3)
    )
    mask = rng.integers(0, 256, (n + 7) // 8, np.uint8)
    assert_everywhere(
        lambda: functions.apply_mask(tensors[0], tensors[1], tensor_of(mask), 0.3),
        kernels.apply_mask(rows[0], rows[1], mask, 0.3),
    )
    assert_everywhere(
        lambda: functions.tall_mask(tensors[0], tensors[1], 0.4),
        kernels.tall_mask(rows[0], rows[1], 0.4),
    )
    assert_everywhere(
        lambda: functions.magnitude_mask(tensors[0], 0.5), kernels.magnitude_mask(rows[0], 0.5)
    )
    assert_everywhere(lambda: functions.elect_signs(one_type), kernels.elect_signs(same_type))
    assert_everywhere(lambda: functions.gram(one_type), kernels.gram(same_type))
    bits = rows[0] > 0
    assert_same_bits(array_of(functions.pack_bits(tensor_of(bits))), kernels.pack_bits(bits))
    for density in (0.2, 0.98, 1.0):
        for equal in ("keep", "first"):
            assert_everywhere(
                lambda density=density, equal=equal: functions.trim(
                    tensors[0], density, equal=equal
                ),
                kernels.trim(rows[0], density, equal=equal),
            )
            options: dict[str, Any] = {"density": density, "equal": equal, "scale": 0.7}
            for vote in ("sum", "count"):
                assert_everywhere(
                    lambda vote=vote, options=options: functions.combine(
                        tensor_of(base), tensors, vote=vote, **options
                    ),
                    kernels.combine(base, rows, vote=vote, **options),
                )
            # One sign for most elements, so that the majority is not the one guessed.
            for sign in (1, -1):
                one_sided = [sign * abs(row) for row in same_type] + [-sign * abs(same_type[0])]
                given_ = [tensor_of(row) for row in one_sided]
                assert_everywhere(
                    lambda given_=given_, options=options: functions.combine(
                        None, given_, **options
                    ),
                    kernels.combine(None, one_sided, **options),
                )
