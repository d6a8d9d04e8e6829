"""One model as it is, and layers of models stacked by slices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .dtype import Array, ieee, narrow, widen

Source = tuple[str, int, int]
"""A model, the first of its layers that is taken, and the one behind the last."""


@ieee
def passthrough(model: Array, scale: float = 1.0, out_dtype: npt.DTypeLike | None = None) -> Array:
    """scale * f, rounded once; the model's own bits where the scale is 1 and the dtype stays."""
    dtype = np.dtype(model.dtype if out_dtype is None else out_dtype)
    if scale == 1.0 and dtype == model.dtype:
        return model.copy()
    return narrow(np.float32(0) + np.float32(scale) * widen(model), dtype)


def stacked(
    slices: Sequence[Sequence[Source]], layer: str, before: Sequence[str], behind: Sequence[str]
) -> dict[str, tuple[float, list[tuple[str, str]]]]:
    """Return for each tensor of a stack its position t, and the models and names it is made of.

    `layer` is the name of a layer's tensor with `{}` for the number; `before` and `behind` are
    those outside of the layers, which the first and the last slice give, with t = 0.
    """
    made: dict[str, tuple[float, list[tuple[str, str]]]] = {}
    for names, sources in ((before, slices[0]), (behind, slices[-1])):
        made |= {name: (0.0, [(model, name) for model, _, _ in sources]) for name in names}
    number = 0
    for sources in slices:
        n_layers = sources[0][2] - sources[0][1]
        for i in range(n_layers):
            t = i / (n_layers - 1) if n_layers > 1 else 1.0
            taken = [(model, layer.format(first + i)) for model, first, _ in sources]
            made[layer.format(number)] = (t, taken)
            number += 1
    return made
