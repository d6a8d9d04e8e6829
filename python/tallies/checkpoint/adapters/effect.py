"""Tell an adapter that changes nothing: one that was saved before it was trained.

Training begins with a factor of zeros. A factor that was trained has another value in its first
bytes, so that no more of it is read.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ...spec.dtypes import DTYPES
from ..changes import Hadamard, Kronecker, Product, pieces
from ..json_text import refuse_unreadable
from ..strided import row_major, span
from ..tensors import TensorInfo
from .adapter import Adapter

_CHUNK: Final = 1 << 16
_MAGNITUDE: Final = bytes.maketrans(b"\x80", b"\x00")
"""Takes the sign from a zero, whose other bytes are zeros as well."""


def with_warning_of_no_effect(adapter: Adapter) -> Adapter:
    """Return an adapter with a warning if it is nothing but products of zero."""
    for edit in adapter.edits:
        change = edit.change
        if not isinstance(change, Product | Hadamard | Kronecker):
            return adapter
        if change.scale != 0 and not any(map(_is_zero, pieces(change))):
            return adapter
    warning = (
        f"{adapter.path}: changes nothing: all its products are zero, as those of an adapter that "
        "was saved before it was trained; leave it out, or look for the trained one"
    )
    return replace(adapter, warnings=(*adapter.warnings, warning))


def _is_zero(tensor: TensorInfo) -> bool:
    left = span(tensor.shape, tensor.strides or row_major(tensor.shape)) * DTYPES[tensor.dtype]
    try:
        with open(tensor.path, "rb") as file:
            file.seek(tensor.offset)
            while left > 0 and (text := file.read(min(left, _CHUNK))):
                if text.translate(_MAGNITUDE).count(0) < len(text):
                    return False
                left -= len(text)
    except OSError as error:
        refuse_unreadable(error, tensor.path)
    return True
