"""Exact changes of elements on the device, by their bytes."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.reference import changed_elements as reference
from tests.reference.changed_elements import BLOCK, CODINGS, MADE_CODINGS, UNDONE
from tests.support.cuda_inputs import examples, lengths
from tests.support.cuda_place import Place
from tests.support.cuda_table import N_CODINGS, CodedChanges, CudaTable
from tests.support.everywhere import assert_same_bits
from tests.support.exact_changes import UNITS, Array, differing, random_words


def change(table: CudaTable, old: Array, changes: reference.Changes, coding: str) -> Array:
    """Make changes on the device, in any layout."""
    which = UNITS.index(old.itemsize) * N_CODINGS + MADE_CODINGS.index(coding)
    there = table.put(old)
    values, positions, ends = map(table.put, (changes.values, changes.positions, changes.blocks))
    if changes.layout == "dense":
        table("change_all", values.address, old.size, there.address, None, which=which)
    elif changes.layout != "none":
        places = [memory.address for memory in (positions, ends, values)]
        sizes = changes.positions.size, changes.values.size, old.size
        coded = CodedChanges(*places, *sizes, there.address)
        table(f"scatter_{changes.layout}", ctypes.addressof(coded), None, which=which)
    return there.read(old.dtype, old.size)


def check_both_ways(table: CudaTable, old: Array, new: Array, coding: str) -> None:
    changes = reference.find(old, new, coding)
    assert_same_bits(change(table, old, changes, coding), new)
    if coding in UNDONE:
        assert_same_bits(change(table, new, changes, UNDONE[coding]), old)


@examples
@given(
    st.sampled_from(UNITS),
    lengths(),
    st.sampled_from(CODINGS),
    st.sampled_from((0.0, 0.001, 0.02, 0.4, 1.0)),
    st.integers(0, 2**32),
)
def test_changes_are_made(
    table: CudaTable, unit: int, n: int, coding: str, density: float, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    old = random_words(draw, unit, n)
    check_both_ways(table, old, differing(old, draw.random(n) < density, draw), coding)


@pytest.mark.parametrize("density", [0.0001, 0.03, 0.5, 1.0])
def test_changes_of_several_blocks(table: CudaTable, density: float) -> None:
    draw = np.random.default_rng(0)
    n = 2 * BLOCK + 777
    old = random_words(draw, 2, n)
    check_both_ways(table, old, differing(old, draw.random(n) < density, draw), "xor")


@pytest.mark.parametrize("layout", ["gaps", "mask"])
def test_damaged_changes_touch_nothing_else(table: CudaTable, layout: str) -> None:
    n = 100
    around = np.zeros(n + 200, np.uint16)
    there = table.put(around)
    positions = table.put(np.full(4000, 254 if layout == "gaps" else 255, np.uint8))
    values, ends = table.put(np.ones(9, np.uint16)), table.put(np.array([9999, 7], np.uint32))
    places = [memory.address for memory in (positions, ends, values)]
    coded = CodedChanges(*places, 4000, 9, n, there.address + 200)
    which = UNITS.index(2) * N_CODINGS + MADE_CODINGS.index("new")
    table(f"scatter_{layout}", ctypes.addressof(coded), None, which=which)
    found = there.read(np.uint16, n + 200)
    assert not found[:100].any()
    assert not found[100 + n :].any()


@pytest.mark.parametrize("density", [0.0, 0.01, 0.4, 1.0])
def test_tensors_on_the_device_are_changed(place: Place, density: float) -> None:
    draw = np.random.default_rng(1)
    old = random_words(draw, 2, 5000)
    new = differing(old, draw.random(old.size) < density, draw)
    changes = reference.find(old, new, "xor")
    elements = torch.from_numpy(old.view(np.int16).copy()).to(place.device)
    positions, blocks, values = (
        torch.from_numpy(array.view(kind).copy()).to(place.device)
        for array, kind in (
            (changes.positions, np.uint8),
            (changes.blocks, np.int32),
            (changes.values, np.int16),
        )
    )
    place.operators.change_elements_(elements, positions, blocks, values, changes.layout, "xor")
    assert_same_bits(elements.cpu().numpy().view(np.uint16), new)
