"""Methods of two models by element, and the fused sums of mergekit's linear, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tallies
from tallies import merge_state_dicts
from tests.reference.arcee_fusion import arcee_fusion, divergences, taken
from tests.reference.dtype import Array
from tests.reference.fused import linear_fused
from tests.reference.linear import linear
from tests.reference.nearswap import nearswap
from tests.support import strategies
from tests.support.checkpoints import read, write
from tests.support.everywhere import assert_same_bits, on_every_target
from tests.support.methods import f32
from tests.support.strategies import Group, groups


def in_memory(base: Array | None, experts: list[Array], **options: Any) -> Array:
    found = merge_state_dicts(
        None if base is None else {"x": base},
        [{"x": expert} for expert in experts],
        nonfinite="propagate",
        **options,
    )
    return np.asarray(found["x"])


@settings(max_examples=60)
@given(data=st.data(), group=groups(min_size=1), normalize=st.booleans())
def test_mergekits_linear_is_fused_on_every_target(
    data: st.DataObject, group: Group, normalize: bool
) -> None:
    models = list(group.experts)
    weights = data.draw(strategies.weights(len(models))) or [0.3] * len(models)
    if normalize and abs(sum(weights)) < 1e-3:
        weights[0] += 1
    options: dict[str, Any] = {"weights": weights, "normalize": normalize}
    expected = linear_fused(models, weights, normalize)
    for found in on_every_target(
        lambda: in_memory(None, models, method="linear", semantics="mergekit", **options)
    ).values():
        assert_same_bits(found, expected)


def test_fused_sums_round_once() -> None:
    # The sum keeps 2^-46 of (1 + 2^-23)^2, which a product that is rounded before loses.
    near = f32([1 + 2.0**-23])
    options: dict[str, Any] = {"method": "linear", "normalize": False}
    weights = [-1.0, 1 + 2.0**-23]
    models = [near + f32([2.0**-23]), near]
    for found in on_every_target(
        lambda: in_memory(None, models, weights=weights, semantics="mergekit", **options)
    ).values():
        assert found.tolist() == [2.0**-46]
    assert in_memory(None, models, weights=weights, **options).tolist() == [0]
    assert linear(models, weights, normalize=False).tolist() == [0]


@settings(max_examples=60)
@given(group=groups(min_size=1), t=st.floats(-1, 2, width=32))
def test_nearswap_has_the_bits_of_its_reference(group: Group, t: float) -> None:
    first, second = group.base, group.experts[0]
    expected = nearswap([first, second], t)
    for found in on_every_target(
        lambda: in_memory(None, [first, second], method="nearswap", t=t)
    ).values():
        assert_same_bits(found, expected)


def test_nearswap_takes_what_is_near(tmp_path: Path) -> None:
    first, second = f32([0, 0, 1, -4]), f32([0.5, 1, -1, -4])
    recipe: dict[str, Any] = {
        "merge_method": "nearswap",
        "models": [str(write(tmp_path / "second", {"x": second}))],
        "base_model": str(write(tmp_path / "first", {"x": first})),
        "parameters": {"t": 0.5},
    }
    tallies.merge(recipe, tmp_path / "out")
    assert read(tmp_path / "out")["x"].tolist() == [0.5, 0.5, 0.5, -4]
    with pytest.raises(tallies.InputError, match="nearswap merges exactly 2"):
        tallies.plan({**recipe, "base_model": None})
    with pytest.raises(tallies.InputError, match="'t' is missing"):
        tallies.plan({**recipe, "parameters": {}})


SHAPES = [(7, 9), (300, 33), (5, 3000), (40, 1), (1000,), (3, 5, 4), (), (0, 4)]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_arcee_fusion_has_the_bits_of_its_reference(shape: tuple[int, ...], dtype: Any) -> None:
    rng = np.random.default_rng(len(shape))
    base = rng.normal(size=shape).astype(dtype)
    expert = (base + rng.normal(scale=0.1, size=shape)).astype(dtype)
    if len(shape) > 1:
        expert[::3] = base[::3]  # rows without a divergence
    expected = arcee_fusion(base, expert)
    for found in on_every_target(lambda: in_memory(base, [expert], method="arcee_fusion")).values():
        assert_same_bits(found, expected)


def test_arcee_fusion_takes_the_important_entries() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=(64, 64)).astype(np.float32)
    expert = base + rng.normal(scale=0.01, size=base.shape).astype(np.float32)
    expert[3] += rng.normal(size=64).astype(np.float32)
    marked = taken(expert, base)
    assert 0 < marked.sum() < 600 and marked[3].mean() > 0.8
    assert divergences(expert, base)[3] > 100 * np.median(divergences(expert, base))
    same = in_memory(base, [base], method="arcee_fusion")
    assert np.array_equal(same, base)


def test_no_thread_or_budget_changes_a_bit_of_arcee_fusion(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    base = {"a": rng.normal(size=(700, 900)), "b": rng.normal(size=4001), "c": np.ones((0, 3))}
    base = {name: one.astype(np.float32) for name, one in base.items()}
    expert = {
        name: one + rng.normal(scale=0.05, size=one.shape).astype(np.float32)
        for name, one in base.items()
    }
    recipe = {
        "merge_method": "arcee_fusion",
        "models": [str(write(tmp_path / "expert", expert))],
        "base_model": str(write(tmp_path / "base", base)),
    }
    for i, (threads, memory) in enumerate([(1, "1GiB"), (3, "16MiB")]):
        tallies.merge(recipe, tmp_path / f"out{i}", threads=threads, max_memory=memory)
        found = read(tmp_path / f"out{i}")
        for name in base:
            assert_same_bits(found[name], arcee_fusion(base[name], expert[name]))


@pytest.mark.parametrize("has_base", [True, False])
@pytest.mark.parametrize("shape", [(7, 9), (300, 40), (40, 3000), (50,), (40, 3, 5)], ids=str)
def test_nuslerp_of_columns(shape: tuple[int, ...], has_base: bool) -> None:
    rng = np.random.default_rng(2)
    rows = [rng.normal(size=shape).astype(np.float32) for _ in range(3)]
    base = rows[0] if has_base else None
    options: dict[str, Any] = {
        "method": "nuslerp",
        "semantics": "mergekit",
        "weights": [0.3, 0.9],
        "flatten": False,
    }
    found = in_memory(base, rows[1:], nuslerp_row_wise=True, **options)
    turned = [one.T if one.ndim != 1 else one.reshape(1, -1) for one in rows]
    if len(shape) == 3:
        turned = [one.reshape(shape[0], -1).T for one in rows]
    by_rows = in_memory(turned[0] if has_base else None, turned[1:], **options)
    by_rows = by_rows.T.reshape(shape)
    assert np.allclose(found, by_rows, rtol=1e-6, atol=1e-6)
    again = on_every_target(lambda: in_memory(base, rows[1:], nuslerp_row_wise=True, **options))
    for one in again.values():
        assert_same_bits(one, found)
