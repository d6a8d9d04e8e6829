"""Packed masks on NumPy arrays: building, counting, applying."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

import tallies._core as native

from ..engine.codes import INFINITY_BITS
from ..engine.environment import in_float_environment
from ..errors import InputError
from . import arguments
from .arguments import Array, Packed, narrowed, widened


@in_float_environment
def magnitude_mask(x: Array, threshold: float | np.float32) -> Packed:
    """Return the packed mask of |x| >= threshold.

    Entries equal to the threshold are in the mask, so that 0 takes everything. NaN reaches every
    threshold, and only NaN reaches NaN, as ``kth_magnitude`` ranks it.

    Args:
        x: An array of any shape.
        threshold: A number of 0 or more, which is rounded to float32, or NaN.

    Returns:
        uint8 [(n + 7) // 8] for n elements.

    Raises:
        InputError: The threshold is negative.

    >>> unpack_bits(magnitude_mask(np.float32([1, -2, 3, -0.5]), 2), 4)
    array([False,  True,  True, False])
    """
    values = widened(arguments.array("x", x))
    if isinstance(threshold, numbers.Real) and math.isnan(threshold):
        floor = INFINITY_BITS
    else:
        with np.errstate(over="ignore"):
            rounded = np.float32(arguments.number("threshold", threshold, 0, math.inf))
        floor = int(np.abs(rounded).view(np.int32)) - 1
    out = _empty(values.size)
    native.magnitude_mask(values.ctypes.data, floor, out.ctypes.data, values.size)
    return out


def tall_mask(expert_delta: Array, merged_delta: Array, lam: float) -> Packed:
    """Return the packed mask of |x| > lam * |m - x|: where m stands for one expert's own x.

    The bit is clear where both sides are equal, as where x and m are zero, and where either is NaN.

    Args:
        expert_delta: The expert's task vector x.
        merged_delta: The merged task vector m, in the shape of x; dtypes may differ.
        lam: The lambda of the paper, 0 or more: the larger, the fewer bits are set.

    Returns:
        uint8 [(n + 7) // 8] for n elements.

    Raises:
        InputError: Shapes differ, or lam is below 0.

    Wang et al., Localizing Task Information (TALL-masks), 2024, arXiv 2405.07813.

    >>> x, m = np.float32([0.1, 1, 0]), np.float32([1, 1, 0])
    >>> unpack_bits(tall_mask(x, m, 0.4), 3)
    array([False,  True, False])
    """
    x = arguments.array("expert_delta", expert_delta)
    m = arguments.array("merged_delta", merged_delta)
    arguments.same_shape("merged_delta", m, "expert_delta", x)
    factor = arguments.number("lam", lam, 0)
    wide = widened(x), widened(m)
    out = _empty(x.size)
    native.tall_mask(wide[0].ctypes.data, wide[1].ctypes.data, factor, out.ctypes.data, x.size)
    return out


def consensus_mask(packed_masks: Sequence[Packed] | Packed, n: int, k: int) -> Packed:
    """Return the packed mask of the elements that at least ``k`` of the masks contain.

    Args:
        packed_masks: N packed masks, or one array [N, (n + 7) // 8]; bits after the last element
            are ignored.
        n: The number of elements.
        k: The least number of masks; 0 takes every element, a number above N none.

    Returns:
        uint8 [(n + 7) // 8].

    Raises:
        InputError: A mask has another length.

    Wang et al., Localizing Task Information (Consensus merging), 2024, arXiv 2405.07813.

    >>> masks = [pack_bits(np.array([1, 1, 0], bool)), pack_bits(np.array([1, 0, 0], bool))]
    >>> unpack_bits(consensus_mask(masks, 3, 2), 3)
    array([ True, False, False])
    """
    n_elements = arguments.whole("n", n, 0, 2**62)
    at_least = arguments.whole("k", k, 0, 2**31 - 1)
    masks = [
        arguments.packed(f"packed_masks[{i}]", mask, n_elements)
        for i, mask in enumerate(arguments.rows_of("packed_masks", packed_masks))
    ]
    out = _empty(n_elements)
    native.consensus_mask(
        [mask.ctypes.data for mask in masks], at_least, out.ctypes.data, n_elements
    )
    return out


def pack_bits(mask: npt.NDArray[np.bool_]) -> Packed:
    """Pack a boolean array of any shape, in row-major order.

    Args:
        mask: The array of n elements.

    Returns:
        uint8 [(n + 7) // 8].

    Raises:
        InputError: The argument is not a NumPy array of booleans.

    >>> pack_bits(np.array([True, False, False, True]))
    array([9], dtype=uint8)
    """
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
        found = mask.dtype if isinstance(mask, np.ndarray) else type(mask).__name__
        raise InputError(f"mask: found {found}, expected a NumPy array of bool")
    return np.packbits(mask, bitorder="little")


def unpack_bits(packed: Packed, n: int) -> npt.NDArray[np.bool_]:
    """Unpack the elements of a packed mask.

    Args:
        packed: The packed mask, uint8 [(n + 7) // 8].
        n: The number of elements.

    Returns:
        bool [n].

    Raises:
        InputError: The mask has another length.

    >>> unpack_bits(np.array([9], np.uint8), 4)
    array([ True, False, False,  True])
    """
    n_elements = arguments.whole("n", n, 0, 2**62)
    bits = arguments.packed("packed", packed, n_elements)
    return np.unpackbits(bits, count=n_elements, bitorder="little").view(np.bool_)


def apply_mask(base: Array, shared: Array, packed: Packed, scale: float = 1.0) -> Array:
    """Reconstruct an expert: base + scale * (shared where the mask is set, +0 elsewhere).

    The product and the sum are rounded in float32, the result once to its dtype. A NaN or infinity
    of ``shared`` counts only where the mask is set.

    Args:
        base: The base.
        shared: The shared vector, in the shape of the base; dtypes may differ.
        packed: The packed mask.
        scale: The expert's factor on the shared vector.

    Returns:
        A new array of the shape and dtype of the base.

    Raises:
        InputError: Shapes differ, or the mask has another length.

    Wang et al., Localizing Task Information (TALL-masks), 2024, arXiv 2405.07813.

    >>> apply_mask(np.float32([1, 1, 1]), np.float32([2, 4, 6]), np.array([5], np.uint8), 0.5)
    array([2., 1., 4.], dtype=float32)
    """
    origin, added = arguments.array("base", base), arguments.array("shared", shared)
    arguments.same_shape("shared", added, "base", origin)
    mask = arguments.packed("packed", packed, origin.size)
    factor = arguments.number("scale", scale)
    wide = widened(origin), widened(added)
    out = np.empty(origin.shape, np.float32)
    native.apply_mask(
        wide[0].ctypes.data,
        wide[1].ctypes.data,
        mask.ctypes.data,
        factor,
        out.ctypes.data,
        out.size,
    )
    return narrowed(out, origin.dtype)


def _empty(n: int) -> Packed:
    return np.empty((n + 7) // 8, np.uint8)
