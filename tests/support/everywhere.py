"""One computation on every instruction set, held against the bits it must give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from tallies import cpu

Array = npt.NDArray[Any]
T = TypeVar("T")


def on_every_target(compute: Callable[[], T]) -> dict[str, T]:
    """Call ``compute`` on each instruction set that this machine runs."""
    before = cpu.target()
    results = {}
    try:
        for target in cpu.targets():
            cpu.set_target(target)
            results[target] = compute()
    finally:
        cpu.set_target(before)
    return results


def assert_same_bits(actual: Any, expected: Array | np.generic) -> None:
    assert isinstance(actual, (np.ndarray, np.generic))
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    if actual.tobytes() != expected.tobytes():
        word = f"u{expected.dtype.itemsize}"
        a, b = (np.ascontiguousarray(values).view(word).ravel() for values in (actual, expected))
        at = np.flatnonzero(a != b)
        i = int(at[0])
        raise AssertionError(
            f"{at.size} of {a.size} elements differ, the first at {i}: {actual.ravel()[i]} "
            f"({a[i]:#x}), expected {expected.ravel()[i]} ({b[i]:#x})"
        )


def assert_everywhere(
    compute: Callable[[], Any], expected: Array | np.generic, *inputs: Array
) -> None:
    """Every instruction set gives the expected bits, and the inputs stay as they are."""
    before = [array.tobytes() for array in inputs]
    for target, actual in on_every_target(compute).items():
        try:
            assert_same_bits(actual, expected)
        except AssertionError as difference:
            raise AssertionError(f"{target}: {difference}") from None
    assert [array.tobytes() for array in inputs] == before
