"""The one table of element types, against the native code, NumPy, torch and safetensors."""

from __future__ import annotations

import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch

from tallies.spec.dtypes import (
    BY_NAME,
    FLOATS,
    OPAQUE,
    RECIPE_NAMES,
    TABLE,
    DType,
    fills_bytes,
    n_stored,
    named,
    size_of,
)

HEADER = Path(__file__).parents[2] / "csrc" / "core" / "dtype.h"
MERGED = sorted((one for one in TABLE if one.code is not None), key=lambda one: str(one.code))


def of_header(pattern: str) -> str:
    found = re.search(pattern, HEADER.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def test_codes_and_sizes_are_those_of_the_native_code() -> None:
    rows = re.findall(r"X\((\w+), (\d+)", of_header(r"#define TALLIES_DTYPES\(X\)(.*?)\n\n"))
    words, sizes = zip(*rows, strict=True)
    assert [one.code for one in MERGED] == list(range(len(words)))
    assert [one.name.lower().removeprefix("f8_") for one in MERGED] == [*words]
    assert [one.n_bytes for one in MERGED] == [int(size) for size in sizes]
    n_fused = int(of_header(r"kFusedDTypes = (\d+)"))
    assert [one.is_fused for one in MERGED] == [
        one.code < n_fused for one in MERGED if one.code is not None
    ]


IN_ARRAYS = [one for one in TABLE if one.array_name]


@pytest.mark.parametrize("one", IN_ARRAYS, ids=lambda one: one.name)
def test_names_and_sizes_are_those_of_numpy_and_torch(one: DType) -> None:
    assert BY_NAME[one.name] is one
    assert one.is_float == (one.name in FLOATS)
    if one.in_array == 1:
        assert one.in_ml_dtypes == (not hasattr(np, one.array_name))
        assert np.dtype(getattr(ml_dtypes, one.array_name, one.array_name)).itemsize == one.n_bytes
    known = getattr(torch, one.array_name, None)
    if known is None:
        assert one.in_ml_dtypes, "torch lacks no type of NumPy"
        return
    assert known.itemsize == one.n_bytes
    if not one.is_opaque:
        assert known.is_floating_point == one.is_float


@pytest.mark.parametrize("one", TABLE, ids=lambda one: one.name)
def test_spellings(one: DType) -> None:
    for text in (one.name, one.name.lower(), *([one.array_name] if one.array_name else [])):
        assert named(text) == named(f"torch.{text}") == one.name
    assert (one.array_name in RECIPE_NAMES) == one.is_float


def test_elements_share_bytes() -> None:
    assert [n_stored("F4", (2, 3)), n_stored("F6_E3M2", (4, 5)), n_stored("C64", (5,))] == [
        3,
        15,
        5,
    ]
    assert [size_of("F4", (8,)), size_of("F8_E8M0", (8,)), size_of("C64", (8,))] == [4, 8, 64]
    assert [fills_bytes("F4", (3,)), fills_bytes("F4", (3, 2)), fills_bytes("F6_E2M3", (2,))] == [
        False,
        True,
        False,
    ]
    assert fills_bytes("U8", (3,))


@pytest.mark.parametrize("text", ["", "half", "float", "float8", "torch.", "F8_E3M4"])
def test_other_texts_name_no_type(text: str) -> None:
    assert named(text) is None


def test_floats_are_dtypes() -> None:
    assert {one.name for one in TABLE if "F" in one.name} - OPAQUE == FLOATS
