"""NearSwap: the second model where it is near the first, else the first moved towards it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .dtype import Array, ieee, narrow, widen


@ieee
def nearswap(models: Sequence[Array], t: float, out_dtype: npt.DTypeLike | None = None) -> Array:
    """w f_2 + (1 - w) f_1 in float32, w = t times the reciprocal of |f_1 - f_2|, from 0 to 1.

    The distance is 1e-6 at least.
    """
    first, second = map(widen, models)
    one, zero = np.float32(1), np.float32(0)
    distance = np.abs(first - second)
    distance = np.where(distance < np.float32(1e-6), np.float32(1e-6), distance)
    share = one / distance * np.float32(t)
    share = np.where(share < zero, zero, share)
    share = np.where(share > one, one, share)
    merged = (one - share) * first + share * second
    return narrow(merged, models[0].dtype if out_dtype is None else out_dtype)
