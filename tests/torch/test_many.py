"""Merges of many tensors, and counts of equal magnitudes, have the values of the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tallies.torch as functions
from tallies import InputError
from tests.reference import many, select, ties
from tests.reference.dtype import narrow, widen
from tests.support import strategies
from tests.support.everywhere import assert_same_bits, on_every_target
from tests.support.operators import Array, arranged, array_of, deltas, groups, tensor_of, tensors
from tests.support.strategies import KERNEL_DTYPES, Group

TORCH_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}

RANKED = [
    ("none", "sum"),
    *((vote, f"{blend}_of_agreeing") for vote in ("sum", "count") for blend in ("sum", "mean")),
    ("sum", "weighted_mean_of_agreeing"),
    ("count", "largest_agreeing"),
    ("unweighted_sum", "mean_of_agreeing"),
    ("unweighted_count", "mean_of_agreeing"),
]
ZEROS = ["majority", "positive", "negative", "drop", "majority_or_drop"]


@given(tensors(min_size=1), st.data())
def test_a_rank_has_counts(pair: tuple[Array, Any], data: st.DataObject) -> None:
    x, t = pair
    k = data.draw(st.integers(1, x.size))
    bits = select.magnitude_bits(x)
    kth = np.sort(bits)[-k]
    for value, counts in on_every_target(lambda: functions.kth_magnitude_counted(t, k)).values():
        assert_same_bits(array_of(value), np.asarray(select.kth_magnitude(x, k)))
        assert counts.tolist() == [(bits > kth).sum(), (bits == kth).sum()]


@given(tensors(), strategies.densities(), st.sampled_from(["keep", "first"]))
def test_a_trim_counts_what_it_leaves_out(
    pair: tuple[Array, Any], density: float, equal: str
) -> None:
    x, t = pair
    expected = many.left_out(x, select.keep(x, density, equal))
    for out, left in on_every_target(
        lambda: functions.trim_counted(t, density, equal=equal)
    ).values():
        assert_same_bits(array_of(out), narrow(select.trim(x, density, equal), x.dtype))
        assert left.item() == expected


@given(deltas(), st.data())
def test_masked_mean(pair: tuple[list[Array], Any], data: st.DataObject) -> None:
    rows, x = pair
    weights = data.draw(strategies.weights(len(rows)))
    masks = draw_masks(data, rows)
    expected = narrow(many.masked_mean(np.stack(rows), np.stack(masks), weights), rows[0].dtype)
    for out in on_every_target(
        lambda: functions.masked_mean(x, [tensor_of(mask) for mask in masks], weights)
    ).values():
        assert_same_bits(array_of(out), expected)


def draw_masks(data: st.DataObject, rows: list[Array]) -> list[Array]:
    n = rows[0].size
    raw = data.draw(st.binary(min_size=n * len(rows), max_size=n * len(rows)))
    return list((np.frombuffer(raw, np.uint8) % 2 == 1).reshape(len(rows), *rows[0].shape))


@given(st.lists(groups(), min_size=1, max_size=3), st.data())
def test_many(of_tensors: list[Group], data: st.DataObject) -> None:
    experts = [one.experts for one in of_tensors]
    gate = data.draw(st.sampled_from(["density", "masks", "all"]))
    has_base = data.draw(st.booleans())
    rules = RANKED if gate == "density" else [*RANKED, ("none", "mean")]
    vote, blend = data.draw(st.sampled_from(rules))
    dtype = data.draw(st.sampled_from([None, *KERNEL_DTYPES]))
    options: dict[str, Any] = {
        "vote": vote,
        "blend": blend,
        "scale": data.draw(strategies.scales()),
        "zero": data.draw(st.sampled_from(ZEROS)),
        "equal": data.draw(st.sampled_from(["keep", "first"])),
        "deltas": gate != "density" and data.draw(st.booleans()),
    }
    if options["equal"] == "first":
        options["at_least_one"] = data.draw(st.booleans())
    each: list[dict[str, Any]] = []
    for rows in experts:
        own: dict[str, Any] = {"weights": data.draw(strategies.weights(len(rows)))}
        if gate == "density":
            share = strategies.densities()
            own["density"] = data.draw(st.lists(share, min_size=len(rows), max_size=len(rows)))
        if gate == "masks":
            own["masks"] = draw_masks(data, rows)
        if blend == "mean":
            own["divisor"] = data.draw(st.sampled_from([1.0, -0.3]))
        each.append(own)
    bases = [one.base for one in of_tensors] if has_base else [None] * len(experts)
    with np.errstate(all="ignore"):
        expected = [
            many.merge_one(base, rows, dtype=dtype, **options, **own)
            for base, rows, own in zip(bases, experts, each, strict=True)
        ]
    given_bases = [data.draw(arranged(one.base)) for one in of_tensors] if has_base else None
    given_rows = [[data.draw(arranged(x)) for x in rows] for rows in experts]
    lists: dict[str, Any] = {
        "weights": [
            own["weights"] or [1.0] * len(own_rows)
            for own, own_rows in zip(each, experts, strict=True)
        ],
    }
    if gate == "density":
        lists["density"] = [own["density"] for own in each]
    if gate == "masks":
        lists["masks"] = [[tensor_of(mask) for mask in own["masks"]] for own in each]
    if blend == "mean":
        lists["divisors"] = [own["divisor"] for own in each]
    for merged in on_every_target(
        lambda: functions.combine_many(
            given_bases,
            given_rows,
            dtype=None if dtype is None else TORCH_DTYPES[dtype.name],
            threads=data.draw(st.sampled_from([None, 1, 3])),
            **options,
            **lists,
        )
    ).values():
        for t, (out, n_left_out, overflow) in enumerate(expected):
            assert_same_bits(array_of(merged.tensors[t]), out)
            assert merged.left_out[t].item() == n_left_out
            assert merged.overflow[t].item() == overflow


@given(groups(), strategies.scales(), st.data())
def test_ties_of_every_semantics(group: Group, scale: float, data: st.DataObject) -> None:
    n = len(group.experts)
    one = strategies.densities()
    density = data.draw(st.lists(one, min_size=n, max_size=n))
    semantics = data.draw(st.sampled_from(["paper", "mergekit", "peft"]))
    of_host: dict[str, Any] = {}
    options: dict[str, Any] = {"semantics": semantics}
    if semantics == "peft":
        options["vote"] = data.draw(st.sampled_from(["sum", "count"]))
        of_host["majority_sign_method"] = {"sum": "total", "count": "frequency"}[options["vote"]]
    else:
        of_host["normalize"] = options["normalize"] = data.draw(st.booleans())
    weights = data.draw(strategies.weights(n))
    dtype = data.draw(st.sampled_from([None, *KERNEL_DTYPES]))
    expected = ties.ties(
        group.base, group.experts, density, weights, scale, out_dtype=dtype, **options
    )
    for out in on_every_target(
        lambda: functions.ties(
            tensor_of(group.base),
            [tensor_of(x) for x in group.experts],
            density=density,
            weights=weights,
            scale=scale,
            semantics=semantics,
            dtype=None if dtype is None else TORCH_DTYPES[dtype.name],
            **of_host,
        )
    ).values():
        assert_same_bits(array_of(out), expected)


@pytest.mark.parametrize("func", ["mean", "sum", "max"])
def test_fusionbench_keeps_the_largest_at_density_zero(func: str) -> None:
    experts = [torch.tensor([2.0, -2, 1, 0]), torch.tensor([-2.0, 0, 2, 0])]
    out = functions.ties(
        torch.zeros(4), experts, density=0, semantics="fusionbench", merge_func=func
    )
    # The vote of the first element is zero, as the majority is.
    assert out.tolist() == [0.0 if func == "max" else -2.0, -2.0, 2.0, 0.0]


@given(groups(), st.data())
def test_task_vectors(group: Group, data: st.DataObject) -> None:
    n = len(group.experts)
    consensus = data.draw(st.sampled_from([None, "sum", "count"]))
    normalize = data.draw(st.booleans())
    options: dict[str, Any] = {"scale": data.draw(strategies.scales())}
    if consensus is not None or not normalize:
        one = strategies.densities()
        options["density"] = data.draw(st.none() | st.lists(one, min_size=n, max_size=n))
    weights = data.draw(strategies.weights(n))
    vote, blend = consensus or "none", "sum" if consensus is None else "sum_of_agreeing"
    if normalize:
        blend = "mean" if consensus is None else "weighted_mean_of_agreeing"
    sum_of_weights = float(torch.tensor([1.0] * n if weights is None else weights).sum())
    expected = many.merge_one(
        group.base,
        group.experts,
        vote=vote,
        blend=blend,
        weights=weights,
        divisor=1.0 if abs(sum_of_weights) < 1e-8 else sum_of_weights,
        at_least_one=True,
        **options,
    )
    for merged in on_every_target(
        lambda: functions.merge_task_vectors(
            tensor_of(group.base),
            [tensor_of(x) for x in group.experts],
            weights=weights,
            consensus=consensus,
            normalize=normalize,
            **options,
        )
    ).values():
        assert_same_bits(array_of(merged.tensor), expected[0])
        assert tuple(merged)[1:] == expected[1:]


@pytest.mark.parametrize("n", [2049, 65_537, 200_003])
@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["spread", "equal", "sparse", "ascending"])
def test_ranks_of_large_tensors(n: int, dtype: np.dtype[Any], kind: str) -> None:
    rng = np.random.default_rng(n)
    x = {
        "spread": lambda: rng.standard_normal(n),
        "equal": lambda: rng.integers(-9, 10, n) / 4,
        "sparse": lambda: rng.standard_normal(n) * (rng.random(n) < 0.01),
        "ascending": lambda: (np.arange(n) / n) ** 2,
    }[kind]().astype(dtype)
    bits = np.sort(select.magnitude_bits(x))
    t = tensor_of(x)
    for k in (1, 2, n // 100, n // 5, n // 2, n - 1, n):
        value, counts = functions.kth_magnitude_counted(t, k)
        assert_same_bits(array_of(value), np.asarray(bits[-k].view(np.float32)))
        assert counts.tolist() == [(bits > bits[-k]).sum(), (bits == bits[-k]).sum()]
    base = (x + widen(rng.standard_normal(n).astype(np.float16))).astype(np.float16)
    expected = many.merge_one(
        base, [x, x[::-1]], vote="none", blend="sum", density=[0.3, 0.7], scale=0.7
    )
    merged = functions.combine_many(
        [tensor_of(base)], [[t, t.flip(0)]], density=[0.3, 0.7], scale=0.7
    )
    assert_same_bits(array_of(merged.tensors[0]), expected[0])
    assert merged.left_out[0].item() == expected[1]


@pytest.mark.parametrize("zero", ["majority", "positive"])
def test_threads_change_no_bit(zero: str) -> None:
    # Enough work for several threads: large tensors by cells, small ones beside each other.
    rng = np.random.default_rng(1)
    rows = [(rng.integers(-40, 41, (3, n)) / 16).astype(np.float32) for n in (600_001, 70_000, 5)]
    rows += [abs(one) for one in rows]
    options: dict[str, Any] = {"vote": "sum", "blend": "mean_of_agreeing", "zero": zero}
    expected = [many.merge_one(None, list(one), density=[0.3] * 3, **options) for one in rows]
    for threads in (1, 2, 5):
        merged = functions.combine_many(
            None, [tensor_of(one) for one in rows], density=0.3, threads=threads, **options
        )
        for found, (out, *_) in zip(merged.tensors, expected, strict=True):
            assert_same_bits(array_of(found), out)
        assert merged.left_out.tolist() == [n for _, n, _ in expected]


X = torch.ones(4)
BAD = [
    (lambda: functions.combine_many([X, X], [[X]]), "bases: found 2 values, expected one for each"),
    (lambda: functions.combine_many(None, []), "experts: found 0 tensors"),
    (lambda: functions.combine_many(None, [[X, X[:3]]]), r"experts\[1\]: found shape"),
    (lambda: functions.combine_many(None, [[X]], vote="sum"), "vote and blend: found 'sum sum'"),
    (lambda: functions.combine_many(None, [[X]], weights=[1.0, 2]), "weights: found 2 values"),
    (
        lambda: functions.combine_many(None, [[X]], density=0.5, masks=[[X > 0]]),
        "density: found one beside masks",
    ),
    (lambda: functions.combine_many(None, [[X]], masks=[[X]]), r"masks\[0\]: found dtype float32"),
    (lambda: functions.combine_many(None, [[X]], dtype=torch.int8), "dtype: found int8"),
    (lambda: functions.combine(X, [X], gate="given"), "masks: found none"),
    (lambda: functions.combine(X, [X], vote="unweighted_sum"), "density: found none"),
    (lambda: functions.merge_task_vectors(X, [X], consensus="most"), "consensus 'most'"),
    (
        lambda: functions.ties(X, [X], density=0.5, semantics="peft", normalize=False),
        "normalize: found False, and ties in peft semantics has none",
    ),
    (
        lambda: functions.ties(X, [X], density=0.5, merge_func="max"),
        "merge_func: found 'max', and ties in paper semantics has none",
    ),
    (lambda: functions.masked_mean([X], [X[:3] > 0]), r"masks\[0\]: found shape"),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_refused(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        call()
