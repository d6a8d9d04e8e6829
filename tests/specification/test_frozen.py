"""Frozen tensors: their bytes never change, and no store counts or changes them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.reference import emr, magnitude, sparse, tall
from tests.support import strategies
from tests.support.bits import NAN, assert_same_bits, f32
from tests.support.task_masks import BF16, FEWER, LAMBDAS, is_set


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
