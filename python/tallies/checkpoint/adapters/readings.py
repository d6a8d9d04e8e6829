"""Choose among the readings of an edit by the shapes of the model's tensors.

A file of PEFT does not say if a layer stores its matrix transposed, nor which of several stacks of
experts a pair of factors belongs to. The model's tensors do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from ...errors import InputError
from ...messages import show, some
from ..changes import Magnitudes, Product
from ..tied import is_head
from .adapter import Edit

ShapeOf = Callable[[str], "tuple[int, ...] | None"]

_WIDER_OUTSIDE = {"down_proj": "gate_up_proj"}
"""Stacks of square matrices, by the stack beside them that has more outputs than inputs."""


def are_turned(edits: Iterable[Edit], shape_of: ShapeOf) -> bool | None:
    """Tell by the matrices that are not square if a model stores them as second readings say.

    Args:
        edits: The edits of an adapter.
        shape_of: Returns the shape of a tensor, as for ``settled``.

    Returns:
        True if all do, heads aside; None if some do and some do not.
    """
    found: set[bool] = set()
    for edit in edits:
        is_matrix = isinstance(edit.change, Product) and len(edit.change.left.shape) == 2
        if is_matrix and edit.others and edit.others[0].name == edit.name:
            shape = shape_of(edit.name)
            first, second = _fits(edit, shape), _fits(edit.others[0], shape)
            if first != second and not is_head(edit.name):
                found.add(second)
    return None if len(found) > 1 else True in found


def settled(edit: Edit, shape_of: ShapeOf, turned: bool | None = False) -> Edit:
    """Return the reading of an edit that fits a model; the first one where none does.

    Args:
        edit: The edit.
        shape_of: Returns the shape of the tensor of a name that the adapter has for it, or None
            where the model has none.
        turned: The second reading counts for a matrix that is square; None if that is not known.

    Raises:
        InputError: Tensors of several names fit, or a square matrix may be stored either way.
    """
    if not edit.others:
        return edit
    readings = (edit, *edit.others)
    shapes = {one.name: shape_of(one.name) for one in readings}
    fitting = [one for one in readings if _fits(one, shapes[one.name])]
    names = list(dict.fromkeys(one.name for one in fitting))
    if len(names) > 1:
        told = edit.told_by
        raise InputError(
            f"{told.path}: tensor {show(told.name)} may change any of {some(names)}, which have "
            "one shape; merge the adapter where it loads (PEFT: merge_and_unload)"
        )
    if len(fitting) > 1 and _is_stored_transposed(names[0], shape_of):
        return fitting[1]
    is_stack = isinstance(edit.change, Product) and len(edit.change.left.shape) > 2
    if len(fitting) > 1 and turned is None and not is_stack:
        told = edit.told_by
        raise InputError(
            f"{told.path}: tensor {show(told.name)} changes the square matrix {show(names[0])}, "
            "which may be stored with rows and columns swapped, as some matrices of this model "
            "are and some are not; merge the adapter where it loads (PEFT: merge_and_unload)"
        )
    if fitting:
        return fitting[1 if turned and len(fitting) > 1 and not is_stack else 0]
    return next((one for one in readings if shapes[one.name] is not None), edit)


def _fits(edit: Edit, shape: tuple[int, ...] | None) -> bool:
    if shape is None:
        return False
    matrix = (shape[0], math.prod(shape[1:])) if shape else (1, 1)
    match edit.change:
        case Product(left, right):
            found = (*left.shape[:-1], right.shape[-1])
            return found == (shape if len(found) > 2 else matrix)
        case Magnitudes(values, columns, of_columns):
            return columns == matrix[1] and values.n_elements == matrix[of_columns]
    return True


def _is_stored_transposed(name: str, shape_of: ShapeOf) -> bool:
    """Tell by the stack beside one of square matrices if a model stores [experts, in, out]."""
    module, _, own = name.rpartition(".")
    beside = _WIDER_OUTSIDE.get(own)
    shape = shape_of(f"{module}.{beside}") if beside else None
    return shape is not None and len(shape) == 3 and shape[2] > shape[1]
