"""Rows of embeddings that PEFT trains one by one: ``trainable_token_indices``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from ...messages import show
from ...spec.dtypes import DTYPES
from ..changes import Rows
from ..strided import row_major
from ..tensors import TensorInfo
from .adapter import Edit
from .factors import check_dtype, refuse
from .peft_fields import token_lists
from .peft_names import Sorted

TOKENS: Final = "trainable_tokens_delta"
"""The piece of a module that has the trained rows."""


def read_tokens(pieces: Sorted, config: Mapping[str, object], path: Path) -> Iterable[Edit]:
    """Yield the changes of an adapter of nothing but trained tokens.

    Args:
        pieces: The tensors of the adapter.
        config: Its configuration.
        path: The configuration's file.

    Raises:
        InputError: The configuration names no such tokens, or the file has other pieces.
    """
    tokens = token_lists(config, "token_indices", path)
    for module in pieces.modules:
        for piece, tensor in module.tensors.items():
            if piece != TOKENS:
                refuse(tensor, "is no row of an embedding")
            yield from token_rows(module.module, tensor, tokens, path)


def token_rows(
    module: str,
    values: TensorInfo,
    tokens: Mapping[str, tuple[int, ...]] | tuple[int, ...],
    path: Path,
) -> Iterable[Edit]:
    """Yield the changes of the rows of one module, each of rows in ascending order.

    Args:
        module: The module.
        values: Its trained rows, [tokens, columns].
        tokens: The rows' numbers: of any module, or by ends of the names of modules.
        path: The configuration's file.

    Raises:
        InputError: The rows are not as many as the tokens.
    """
    if isinstance(tokens, Mapping):
        ends = [end for end in tokens if f".{module}".endswith(f".{end}")]
        indices = tokens[max(ends, key=len)] if ends else ()
    else:
        indices = tokens
    check_dtype(values)
    if len(values.shape) != 2 or values.shape[0] != len(indices):
        refuse(
            values,
            f"has shape {show(values.shape)}, expected {len(indices)} rows, for the tokens that "
            f"{path.name} states for {show(module)}",
        )
    begin = 0
    for end in range(1, len(indices) + 1):
        if end == len(indices) or indices[end] <= indices[end - 1]:
            part = Rows(indices[begin:end], _rows(values, begin, end))
            yield Edit(f"{module}.weight", part, values)
            begin = end


def _rows(values: TensorInfo, begin: int, end: int) -> TensorInfo:
    """Return a view of some rows of a matrix."""
    n, columns = end - begin, values.shape[1]
    step, item = (values.strides or row_major(values.shape))[0], DTYPES[values.dtype]
    return replace(
        values,
        shape=(n, columns),
        offset=values.offset + begin * step * item,
        n_bytes=n * columns * item,
    )
