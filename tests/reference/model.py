"""A model as one vector: its tensors in the order of their names' bytes, each row-major."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from .dtype import Array, Floats, widen


def float_names(model: Mapping[str, Array]) -> list[str]:
    """Names of all tensors but the integer and boolean ones, sorted by their UTF-8 bytes."""
    names = [name for name, tensor in model.items() if tensor.dtype.kind not in "biu"]
    return sorted(names, key=lambda name: name.encode())


def flatten(model: Mapping[str, Array], names: list[str]) -> Floats:
    """The named tensors as one float32 vector."""
    return np.concatenate(
        [np.zeros(0, np.float32), *(widen(model[name]).ravel() for name in names)]
    )


def split(
    vector: npt.NDArray[np.generic], model: Mapping[str, Array], names: list[str]
) -> dict[str, Array]:
    """The inverse of `flatten`: pieces of `vector` in the shapes that `model` has."""
    ends = np.cumsum([model[name].size for name in names])
    pieces = np.split(vector, ends[:-1]) if names else []
    return {
        name: piece.reshape(model[name].shape) for name, piece in zip(names, pieces, strict=True)
    }
