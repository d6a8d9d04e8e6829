"""The rows of embeddings and heads that not all models have, and that are the base's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from ..checkpoint.data import chunks, read_range
from ..checkpoint.match import Match, Model
from ..checkpoint.rows import last_rows
from ..checkpoint.tensors import TensorInfo
from ..engine.decoding import converted_chunks, decoded_chunks
from ..messages import show


def rows_warnings(match: Match, models: Sequence[Model]) -> Iterator[str]:
    """Yield a warning of each tensor that the models have in different numbers of rows."""
    for name, common in match.rows.items():
        sizes = ", ".join(f"{m.label} {match.source(m, name).shape[0]}" for m in models)
        n_rows = match.template[name].shape[0]
        rest = f"rows {common} to {n_rows - 1} are the base's" if common < n_rows else "no more"
        yield (
            f"tensor {show(name)}: {common} rows are merged, {rest}; the models have: {sizes}; "
            "rows of one number must be of one token"
        )


def copied_bytes(tensor: TensorInfo, dtype: str) -> Iterator[bytes]:
    """Yield the bytes of a tensor, as they are stored, or rounded to another dtype."""
    if tensor.is_decoded:
        yield from map(bytes, decoded_chunks(tensor, dtype))
    elif tensor.dtype == dtype:
        yield from map(bytes, chunks(tensor))
    else:
        yield from map(bytes, converted_chunks(tensor, dtype))


def holds_bytes(tensor: TensorInfo, pieces: Iterable[bytes]) -> bool:
    """Tell if a tensor's stored bytes are those that come piece by piece."""
    at = 0
    for piece in pieces:
        if read_range(tensor, at, len(piece)) != piece:
            return False
        at += len(piece)
    return at == tensor.n_bytes


def base_rows(base: TensorInfo, common: int, dtype: str) -> Iterator[bytes]:
    """Yield the bytes of the base's rows from ``common`` on, rounded to a dtype."""
    if base.is_decoded:
        first = common * math.prod(base.shape[1:])
        yield from map(bytes, decoded_chunks(base, dtype, first=first))
        return
    rest = last_rows(base, common)
    if rest.n_elements:
        yield from map(
            bytes, chunks(rest) if base.dtype == dtype else converted_chunks(rest, dtype)
        )
