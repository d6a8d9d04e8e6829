"""The choice among equal magnitudes that an unstable sort makes, as other tools have it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

import tallies._core as native

from ..errors import InputError


def keep_sorted_range(
    x: npt.NDArray[np.float32],
    first: int,
    last: int,
    *,
    descending: bool = True,
    out: npt.NDArray[np.float32] | None = None,
) -> int:
    """Keep the entries at some places of an order by magnitude, and set the others to +0.

    The order is that of ``std::sort`` in libstdc++, which ``torch.argsort`` takes for a row of
    float32 on the CPU. It keeps neither the first nor the last of equal magnitudes. Only the parts
    of the array that a border divides are sorted, with 8 bytes an element.

    Args:
        x: A contiguous float32 array without NaN, of fewer than 2**32 elements.
        first: The first place to keep.
        last: The place behind the last to keep.
        descending: True to begin with the largest magnitude.
        out: The array to write, contiguous float32 of as many elements; it may be ``x``.

    Returns:
        How many entries are left out that are equal to the largest or the smallest that is kept.

    Raises:
        InputError: An array is not contiguous float32, sizes differ, or the places are not there.

    >>> x = np.float32([1, -4, 2, -3])
    >>> keep_sorted_range(x, 0, 2, out=x), x
    (0, array([ 0., -4.,  0., -3.], dtype=float32))
    """
    target = x if out is None else out
    for name, array in (("x", x), ("out", target)):
        if array.dtype != np.float32 or not array.flags.c_contiguous or array.size != x.size:
            raise InputError(
                f"{name}: found {array.dtype} of {array.size} elements, expected a contiguous "
                f"float32 array of {x.size}"
            )
    if not 0 <= first <= last <= x.size or x.size >= 2**32:
        raise InputError(
            f"places: found {first} to {last} of {x.size}, expected an ascending range within the "
            "array, of fewer than 2**32 elements"
        )
    return native.keep_sorted_range(
        x.ctypes.data, target.ctypes.data, x.size, first, last, descending
    )
