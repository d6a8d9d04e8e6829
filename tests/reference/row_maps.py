"""Tensors in other rows: gathered, averaged, and padded with the mean of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .dtype import Array, Floats, ieee, widen


@ieee
def mapped(
    x: Array,
    own: Sequence[int],
    means: Mapping[int, Sequence[tuple[int, int]]] = {},
    n_padding: int = 0,
    others: Sequence[Array] = (),
) -> Floats:
    """Row own[i] of x; a mean of rows of others; zero; and behind them the mean of all of these."""
    rows = np.zeros((len(own) + n_padding, *x.shape[1:]), np.float32)
    for row, number in enumerate(own):
        if number >= 0:
            rows[row] = widen(x[number])
        elif means.get(row):
            for model, taken in means[row]:
                rows[row] += widen(others[model][taken])
            rows[row] /= np.float32(len(means[row]))
    if n_padding:
        total = np.zeros(x.shape[1:])
        for tokens in rows[: len(own)]:
            total += tokens
        rows[len(own) :] = total / max(len(own), 1)
    return rows
