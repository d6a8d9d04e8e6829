"""Model Breadcrumbs: task vectors without their smallest and their largest entries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .dare import dropped, l1_factor
from .dtype import Array, Floats, Mask
from .select import first_largest


def band_mask(x: Array, density: float, gamma: float, semantics: str = "paper") -> Mask:
    """Return the mask of one vector's band; among equal magnitudes the lowest index first.

    The int(n gamma) largest go, and of the others all but the int(n density) largest. mergekit
    keeps int(n density) entries, for which fewer large ones go where they must, and all at density
    1.
    """
    n = x.size
    n_outliers, n_kept = int(n * gamma), int(n * density)
    if semantics == "mergekit":
        if density >= 1:
            return np.ones(x.shape, np.bool_)
        n_outliers = min(n_outliers, n - n_kept)
    return first_largest(x, n_outliers + n_kept) & ~first_largest(x, n_outliers)


def rows(x: Array) -> Array:
    """The array as rows along its last dimension; a scalar is one row."""
    length = x.shape[-1] if x.ndim else 1
    return x.reshape(x.size // max(length, 1), length)


def breadcrumbs(
    delta: Array,
    density: float,
    gamma: float,
    *,
    scope: str = "row",
    semantics: str = "paper",
    rescale: str = "none",
) -> Floats:
    """One expert's task vector in one tensor, without what lies outside the band."""
    parts: Sequence[Array] = [delta.ravel()] if scope == "tensor" else rows(delta)
    masks = [band_mask(part, density, gamma, semantics) for part in parts]
    stays = np.array(masks, np.bool_).reshape(delta.shape)
    factor = l1_factor(delta, dropped(delta, stays)) if rescale == "l1" else 1.0
    return dropped(delta, stays, factor)
