"""Planes of bytes against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallies import _core
from tallies.coding import Fields
from tests.reference import fields as reference
from tests.support import strategies
from tests.support.everywhere import assert_everywhere, assert_same_bits, on_every_target

UNITS = (1, 2, 4, 8)


@st.composite
def elements(draw: st.DrawFn) -> tuple[Any, Any]:
    """Patterns of elements and a base of as many, near them or not, or None."""
    unit = draw(st.sampled_from(UNITS))
    n = draw(strategies.sizes(max_size=300))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = random.integers(0, 256, n * unit, np.uint8).view(f"u{unit}")
    kind = draw(st.sampled_from(["none", "near", "far", "extremes"]))
    if kind == "none":
        return values, None
    if kind == "near":
        return values, values + random.integers(0, 5, n).astype(values.dtype)
    if kind == "far":
        return values, random.integers(0, 256, n * unit, np.uint8).view(f"u{unit}")
    ends = np.array([0, 1, 2 ** (8 * unit - 1), 2 ** (8 * unit) - 1], values.dtype)
    return ends[random.integers(0, 4, n)], ends[random.integers(0, 4, n)]


def split(values: Any, base: Any, fields: Fields) -> Any:
    out = np.empty((values.itemsize, values.size), np.uint8)
    _core.split_fields(values=values, base=base, unit=values.itemsize, fields=int(fields), out=out)
    return out


@given(elements(), st.sampled_from(Fields))
def test_split_and_join(case: tuple[Any, Any], fields: Fields) -> None:
    values, base = case
    planes = reference.split(values, fields.name.lower(), base)
    inputs = [values] if base is None else [values, base]
    assert_everywhere(lambda: split(values, base, fields), planes, *inputs)

    def joined() -> Any:
        out = np.empty_like(values)
        _core.join_fields(
            planes=list(planes), base=base, unit=values.itemsize, fields=int(fields), out=out
        )
        return out

    assert_everywhere(joined, values, planes)
    assert_same_bits(reference.join(planes, fields.name.lower(), base), values)


@given(elements(), st.sampled_from(Fields))
def test_elements_are_joined_over_their_base(case: tuple[Any, Any], fields: Fields) -> None:
    values, base = case
    if base is None:
        return
    planes = reference.split(values, fields.name.lower(), base)

    def joined() -> Any:
        out = base.copy()
        _core.join_fields(
            planes=list(planes), base=out, unit=values.itemsize, fields=int(fields), out=out
        )
        return out

    assert_everywhere(joined, values)


@given(st.integers(1, 5), st.integers(0, 130), st.sampled_from(UNITS))
def test_blocks_are_joined_one_after_the_other(n_blocks: int, n: int, unit: int) -> None:
    values = np.random.default_rng(n).integers(0, 256, n_blocks * n * unit, np.uint8)
    blocks = np.split(values.view(f"u{unit}"), n_blocks)
    planes = [row for block in blocks for row in reference.split(block, "float")]
    out = np.empty_like(values)
    _core.join_fields(planes=planes, unit=unit, fields=Fields.FLOAT, out=out)
    assert_same_bits(out, values)


@given(st.integers(0, 700), st.sampled_from([64, 128, 256]), st.integers(0, 3))
def test_fingerprints_of_blocks(n: int, block: int, stripe: int) -> None:
    data = np.random.default_rng(n).integers(0, 256, n, np.uint8)
    checks = reference.block_checks(data, block).tolist()
    whole = _core.fingerprint(data.ctypes.data, n, 64 * stripe)
    for found in on_every_target(
        lambda: _core.fingerprint_blocks(data, block_bytes=block)
    ).values():
        assert found[1] == checks
    assert _core.fingerprint_blocks(data, block_bytes=block, first=64 * stripe)[0] == whole


def test_what_does_not_fit_is_refused() -> None:
    two = np.zeros(4, np.uint16)
    out = np.empty(8, np.uint8)
    for arguments, text in (
        ({"values": two, "unit": 3, "fields": 0, "out": out}, "unit: found 3"),
        ({"values": two, "unit": 2, "fields": 3, "out": out}, "fields"),
        ({"values": two, "unit": 2, "fields": 0, "out": out[1:]}, "bytes of out"),
        ({"values": two, "base": two[1:], "unit": 2, "fields": 0, "out": out}, "bytes of base"),
        ({"values": bytes(7), "unit": 2, "fields": 0, "out": out[1:]}, "bytes of values"),
    ):
        with pytest.raises(ValueError, match=text):
            _core.split_fields(**arguments)  # type: ignore[arg-type]
    rows = [bytes(4), bytes(4)]
    for arguments, text in (
        ({"planes": rows[:1], "unit": 2, "fields": 0, "out": out}, "planes"),
        ({"planes": [bytes(4), bytes(3)], "unit": 2, "fields": 0, "out": out}, "of a plane"),
        ({"planes": rows, "unit": 2, "fields": 0, "out": out[1:]}, "bytes of out"),
        ({"planes": rows, "base": two[1:], "unit": 2, "fields": 0, "out": out}, "bytes of base"),
    ):
        with pytest.raises(ValueError, match=text):
            _core.join_fields(**arguments)  # type: ignore[arg-type]
    with pytest.raises((BufferError, ValueError)):
        _core.split_fields(values=two, unit=2, fields=0, out=bytes(8))
    with pytest.raises(ValueError, match="multiple of 64"):
        _core.fingerprint_blocks(out, block_bytes=65)
