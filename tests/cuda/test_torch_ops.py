"""Every operator on CUDA tensors gives the bits that it gives on the processor."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import tallies.torch as functions
from tests.support import strategies
from tests.support.cuda_place import Place, arranged, examples, groups, lengths, masks

EQUAL = st.sampled_from(["keep", "first"])
ZERO = st.sampled_from(["majority", "positive", "negative", "drop"])


@examples
@given(groups(), st.data())
def test_kth_magnitude(place: Place, group: tuple[Tensor, list[Tensor]], data: Any) -> None:
    x = group[1][0]
    if x.numel():
        place.check("kth_magnitude", x, data.draw(st.integers(1, x.numel())))


@examples
@given(groups(), strategies.densities(), EQUAL)
def test_trim(place: Place, group: tuple[Tensor, list[Tensor]], density: float, equal: str) -> None:
    for x in group[1]:
        place.check("trim", x, density, equal)


@examples
@given(groups(), strategies.densities(), EQUAL, st.data())
def test_ties(
    place: Place,
    group: tuple[Tensor, list[Tensor]],
    density: float,
    equal: str,
    data: st.DataObject,
) -> None:
    base, experts = group
    n = len(experts)
    semantics = data.draw(st.sampled_from(["paper", "paper", "mergekit"]))
    place.check(
        "ties",
        base,
        experts,
        [density, *data.draw(st.lists(strategies.densities(), min_size=n - 1, max_size=n - 1))],
        data.draw(strategies.scales()),
        data.draw(strategies.weights(n)),
        equal if semantics == "paper" else "keep",
        semantics,
    )


@examples
@given(groups(), st.booleans(), st.data())
def test_combine(
    place: Place, group: tuple[Tensor, list[Tensor]], has_base: bool, data: st.DataObject
) -> None:
    base, experts = group
    n = len(experts)
    options = data.draw(strategies.rules(n))
    if isinstance(options.get("density"), (float, int)):
        options["density"] = [options["density"]] * n
    place.check("combine", base if has_base else None, experts, **options)


@examples
@given(groups(), st.floats(0, 3, width=32) | st.sampled_from([0.0, np.inf, np.nan]))
def test_magnitude_mask(place: Place, group: tuple[Tensor, list[Tensor]], threshold: float) -> None:
    place.check("magnitude_mask", group[0], threshold)


@examples
@given(groups(), st.floats(0, 3, width=32))
def test_tall_mask(place: Place, group: tuple[Tensor, list[Tensor]], lam: float) -> None:
    place.check("tall_mask", group[0], group[1][0], lam)


@examples
@given(lengths(), st.integers(1, 9), st.integers(0, 600), st.data())
def test_consensus_mask(place: Place, n: int, n_masks: int, k: int, data: st.DataObject) -> None:
    rows = [data.draw(masks(n)) for _ in range(n_masks)]
    place.check("consensus_mask", rows, n, k % (n_masks + 2) if k < 500 else k)


@examples
@given(lengths(), st.data())
def test_pack_bits_and_back(place: Place, n: int, data: st.DataObject) -> None:
    mask = data.draw(masks(n))
    place.check("unpack_bits", mask, n)
    place.check("pack_bits", data.draw(arranged(functions.unpack_bits(mask, n))))


@examples
@given(groups(), strategies.scales(), st.data())
def test_apply_mask(
    place: Place, group: tuple[Tensor, list[Tensor]], scale: float, data: st.DataObject
) -> None:
    base, experts = group
    place.check("apply_mask", base, experts[0], data.draw(masks(base.numel())), scale)


@examples
@given(groups(mixed=False), st.sampled_from(["sum", "count"]), ZERO, st.data())
def test_elect_signs(
    place: Place, group: tuple[Tensor, list[Tensor]], vote: str, zero: str, data: st.DataObject
) -> None:
    place.check("elect_signs", group[1], data.draw(strategies.weights(len(group[1]))), vote, zero)


@examples
@given(groups(mixed=False), st.sampled_from(["mean", "sum", "max", "weighted_mean"]), st.data())
def test_disjoint_merge(
    place: Place, group: tuple[Tensor, list[Tensor]], blend: str, data: st.DataObject
) -> None:
    rows = group[1]
    signs = torch.from_numpy(
        np.random.default_rng(rows[0].numel()).integers(-1, 2, rows[0].numel(), np.int8)
    )
    place.check("disjoint_merge", rows, signs, data.draw(strategies.weights(len(rows))), blend)


@examples
@given(groups(mixed=False))
def test_gram(place: Place, group: tuple[Tensor, list[Tensor]]) -> None:
    place.check("gram", group[1])


@examples
@given(groups())
def test_block_dots(place: Place, group: tuple[Tensor, list[Tensor]]) -> None:
    place.check("block_dots", *group)
