"""The one table of element types, against the native code, NumPy, torch and safetensors."""

from __future__ import annotations

import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch

from tallies.spec.dtypes import BY_NAME, DTYPES, FLOATS, RECIPE_NAMES, TABLE, DType, named

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


@pytest.mark.parametrize("one", TABLE, ids=lambda one: one.name)
def test_names_and_sizes_are_those_of_numpy_and_torch(one: DType) -> None:
    assert one.in_ml_dtypes == (not hasattr(np, one.array_name))
    assert np.dtype(getattr(ml_dtypes, one.array_name, one.array_name)).itemsize == one.n_bytes
    assert BY_NAME[one.name] is one
    assert one.is_float == (one.name in FLOATS)
    known = getattr(torch, one.array_name, None)
    if known is None:
        assert one.in_ml_dtypes, "torch lacks no type of NumPy"
    else:
        assert (known.itemsize, known.is_floating_point) == (one.n_bytes, one.is_float)


@pytest.mark.parametrize("one", TABLE, ids=lambda one: one.name)
def test_spellings(one: DType) -> None:
    for text in (one.name, one.name.lower(), one.array_name, f"torch.{one.array_name}"):
        assert named(text) == one.name
    assert (one.array_name in RECIPE_NAMES) == one.is_float


@pytest.mark.parametrize("text", ["", "half", "float", "float8", "torch.", "F8_E8M0"])
def test_other_texts_name_no_type(text: str) -> None:
    assert named(text) is None


def test_floats_are_dtypes() -> None:
    assert {name for name in DTYPES if "F" in name} == FLOATS
