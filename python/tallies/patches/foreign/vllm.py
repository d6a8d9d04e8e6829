"""The patches that vLLM's loader takes in memory: positions and values of tensors of torch.

``WeightPatch`` has the fields of vLLM's ``CheckpointWeightPatch``: build one of the other with
``CheckpointWeightPatch(*patch)``. Lists of its ``SparseWeightPatch`` are read as well.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from ...engine.arrays import array_shape
from ...errors import InputError
from ...messages import show
from ...spec.dtypes import BY_NAME, FLOATS, TABLE
from ..chains import OnePatch
from ..manifest import Form
from ..report import PatchReport
from .updates import (
    MOST_POSITIONS,
    Bits,
    Change,
    ChangedTensor,
    changed_tensors,
    make,
    placed,
    whole,
)

if TYPE_CHECKING:
    import torch

_NAMES: Final = {one.array_name: one.name for one in TABLE if not one.is_opaque}
_POSITIONS: Final = ("int32", "int64")


class WeightPatch(NamedTuple):
    """A change of one tensor of a checkpoint, as vLLM's ``CheckpointWeightPatch`` states it."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    values: torch.Tensor
    """The values at the positions; all values, flat, where there are no positions."""
    indices: torch.Tensor | None = None
    """Positions in the flat tensor, int32 or int64."""


def to_patch(
    patches: Iterable[Any],
    base: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    **options: Any,
) -> PatchReport:
    """Make a patch of vLLM's patches and the model that they are of.

    Args:
        patches: Objects with ``name``, ``values`` and ``indices``; the latter may be None. Later
            ones win. ``dtype`` and ``shape`` or ``full_shape`` are compared with the model's.
        base: The model, of the names that the patches have.
        out: The patch to write; None for bytes, which the report then has as ``data``.
        options: Further arguments of ``make_patch``.

    Raises:
        InputError: A patch does not fit to the model, or has positions outside or twice.
        StorageError: A file cannot be read or written.
    """
    try:
        given = list(patches)
    except TypeError:
        raise InputError(f"patches: found {type(patches).__name__}, expected a list") from None
    for one in given:
        _refuse_other(one)

    def changes_of(forms: Mapping[str, Form]) -> dict[str, list[Change]]:
        found: dict[str, list[Change]] = {}
        for one in given:
            found.setdefault(one.name, []).append(_change(one, forms.get(one.name)))
        return found

    return make(base, changes_of, "patches of vLLM", out, options)


def _refuse_other(one: Any) -> None:
    """Raise InputError for what has not the fields of a patch."""
    for field in ("name", "values", "indices"):
        if not hasattr(one, field) or callable(getattr(one, field)):
            raise InputError(
                f"patches of vLLM: found {type(one).__name__} without {field!r}, expected "
                "CheckpointWeightPatch, SparseWeightPatch or WeightPatch"
            )
    if not isinstance(one.name, str):
        raise InputError(f"patches of vLLM: found the name {show(one.name)}, expected a text")
    for field in ("values", "indices"):
        value = getattr(one, field)
        if not (hasattr(value, "detach") or (field == "indices" and value is None)):
            raise InputError(
                f"patches of vLLM: tensor {show(one.name)}: found {field} of type "
                f"{type(value).__name__}, expected a tensor of torch"
            )


def _change(one: Any, form: Form | None) -> Change:
    where = f"patches of vLLM: tensor {show(one.name)}"
    values = _bits(one.values)
    if form is None:
        return whole(values)  # refused, as the model has no such tensor
    dtype, shape = form
    found = _NAMES.get(_word(one.values.dtype), _word(one.values.dtype))
    stated = getattr(one, "dtype", one.values.dtype)
    if found != dtype:
        raise InputError(f"{where}: has values {found}, and the model's are {dtype}; convert them")
    if _NAMES.get(_word(stated)) != dtype:
        raise InputError(f"{where}: says dtype {_word(stated)}, and its values are {dtype}")
    stated_shape = getattr(one, "shape", None) or getattr(one, "full_shape", None) or shape
    if not isinstance(stated_shape, (list, tuple)):
        raise InputError(f"{where}: found shape {show(stated_shape)}, expected a tuple")
    if tuple(stated_shape) != shape:
        raise InputError(
            f"{where}: is of shape {list(stated_shape)}, and the model's {list(shape)}"
        )
    n_elements = math.prod(shape)
    if one.indices is None:
        if values.size != n_elements:
            raise InputError(f"{where}: has {values.size} values, expected {n_elements}")
        return whole(values)
    if _word(one.indices.dtype) not in _POSITIONS:
        raise InputError(
            f"{where}: has indices {_word(one.indices.dtype)}, expected int32 or int64"
        )
    return placed(where, one.indices.detach().cpu().numpy(), values, n_elements)


def _word(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _bits(values: torch.Tensor) -> Bits:
    """Return the bit patterns of a tensor's elements, flat."""
    import torch

    flat = values.detach().cpu().contiguous().view(-1)
    data = flat.view(torch.uint8).numpy() if flat.numel() else np.empty(0, np.uint8)
    return data.view(f"<u{values.element_size()}")


def from_patch(patch: OnePatch, base: str | os.PathLike[str]) -> list[WeightPatch]:
    """Return a patch as vLLM's loader takes it: changes of floats by position, others whole.

    A call of ``load_checkpoint_weight_patches`` takes either kind: give those without indices in a
    call of their own.

    Args:
        patch: The patch.
        base: The model that it starts from.

    Raises:
        InputError: The patch does not fit to the model, or a new value is NaN, which vLLM reads as
            unchanged.
        StorageError: A file cannot be read.
    """
    return [_weight_patch(one) for one in changed_tensors(patch, base)]


def _weight_patch(one: ChangedTensor) -> WeightPatch:
    import torch

    name, shape = BY_NAME[one.dtype].array_name, array_shape(one.dtype, one.shape)
    if shape is None or not hasattr(torch, name):
        raise InputError(
            f"tensor {show(one.name)} is {one.dtype} {list(one.shape)}, which torch has no tensor "
            "for, and neither have vLLM's patches"
        )
    dtype = getattr(torch, name)
    if one.dtype not in FLOATS:
        return WeightPatch(one.name, shape, dtype, _tensor(one.new, dtype))
    at = one.positions()
    values = _tensor(one.new[at], dtype)
    if bool(values.float().isnan().any()):
        raise InputError(
            f"tensor {show(one.name)}: a new value is NaN, which vLLM's patches read as unchanged"
        )
    indices = torch.from_numpy(at.astype(np.int32 if one.new.size <= MOST_POSITIONS else np.int64))
    return WeightPatch(one.name, one.shape, dtype, values, indices)


def _tensor(bits: Bits, dtype: torch.dtype) -> torch.Tensor:
    import torch

    if not bits.size:
        return torch.empty(0, dtype=dtype)
    return torch.from_numpy(bits.view(np.uint8).copy()).view(dtype)
