"""Computes the checksums of delta versions."""

from __future__ import annotations

import zlib
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from ...errors import InputError

CHECKSUMS: Final = ("xxh3-128", "blake3", "adler32")


class _Hash(Protocol):
    def update(self, data: Any, /) -> object: ...

    def hexdigest(self) -> str: ...


def checksum(algorithm: str, data: npt.NDArray[np.uint8]) -> str:
    """Return the checksum of bytes in hexadecimal digits.

    Args:
        algorithm: One of ``CHECKSUMS``.
        data: The bytes.

    Raises:
        InputError: The package of the algorithm is missing.

    >>> checksum("adler32", np.arange(4, dtype=np.uint8))
    '000e0007'
    """
    if algorithm == "adler32":
        return f"{zlib.adler32(data.data):08x}"
    made: _Hash
    try:
        if algorithm == "xxh3-128":
            import xxhash

            made = xxhash.xxh3_128()
        else:
            import blake3

            made = blake3.blake3()
    except ImportError:
        package = "xxhash" if algorithm == "xxh3-128" else "blake3"
        raise InputError(
            f"checksums {algorithm!r} need the package {package}: pip install {package}"
        ) from None
    made.update(data.data)
    return made.hexdigest()
