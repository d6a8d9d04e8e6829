"""Adapters as inputs of a merge of adapters: what each does to each tensor, as factors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from .._core import widen
from ..checkpoint.adapters.adapter import Adapter, Edit
from ..checkpoint.changes import Added, Change, Hadamard, Kronecker, Product
from ..checkpoint.data import chunks
from ..checkpoint.tensors import TensorInfo
from ..engine.arrays import address_of
from ..errors import InputError
from ..messages import show
from ..spec.dtypes import DTYPE_CODES
from .nested import named
from .spelling import Spelling
from .targets import Kind, Target

if TYPE_CHECKING:
    import numpy as np

Factors = tuple["np.ndarray", "np.ndarray"]
"""Left [rows, rank] and right [rank, columns], float64, with all scales; stacks lead with one."""

_WAY_OUT = (
    "merge the models instead, each as BASE+ADAPTER, without adapter_rank; or merge the adapter "
    "into its model (PEFT: merge_and_unload) and extract another with 'tallies extract-lora'"
)


@dataclass(frozen=True)
class Operand:
    """One adapter of a merge."""

    adapter: Adapter
    label: str
    changes: Mapping[str, tuple[Change, ...]]
    """By tensor, the products that are added to it."""
    whole: Mapping[str, TensorInfo] = field(default_factory=dict)
    """By name, the tensors that replace the model's."""


def operand(adapter: Adapter, label: str) -> tuple[Operand, dict[str, Target]]:
    """Sort the edits of an adapter, and tell what it targets.

    Args:
        adapter: The adapter.
        label: Its name in messages.

    Raises:
        InputError: The adapter does what no product of factors can: DoRA, changes of rows.
    """
    changes: dict[str, tuple[Change, ...]] = {}
    whole: dict[str, TensorInfo] = {}
    targets: dict[str, Target] = {}
    for edit in named(adapter.edits):
        if isinstance(edit.change, TensorInfo):
            if not _is_copy(edit):
                whole[edit.name] = edit.change
        elif isinstance(edit.change, (Product, Hadamard, Kronecker)):
            targets[edit.name] = _target(edit, edit.change, adapter)
            changes[edit.name] = (*changes.get(edit.name, ()), edit.change)
        else:
            raise InputError(
                f"{edit.told_by.path}: tensor {show(edit.told_by.name)} {_what(edit.change)}, "
                f"which no adapter of factors alone can hold; {_WAY_OUT}"
            )
    return Operand(adapter, label, changes, whole), targets


def respelled(
    operand: Operand, targets: Mapping[str, Target], spelling: Spelling
) -> tuple[Operand, dict[str, Target], dict[str, str]]:
    """Return an operand and its targets by the names that earlier adapters have for them.

    Args:
        operand: The operand.
        targets: Its targets by their names.
        spelling: The names of the earlier adapters; those of this one join them.

    Returns:
        The operand, its targets, and the new names by the old ones.
    """
    new = spelling.renamed([*targets, *(one for one in operand.whole if one not in targets)])
    if not new:
        return operand, dict(targets), new
    changes = {new.get(name, name): one for name, one in operand.changes.items()}
    whole = {new.get(name, name): one for name, one in operand.whole.items()}
    renamed = [replace(one, name=new.get(name, name)) for name, one in targets.items()]
    operand = replace(operand, changes=changes, whole=whole)
    return operand, {one.name: one for one in renamed}, new


def _is_copy(edit: Edit) -> bool:
    """Tell if an edit is the model's own weight, which PEFT saves beside the factors of one.

    Biases are stored behind the same name, and these are trained.
    """
    return ".base_layer." in edit.told_by.name and not edit.name.endswith(".bias")


def _what(change: Change) -> str:
    if isinstance(change, Added):
        return "is added to a weight or a bias"
    name = type(change).__name__
    said = {"Magnitudes": "sets the norms of a weight (DoRA)", "Rows": "replaces rows of a weight"}
    return said.get(name, "changes a weight")


def _target(edit: Edit, change: Product | Hadamard | Kronecker, adapter: Adapter) -> Target:
    """Return the tensor that a product changes, and the kind that tells how factors are stored."""
    told = edit.told_by
    shape, kind = shape_of(change), Kind.LINEAR
    if "lora_embedding_" in told.name:
        kind = Kind.EMBEDDING
    elif len(shape) == 3:
        kind = Kind.STACK
    elif isinstance(change, Product) and len(told.shape) > 2:
        kind, shape = Kind.CONVOLUTION, _kernel(change, shape)
    elif not edit.name.endswith(".weight") or _is_parameter(edit.name, adapter):
        kind = Kind.PARAMETER
    elif adapter.config.get("fan_in_fan_out"):
        kind = Kind.TRANSPOSED
    return Target(edit.name, shape, kind)


