"""Merges in memory: edge cases, copied and tied tensors, layouts of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from tallies import InputError, merge_state_dicts
from tests.support.state_dicts import Array, Dict, assert_same, f32, snapshot

# Edge cases.


def test_a_density_below_one_entry_keeps_the_largest_or_nothing() -> None:
    base, expert = {"w": np.zeros(3, np.float32)}, {"w": f32(1, -3, 3)}
    assert merge_state_dicts(base, [expert], density=0.1)["w"].tolist() == [0, -3, 3]
    assert merge_state_dicts(base, [expert], density=0.1, equal="first")["w"].tolist() == [0, 0, 0]
    merged = merge_state_dicts(base, [expert], density=0.1, semantics="mergekit")
    assert merged["w"].tolist() == [0, -3, 0]


def test_an_expert_equal_to_the_base_contributes_nothing() -> None:
    base, expert = {"w": f32(1, 2, 3)}, {"w": f32(1, 4, 9)}
    for method in ("ties", "task_arithmetic"):
        options: dict[str, Any] = {"density": 1.0} if method == "ties" else {}
        merged = merge_state_dicts(base, [base, expert], method=method, **options)
        assert merged["w"].tolist() == [1, 4, 9]
        assert merge_state_dicts(base, [base], method=method)["w"].tolist() == [1, 2, 3]


def test_one_expert_at_full_density_is_the_expert() -> None:
    base, expert = {"w": f32(1, 2, 3)}, {"w": f32(1, -2, 7)}
    for options in ({}, {"semantics": "mergekit"}, {"scope": "tensor"}):
        merged = merge_state_dicts(base, [expert], density=1.0, **options)  # type: ignore[arg-type]
        assert merged["w"].tolist() == [1, -2, 7]


def test_a_threshold_of_zero_loses_nothing() -> None:
    base, expert = {"w": np.zeros(10, np.float32)}, {"w": f32(0, 0, 5, 0, 0, 0, 0, 0, 0, 0)}
    assert merge_state_dicts(base, [expert], density=0.2)["w"].tolist() == expert["w"].tolist()


def test_density_zero_gives_the_base_back_even_from_nan() -> None:
    base, expert = {"w": f32(1, -0.0)}, {"w": f32(np.nan, 5)}
    for options in ({}, {"equal": "first"}, {"semantics": "mergekit"}):
        merged = merge_state_dicts(base, [expert], density=0, **options)  # type: ignore[arg-type]
        assert merged["w"].tolist() == [1, 0]


def test_task_arithmetic_negates_and_linear_averages() -> None:
    base, expert = {"w": f32(1, 2)}, {"w": f32(3, 1)}
    negated = merge_state_dicts(base, [expert], method="task_arithmetic", scale=-1)
    assert negated["w"].tolist() == [-1, 3]
    average = merge_state_dicts(None, [base, expert], method="linear")
    assert average["w"].tolist() == [2, 1.5]
    weighted = merge_state_dicts(None, [base, expert], method="linear", weights=[3, 1])
    assert weighted["w"].tolist() == [1.5, 1.75]


def test_models_without_tensors_merge_to_one() -> None:
    assert merge_state_dicts({}, [{}]) == {}
    only = {"steps": np.array(3)}
    assert_same(merge_state_dicts(only, [only]), only)


def test_a_majority_that_comes_late_is_held_against_overflow_too() -> None:
    base = {"a": f32(3.35e38), "b": np.zeros(2, np.float32)}
    step = f32(3.4e38) - base["a"]
    experts = [{"a": base["a"] + d, "b": np.ones(2, np.float32)} for d in (step, -step)]
    merge: dict[str, Any] = {"density": 1.0, "scale": 3.0}
    assert merge_state_dicts(base, experts, nonfinite="propagate", **merge)["a"].tolist() == [
        np.inf
    ]
    with pytest.raises(InputError, match="tensor 'a': the merged values overflow F32"):
        merge_state_dicts(base, experts, **merge)
    with pytest.warns(UserWarning, match="tensor 'a': the merged values overflow F32"):
        merge_state_dicts(base, experts, nonfinite="warn", **merge)


# Copied tensors, tied tensors, and the layout of arrays in memory.


def test_integers_and_booleans_are_copied_and_must_be_equal() -> None:
    base: Dict = {"w": f32(0), "steps": np.array([7, 8]), "flag": np.array(True)}
    expert: Dict = {"w": f32(2), "steps": np.array([7, 8]), "flag": np.array(True)}
    merged = merge_state_dicts(base, [expert], density=1.0)
    assert_same(merged, {"w": f32(2), "steps": np.array([7, 8]), "flag": np.array(True)})
    assert not np.shares_memory(merged["steps"], base["steps"])
    other = {**expert, "steps": np.array([7, 9])}
    with pytest.raises(InputError, match=r"expert 1: tensor 'steps' is int64 .*integers='base'"):
        merge_state_dicts(base, [expert, other])
    merged = merge_state_dicts(base, [expert, other], integers="base")
    assert merged["steps"].tolist() == [7, 8]
    with pytest.raises(InputError, match="expert 0: tensor 'steps' is int32, base has int64"):
        merge_state_dicts(base, [{**expert, "steps": np.array([7, 8], np.int32)}])
    with pytest.raises(InputError, match="expert 0: tensor 'steps' is F32, base has int64"):
        merge_state_dicts(base, [{**expert, "steps": f32(7, 8)}])


def test_integers_take_no_part_in_the_ranks() -> None:
    base: Dict = {"a": np.array([1000] * 100), "w": np.zeros(10, np.float32)}
    expert: Dict = {**base, "w": np.arange(1, 11, dtype=np.float32)}
    merged = merge_state_dicts(base, [expert], density=0.2, equal="first")
    assert np.flatnonzero(merged["w"]).tolist() == [8, 9]


def tied(*names: str, values: Sequence[float], **others: Array) -> Dict:
    shared = f32(*values)
    return {**{name: shared for name in names}, **others}


def test_tied_tensors_count_once_and_stay_tied() -> None:
    base = tied("head", "embed", values=[0, 0, 0, 0], w=np.zeros(4, np.float32))
    # The order of the names does not decide which are tied.
    expert = tied("embed", "head", values=[5, 6, 7, 8], w=f32(1, 2, 3, 4))
    merged = merge_state_dicts(base, [expert], density=0.75, equal="first")
    assert list(merged) == ["head", "embed", "w"]
    assert merged["head"] is merged["embed"]
    # int(8 * 0.75) of eight parameters, not int(12 * 0.75) of twelve.
    assert merged["embed"].tolist() == [5, 6, 7, 8]
    assert merged["w"].tolist() == [0, 0, 3, 4]


def test_tensors_tied_in_the_base_alone_are_merged_apart() -> None:
    base = tied("embed", "head", values=[0, 0])
    merged = merge_state_dicts(base, [{"embed": f32(1, 2), "head": f32(3, 4)}], density=1.0)
    assert merged["embed"].tolist() == [1, 2]
    assert merged["head"].tolist() == [3, 4]


def test_an_expert_may_lack_the_alias_of_a_tied_tensor() -> None:
    base = tied("embed", "head", values=[0, 0])
    merged = merge_state_dicts(base, [{"embed": f32(1, 2)}], density=1.0)
    assert merged["head"] is merged["embed"]
    assert merged["head"].tolist() == [1, 2]
    steps = np.array([3])
    base_with_steps: Dict = {"a": steps, "b": steps, "w": f32(0)}
    merged = merge_state_dicts(base_with_steps, [{"a": steps.copy(), "w": f32(1)}], density=1.0)
    assert merged["b"].tolist() == [3]


def test_parts_of_one_buffer_are_not_tied() -> None:
    buffer = f32(0, 0, 0, 0)
    base = {"a": buffer[:2], "b": buffer[2:], "c": buffer[::2], "d": buffer.reshape(2, 2)}
    expert = {name: np.full(x.shape, i + 1, np.float32) for i, (name, x) in enumerate(base.items())}
    merged = merge_state_dicts(base, [expert], density=1.0)
    assert_same(merged, expert)


def strided(x: Array) -> Array:
    return np.repeat(x, 2, axis=-1)[..., ::2] if x.ndim else x


def test_arrays_of_any_layout_merge_alike() -> None:
    rng = np.random.default_rng(0)
    plain = [{"w": rng.standard_normal((12, 35)).astype(np.float32)} for _ in range(3)]
    expected = merge_state_dicts(plain[0], plain[1:], density=0.3)
    layouts = (
        strided,
        np.asfortranarray,
        lambda x: x[::-1].copy()[::-1],
        lambda x: np.frombuffer(b"\0" + x.tobytes(), x.dtype, offset=1).reshape(x.shape),
    )
    for layout in layouts:
        base, *experts = ({"w": layout(model["w"])} for model in plain)
        before = snapshot(base, *experts)
        assert_same(merge_state_dicts(base, experts, density=0.3), expected)
        assert snapshot(base, *experts) == before


def test_tied_tensors_that_are_not_contiguous_are_tied_all_the_same() -> None:
    shared = strided(f32(0, 0))
    moved = strided(f32(3, 4))
    merged = merge_state_dicts(
        {"a": shared, "b": shared[:]}, [{"a": moved, "b": moved[:]}], density=0.5, equal="first"
    )
    assert merged["a"] is merged["b"]
    assert merged["a"].tolist() == [0, 4]


def test_a_square_matrix_and_its_transpose_are_not_tied() -> None:
    square, moved = np.zeros((2, 2), np.float32), f32(1, 2, 3, 4).reshape(2, 2)
    for convert in (np.asarray, torch.from_numpy):
        base, expert = convert(square), convert(moved)
        merged = merge_state_dicts(
            {"a": base, "b": base.T}, [{"a": expert, "b": expert.T}], density=1
        )
        assert merged["a"].tolist() == [[1, 2], [3, 4]]
        assert merged["b"].tolist() == [[1, 3], [2, 4]]
