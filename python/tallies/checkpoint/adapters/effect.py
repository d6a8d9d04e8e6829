"""Find adapters without effect: those that were never trained add a product with zeros."""

from __future__ import annotations

from ..changes import Added, Change, Hadamard, Kronecker, Product
from ..data import chunks
from ..tensors import TensorInfo
from .adapter import Adapter


def has_effect(adapter: Adapter) -> bool:
    """Return False for an adapter whose changes are all additions of zeros.

    Values are read up to the first that is not zero, which mostly is the first of all.

    Raises:
        StorageError: A file cannot be read.
    """
    return any(
        isinstance(edit.change, TensorInfo) or _changes(edit.change) for edit in adapter.edits
    )


def _changes(change: Change) -> bool:
    match change:
        case Product(left, right, scale):
            return scale != 0 and _is_set(left) and _is_set(right)
        case Hadamard(a, b, scale):
            return scale != 0 and _changes(a) and _changes(b)
        case Kronecker(left, right, scale):
            return scale != 0 and _is_set(left) and _is_set(right)
        case Added(values, scale):
            return scale != 0 and _is_set(values)
        case _:
            return True


def _is_set(factor: TensorInfo | Product) -> bool:
    """Return True if a factor has a byte that is not zero."""
    if isinstance(factor, Product):
        return _changes(factor)
    return any(chunk.count(0) < len(chunk) for chunk in chunks(factor))