def _is_parameter(name: str, adapter: Adapter) -> bool:
    """Tell if an adapter changes a weight as a parameter, without a layer of PEFT around it."""
    stated = adapter.config.get("target_parameters")
    given = [stated] if isinstance(stated, str) else stated if isinstance(stated, list) else []
    return any(f".{name}".endswith(f".{one}") for one in given)


def _kernel(product: Product, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a convolution's weight: the kernel is in the stored right factor."""
    stored = product.right.shape
    return (shape[0], *stored[1:]) if len(stored) > 2 else shape


def shape_of(change: Change) -> tuple[int, ...]:
    """Return the shape of what a change adds: a matrix or a stack of matrices."""
    match change:
        case Product(left, right):
            return (*left.shape[:-1], right.shape[-1])
        case Hadamard(a):
            return shape_of(a)
        case Kronecker(left, right):
            outer, inner = (
                one.shape if isinstance(one, TensorInfo) else shape_of(one) for one in (left, right)
            )
            return tuple(a * b for a, b in zip(outer, inner, strict=True))
    raise TypeError(type(change).__name__)


def rank_of(changes: Sequence[Change]) -> int:
    """Return the columns of the left factors of these changes side by side."""
    total = 0
    for change in changes:
        match change:
            case Product(left):
                total += left.shape[-1]
            case Hadamard(a, b):
                total += rank_of([a]) * rank_of([b])
            case Kronecker(left, right):
                total += math.prod(min(_matrix_shape(one)) for one in (left, right))
    return total


def _matrix_shape(one: TensorInfo | Product) -> tuple[int, ...]:
    if isinstance(one, TensorInfo):
        return one.shape
    return (*shape_of(one), one.left.shape[-1])


def factors_of(changes: Sequence[Change], *, finite: bool) -> Iterator[Factors]:
    """Yield the factors of the changes of one tensor.

    Args:
        changes: The changes.
        finite: Refuse NaN and infinite values.

    Raises:
        InputError: A factor is not finite.
        StorageError: A file cannot be read.
    """
    import numpy as np

    for change in changes:
        match change:
            case Product(left, right, scale):
                yield read_values(left, finite=finite) * scale, read_values(right, finite=finite)
            case Hadamard(a, b, scale):
                ((al, ar),), ((bl, br),) = ([*factors_of([one], finite=finite)] for one in (a, b))
                # The rows of both left factors, each entry with each: the product of products.
                left_rows = (al[:, :, None] * bl[:, None, :]).reshape(len(al), -1)
                yield left_rows * scale, (ar[:, None] * br[None]).reshape(-1, ar.shape[1])
            case Kronecker(left, right, scale):
                (al, ar), (bl, br) = (_split(one, finite) for one in (left, right))
                yield np.kron(al, bl) * scale, np.kron(ar, br)


def _split(one: TensorInfo | Product, finite: bool) -> Factors:
    """Return a matrix as two factors, one of them the identity."""
    import numpy as np

    if isinstance(one, Product):
        return next(factors_of([one], finite=finite))
    x = read_values(one, finite=finite)
    rows, columns = x.shape
    return (x, np.eye(columns)) if columns <= rows else (np.eye(rows), x)


def read_values(tensor: TensorInfo, *, finite: bool) -> np.ndarray:
    """Return a stored tensor as float64; InputError for one that must be finite and is not."""
    import numpy as np

    data = bytearray().join(chunks(tensor))
    out = np.empty(tensor.shape, np.float32)
    widen(address_of(data), DTYPE_CODES[tensor.dtype], out.ctypes.data, out.size)
    if finite and not np.isfinite(out).all():
        where = np.argwhere(~np.isfinite(out))[0]
        raise InputError(
            f"{tensor.path}: tensor {show(tensor.name)} holds {out[tuple(where)]} at "
            f"{[*map(int, where)]}; repair it, or allow it with nonfinite 'propagate' "
            "(--nonfinite propagate)"
        )
    return out.astype(np.float64)
