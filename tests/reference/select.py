"""Which entries of a task vector survive: selection by magnitude."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from .dtype import Array, Floats, Mask, narrow, widen
from .model import flatten, float_names, split


def magnitude_bits(x: npt.ArrayLike) -> npt.NDArray[np.uint32]:
    """Bits of |x| as float32, which order like the magnitudes do.

    All NaN are one magnitude, above infinity: the order cannot depend on the payload that a
    processor gives a NaN.
    """
    return narrow(np.abs(widen(x)), np.float32).view(np.uint32)


def kth_magnitude(x: npt.ArrayLike, k: int) -> np.float32:
    """The k-th largest |x|, counted from 1; NaN counts as larger than infinity.

    Raises ValueError unless 1 <= k <= size.
    """
    ascending = np.sort(magnitude_bits(x), axis=None)
    if not 1 <= k <= ascending.size:
        raise ValueError(f"k is {k}, expected 1 to {ascending.size}")
    kth: np.float32 = ascending.view(np.float32)[-k]
    return kth


def paper_threshold(x: Array, density: float) -> np.float32 | None:
    """The (P - k)-th smallest |x|, counted from 1, where k = int(P * density).

    The product is float64, cut to an integer. None keeps everything (density 1). Raises ValueError
    at density 0, which keeps nothing: there is always a magnitude that reaches a threshold.
    """
    if density <= 0:
        raise ValueError(f"density is {density}, expected more than 0: no threshold keeps nothing")
    k = int(x.size * density)
    return None if k >= x.size else kth_magnitude(x, k + 1)


def reaches(x: npt.ArrayLike, threshold: float | np.float32) -> Mask:
    """|x| >= threshold; NaN reaches every threshold, and only NaN reaches NaN."""
    wide = widen(x)
    return np.asarray((np.abs(wide) >= np.float32(threshold)) | np.isnan(wide))


def first_largest(x: Array, k: int) -> Mask:
    """The k largest magnitudes, the lowest row-major index first among equal ones."""
    descending = np.argsort(-magnitude_bits(x).ravel().astype(np.int64), kind="stable")
    mask = np.zeros(x.size, np.bool_)
    mask[descending[:k]] = True
    return mask.reshape(x.shape)


def keep(x: Array, density: float, equal: str = "keep") -> Mask:
    """Return the mask of one vector by the TIES paper's rule.

    `equal="keep"` keeps everything that reaches `paper_threshold`: k + 1 entries when no magnitudes
    are equal. `equal="first"` keeps exactly k = int(P * density), lowest index first among equals.
    """
    if density <= 0:
        return np.zeros(x.shape, np.bool_)
    if equal == "first":
        return first_largest(x, int(x.size * density))
    threshold = paper_threshold(x, density)
    return np.ones(x.shape, np.bool_) if threshold is None else reaches(x, threshold)


def mergekit_keep(x: Array, density: float) -> Mask:
    """Return the mask of one tensor in mergekit 0.1.5: exactly max(1, int(P * density)) entries.

    At density 0 it keeps nothing. It leaves open which of several equal magnitudes it takes; here
    the lowest index comes first.
    """
    if density <= 0:
        return np.zeros(x.shape, np.bool_)
    return first_largest(x, max(1, int(x.size * density)))


def trim(x: Array, density: float, equal: str = "keep") -> Floats:
    """The entries of `x` that `keep` keeps, as float32, and exactly +0 elsewhere."""
    return narrow(np.where(keep(x, density, equal), widen(x), np.float32(0)), np.float32)


def keep_mask(
    deltas: Mapping[str, Array],
    density: float,
    *,
    scope: str = "model",
    equal: str = "keep",
    semantics: str = "paper",
) -> dict[str, Mask]:
    """Return the masks of one expert's task vectors, tensor by tensor.

    `scope="model"` selects among all tensors at once, taken as one vector in the order of
    `float_names`; `scope="tensor"`, and mergekit always, selects within each.
    """
    names = float_names(deltas)
    if semantics == "mergekit":
        return {name: mergekit_keep(deltas[name], density) for name in names}
    if scope == "tensor":
        return {name: keep(deltas[name], density, equal) for name in names}
    return split(keep(flatten(deltas, names), density, equal), deltas, names)
