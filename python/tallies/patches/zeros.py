"""Tensors of zeros, which take no memory and no disk."""

from __future__ import annotations

import os
import weakref
from functools import lru_cache
from pathlib import Path

from ..checkpoint.tensors import TensorInfo
from ..spec.dtypes import size_of


def zeros_of(name: str, dtype: str, shape: tuple[int, ...]) -> TensorInfo:
    """Return a tensor of zeros, in a file without a name that ends where the largest one does."""
    n_bytes = size_of(dtype, shape)
    return TensorInfo(name, dtype, shape, _file().at_least(n_bytes), 0, n_bytes)


class _Hole:
    """A file in memory of which nothing is written, so that no page of it is there."""

    def __init__(self) -> None:
        self._file = os.memfd_create("tallies-zeros", os.MFD_CLOEXEC)
        weakref.finalize(self, os.close, self._file)
        self._n_bytes = 0

    def at_least(self, n_bytes: int) -> Path:
        """Return the path of the file, which has this many bytes or more."""
        if n_bytes > self._n_bytes:
            os.ftruncate(self._file, n_bytes)
            self._n_bytes = n_bytes
        return Path(f"/proc/self/fd/{self._file}")


@lru_cache(maxsize=1)
def _file() -> _Hole:
    return _Hole()
