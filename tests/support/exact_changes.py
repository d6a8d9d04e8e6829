"""Exact changes of arrays in memory by the native passes, and arrays that differ in some way."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tallies import _core
from tallies.spec.dtypes import CODES_BY_SIZE
from tests.reference.changed_elements import CODINGS, LAYOUTS, MADE_CODINGS, Changes

Array = npt.NDArray[Any]
Fingerprints = tuple[list[int], list[int]]

UNITS = (1, 2, 4, 8)
"""Bytes of an element."""


def limits(n_threads: int = 1, tile_bytes: int = 1 << 20) -> _core.Limits:
    return _core.Limits(n_threads, 1 << 22, tile_bytes)


def place(array: Array) -> _core.Place:
    """The place of an array in memory, of elements of its size."""
    return (-1, array.ctypes.data, CODES_BY_SIZE[array.itemsize])


def fingerprint(array: Array) -> list[int]:
    return _core.fingerprint(array.ctypes.data, array.nbytes, 0)


def find(
    old: Array,
    new: Array,
    coding: str,
    within: _core.Limits | None = None,
    slices: list[tuple[int, int]] | None = None,
) -> list[tuple[Changes, Fingerprints]]:
    """The changes of each slice, of (first, number of elements); by default of all."""
    plan = _core.Plan(True)
    plan.add_job(old.size, [place(old), place(new)], [])
    found = _core.find_changes(
        plan=plan,
        slices=[
            _core.Slice(job=0, first=first, n_elements=n) for first, n in slices or [(0, old.size)]
        ],
        coding=CODINGS.index(coding),
        limits=within or limits(),
    )
    return [
        (
            Changes(
                LAYOUTS[one.layout],
                one.n_changed,
                np.frombuffer(one.positions, np.uint8),
                np.frombuffer(one.values, f"u{old.itemsize}"),
                np.frombuffer(one.blocks, np.uint32).reshape(-1, 2),
            ),
            (one.old, one.new),
        )
        for one in found
    ]


def stored(changes: Changes, coding: str, n_elements: int, unit: int) -> _core.StoredChanges:
    """The changes for the native passes, which check them."""
    return _core.StoredChanges(
        layout=LAYOUTS.index(changes.layout),
        coding=MADE_CODINGS.index(coding),
        n_elements=n_elements,
        unit=unit,
        positions=changes.positions,
        values=changes.values,
        blocks=changes.blocks,
    )


def apply(
    old: Array,
    out: Array,
    chain: list[_core.StoredChanges],
    within: _core.Limits | None = None,
    *,
    with_fingerprints: bool = True,
) -> Fingerprints:
    """Write the new elements to `out`, which may be `old`."""
    plan = _core.Plan(False)
    plan.add_job(old.size, [place(old)], [place(out)])
    (done,) = _core.apply_changes(
        plan=plan,
        tasks=[_core.PatchTask(slice=_core.Slice(job=0), chain=chain)],
        limits=within or limits(),
        with_old=with_fingerprints,
        with_new=with_fingerprints,
    )
    return done.old, done.new


def random_words(draw: np.random.Generator, unit: int, n: int) -> Array:
    return draw.integers(0, 256, n * unit, dtype=np.uint8).view(f"u{unit}")


def differing(old: Array, changed: Array, draw: np.random.Generator) -> Array:
    """A copy in which the elements of a mask have another pattern, one bit of it or all."""
    bits = draw.integers(0, 8 * old.itemsize, old.size).astype(old.dtype)
    flips = np.where(draw.random(old.size) < 0.5, old.dtype.type(1) << bits, ~old.dtype.type(0))
    return np.where(changed, old ^ flips, old)
