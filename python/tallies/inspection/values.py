"""Measures the values of one tensor, a piece at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..checkpoint.tensors import TensorInfo
from ..engine.decoding import written_chunks
from ..spec.dtypes import FLOATS


@dataclass(frozen=True)
class Values:
    """Numbers of the values of a tensor, as float32 has them.

    The least and the largest value, mean and standard deviation are of the finite values, and None
    where there are none.
    """

    least: float | None
    largest: float | None
    mean: float | None
    deviation: float | None
    n_zeros: int
    n_nan: int
    n_infinite: int

    def to_json_dict(self) -> dict[str, Any]:
        """Return the numbers as plain data."""
        return {
            "min": self.least,
            "max": self.largest,
            "mean": self.mean,
            "std": self.deviation,
            "n_zeros": self.n_zeros,
            "n_nan": self.n_nan,
            "n_infinite": self.n_infinite,
        }


def values_of(tensor: TensorInfo) -> Values | None:
    """Read a tensor once and measure its values; sums are float64.

    Args:
        tensor: The tensor, with its scale and its changes where it has some.

    Returns:
        The numbers; None for integers and for types that are read by their bits.

    Raises:
        StorageError: The file cannot be read.
    """
    if tensor.dtype not in FLOATS:
        return None
    import numpy as np

    n, n_zeros, n_nan, n_infinite = 0, 0, 0, 0
    mean, squares = 0.0, 0.0
    least, largest = math.inf, -math.inf
    for chunk in written_chunks(tensor, "F32"):
        every = np.frombuffer(chunk, np.float32)
        n_nan += int(np.isnan(every).sum())
        n_infinite += int(np.isinf(every).sum())
        finite = every[np.isfinite(every)].astype(np.float64)
        if not finite.size:
            continue
        n_zeros += finite.size - int(np.count_nonzero(finite))
        least, largest = min(least, float(finite.min())), max(largest, float(finite.max()))
        # Both parts have a mean and squared distances to it (Chan et al. 1983).
        own = float(finite.mean())
        n_before, n = n, n + finite.size
        away = own - mean
        mean += away * finite.size / n
        squares += float(((finite - own) ** 2).sum()) + away * away * n_before * finite.size / n
    if not n:
        return Values(None, None, None, None, n_zeros, n_nan, n_infinite)
    return Values(least, largest, mean, math.sqrt(squares / n), n_zeros, n_nan, n_infinite)
