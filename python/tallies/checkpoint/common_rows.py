"""Cut embeddings and heads to the rows that all models of a merge have."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from ..messages import show
from .checkpoint import Checkpoint
from .row_maps import RowMap, mapped
from .rows import first_rows
from .tensors import TensorInfo
from .tied import is_by_token


def common_rows(models: Sequence[Checkpoint]) -> dict[str, int]:
    """Return the rows that all models have, of embeddings and heads in which they differ.

    Tensors that differ in more than their rows are left to the comparison of all shapes.
    """
    found: dict[str, set[tuple[int, ...]]] = {}
    for one in models:
        for name, tensor in one.tensors.items():
            if is_by_token(name) and tensor.shape:
                found.setdefault(name, set()).add(tensor.shape)
    return {
        name: min(rows for rows, *_ in shapes)
        for name, shapes in found.items()
        if len(shapes) > 1 and len({tuple(columns) for _, *columns in shapes}) == 1
    }


def truncated(model: Checkpoint, rows: Mapping[str, int]) -> Checkpoint:
    """Return a model with the first rows alone of these tensors, of which it may lack some."""
    cut = {
        name: _cut(tensor, rows[name])
        for name, tensor in model.tensors.items()
        if name in rows and rows[name] != tensor.shape[0]
    }
    return replace(model, tensors=model.tensors | cut)


def _cut(tensor: TensorInfo, n_rows: int) -> TensorInfo:
    if tensor.is_decoded:
        return mapped(tensor, RowMap(array("q", range(n_rows))))
    return first_rows(tensor, n_rows)


def truncation_warnings(models: Sequence[Checkpoint], rows: Mapping[str, int]) -> Iterator[str]:
    """Yield a warning of each tensor that is cut.

    Args:
        models: The models as they are stored.
        rows: The rows that are kept.
    """
    for name, n_rows in rows.items():
        sizes = ", ".join(
            f"{one.label} {one.tensors[name].shape[0]}" for one in models if name in one.tensors
        )
        yield (
            f"tensor {show(name)}: cut to its first {n_rows} rows; the result lacks the others; "
            f"the models have: {sizes}; rows of one number must be of one token"
        )
