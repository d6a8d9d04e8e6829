"""Parts of checkpoints that are small enough for the reference, which is slow."""

from __future__ import annotations

from enum import Enum

import ml_dtypes
import numpy as np
import numpy.typing as npt

from tallies.checkpoint.checkpoint import Checkpoint
from tallies.checkpoint.tensors import TensorInfo
from tests.reference.dtype import Array

Model = dict[str, Array]
"""Tensors, or parts of them, by name."""

# Elements of each slice, at both ends and in the middle, where elements depend on no others.
_SLICE_ELEMENTS = 4096
# Elements of a tensor that must be sorted to be checked, and of a model.
_MOST_TENSOR_ELEMENTS = 1 << 16
_MOST_MODEL_ELEMENTS = 1 << 22


class Reach(Enum):
    """The inputs that an element of a result depends on, which the slow reference must redo."""

    ELEMENT = "element"
    TENSOR = "tensor"
    MODEL = "model"


def parts(checkpoint: Checkpoint, reach: Reach) -> Model:
    """The bfloat16 tensors, or slices of them, that can be checked where results have this reach.

    Single elements are compared where that suffices, otherwise whole tensors of at most 2^16
    elements, or a whole model of at most 2^22.
    """
    found = {}
    whole = sum(info.n_elements for info in checkpoint.tensors.values())
    for name, info in checkpoint.tensors.items():
        n = info.n_elements
        if reach is Reach.ELEMENT:
            found[name] = np.concatenate([_read(info, first, size) for first, size in slices(n)])
        elif (reach is Reach.TENSOR and n <= _MOST_TENSOR_ELEMENTS) or (
            reach is Reach.MODEL and whole <= _MOST_MODEL_ELEMENTS
        ):
            found[name] = _read(info, 0, n)
    return found


def slices(n_elements: int) -> list[tuple[int, int]]:
    """First element and length of the parts that stand for a tensor."""
    size = min(n_elements, _SLICE_ELEMENTS)
    return [(first, size) for first in sorted({0, (n_elements - size) // 2, n_elements - size})]


def bits(mask: TensorInfo, n_elements: int) -> npt.NDArray[np.uint8]:
    """The same parts of a packed mask of so many elements, packed anew."""
    found = []
    for first, size in slices(n_elements):
        start, end = first // 8, -(-(first + size) // 8)
        packed = np.fromfile(mask.path, np.uint8, end - start, offset=mask.offset + start)
        found.append(np.unpackbits(packed, bitorder="little")[first % 8 :][:size])
    return np.packbits(np.concatenate(found), bitorder="little")


def _read(info: TensorInfo, first: int, n: int) -> Array:
    return np.fromfile(info.path, ml_dtypes.bfloat16, n, offset=info.offset + 2 * first)


def compare(what: str, found: Model, expected: Model) -> int:
    """How many elements were compared; RuntimeError where bits differ or a name is missing."""
    for name, wanted in expected.items():
        kind = f"u{wanted.dtype.itemsize}"
        bad = np.flatnonzero(wanted.view(kind) != found[name].view(kind))
        if bad.size:
            raise RuntimeError(
                f"{what}: tensor {name!r}: {bad.size} of {wanted.size} elements differ from "
                f"the reference; the first is {found[name][bad[0]]}, expected {wanted[bad[0]]}"
            )
    return sum(wanted.size for wanted in expected.values())
