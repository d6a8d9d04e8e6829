"""Methods that drop entries before the blend, against their references."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallies import merge_state_dicts
from tests.reference.dtype import Array, Floats
from tests.support import strategies
from tests.support.checkpoints import assert_same_tensors
from tests.support.everywhere import on_every_target
from tests.support.staged_cases import NAMES, Case, assert_merges, cases, large
from tests.support.strategies import Models, models


@settings(max_examples=80)
@given(models(), st.data())
def test_in_memory(group: Models, data: st.DataObject) -> None:
    case = data.draw(cases(len(group.experts)))
    found = on_every_target(
        lambda: merge_state_dicts(
            *group,
            method=case.method,
            semantics=case.semantics,
            seed=case.seed,
            nonfinite="propagate",
            **case.own,
            **case.shared,
        )
    )
    expected = case.expected(group)
    for result in found.values():
        assert_same_tensors(result, expected)


@settings(max_examples=30)
@given(group=models(), data=st.data())
def test_on_disk(
    tmp_path_factory: pytest.TempPathFactory, group: Models, data: st.DataObject
) -> None:
    case = data.draw(cases(len(group.experts)))
    assert_merges(tmp_path_factory.mktemp("staged"), group, case, "1KiB", "propagate")


@pytest.mark.parametrize("rescale", ["l1", "none"])
@pytest.mark.parametrize("method", NAMES)
def test_several_tiles(tmp_path: Path, method: str, rescale: str) -> None:
    group = Models(large(0), [large(1), large(2), large(3)])
    semantics = "paper" if rescale == "none" else "mergekit"
    case = Case(
        method, semantics, [0.3] * 3, [0.1] * 3, rescale, "row", True, 0.7, [1.0, 0.5, 2.0], 4
    )
    assert_merges(tmp_path, group, case, "1MiB")


@pytest.mark.parametrize("trim", [0.05, 0.5])
def test_a_trim_of_what_was_drawn_in_several_tiles(tmp_path: Path, trim: float) -> None:
    group = Models(large(0), [large(1), large(2), large(3)])
    case = Case(
        *("dare_ties", "paper", [0.7, 0.3, 0.9], [0.0] * 3, "probability", "row"),
        *(True, 0.7, None, 4, trim),
    )
    assert_merges(tmp_path, group, case, "1MiB")


def test_a_trim_of_what_was_drawn_of_a_tensor_that_is_read_whole(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    rows = [{"x": rng.standard_normal(30_011).astype(np.float32)} for _ in range(4)]
    group = Models(rows[0], rows[1:])
    case = Case(
        *("dare_ties", "paper", [0.7, 0.3, 0.9], [0.0] * 3, "probability", "row"),
        *(True, 0.7, None, 4, 0.2),
    )
    assert_merges(tmp_path, group, case, "1MiB")


def short(x: Array) -> Floats:
    """Round towards zero to 8 significant bits, as many differences of bfloat16 models have."""
    return (np.asarray(x, np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)


ROWS: dict[str, Callable[[np.random.Generator, int], Array]] = {
    "distinct": lambda rng, n: rng.standard_normal(n),
    "short": lambda rng, n: short(rng.standard_normal(n)),
    "a few not short": lambda rng, n: np.where(
        rng.random(n) < 1 / 64, rng.standard_normal(n), short(rng.standard_normal(n))
    ),
    "multiples": lambda rng, n: np.rint(3 * rng.standard_normal(n)) / 512,
    "mostly zeros": lambda rng, n: rng.standard_normal(n) * (rng.random(n) < 1 / 16),
    "equal": lambda rng, n: np.full(n, rng.choice([0, 0.5, 1 / 3, np.inf, np.nan])),
    "subnormal": lambda rng, n: rng.standard_normal(n) * 1e-40,
    "almost equal": lambda rng, n: 1 + 1e-5 * rng.standard_normal(n),
    "two scales": lambda rng, n: rng.standard_normal(n) * rng.choice([1e-30, 1e-30, 1e-30, 1], n),
    "any short": lambda rng, n: short(rng.integers(0, 2**32, n, np.uint32).view(np.float32)),
    "any": lambda rng, n: rng.integers(0, 2**32, n, np.uint32).view(np.float32),
}
ODD_ONES = np.array(
    [0, 0x80000000, 1, 0x80000001, 0x7F7FFFFF, 0x7F800000, 0xFF800000, 0x7F800001, 0xFFC00000],
    np.uint32,
).view(np.float32)


@st.composite
def matrices(draw: st.DrawFn) -> Floats:
    """Rows that have little in common, with a few entries that have nothing in common with them."""
    n = draw(st.sampled_from([1, 2, 17, 31, 32, 33, 300, 511, 512, 513, 1500, 2048, 3001]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kinds = draw(st.lists(st.sampled_from(sorted(ROWS)), min_size=1, max_size=5))
    x = np.stack([ROWS[kind](rng, n).astype(np.float32) for kind in kinds])
    odd = rng.random(x.shape) < draw(st.sampled_from([0, 0.001, 0.03]))
    return np.where(odd, rng.choice(ODD_ONES, x.shape), x)


@settings(max_examples=100)
@given(matrices(), st.sampled_from(["della_linear", "breadcrumbs"]), st.data())
def test_ranks_of_a_row(x: Floats, method: str, data: st.DataObject) -> None:
    if method == "breadcrumbs":
        density, other = data.draw(st.tuples(strategies.densities(), st.floats(0, 1)))
    else:
        density, other = 0.9, 0.09
    case = Case(method, "paper", [density], [other], "none", "row", False, 1.0, None, 0)
    if method == "della_linear":
        case = case._replace(rescale="probability")
    group = Models({"x": np.zeros_like(x)}, [{"x": x}])
    expected = case.expected(group)
    found = on_every_target(
        lambda: merge_state_dicts(
            *group, method=method, seed=0, nonfinite="propagate", **case.own, **case.shared
        )
    )
    for result in found.values():
        assert_same_tensors(result, expected)
