"""Reads the frames of delta versions, each of which changes the bytes of one tensor."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import InputError


def apply_xor(where: str, delta: bytes, data: npt.NDArray[np.uint8]) -> None:
    """Change bytes by ``new ^ old``; InputError for a delta of another length."""
    if len(delta) != data.size:
        raise InputError(f"{where}: has {len(delta)} bytes, and the model {data.size}")
    data ^= np.frombuffer(delta, np.uint8)


def apply_overwrite(where: str, delta: bytes, data: npt.NDArray[np.uint8]) -> None:
    """Put new bytes at positions; InputError where these lie outside, or counts disagree."""
    n = int.from_bytes(delta[:4], "little")
    if len(delta) != 4 + 5 * n:
        raise InputError(f"{where}: has {len(delta)} bytes, expected {4 + 5 * n} for {n} positions")
    at = np.frombuffer(delta, "<u4", n, 4)
    if n and int(at.max()) >= data.size:
        raise InputError(f"{where}: has position {int(at.max())}, expected one below {data.size}")
    data[at] = np.frombuffer(delta, np.uint8, n, 4 + 4 * n)


def decompressed(where: str, frame: bytes, most: int) -> bytes:
    """Return the content of a frame; InputError for a damaged one, or one of too many bytes."""
    zstandard = zstandard_module()
    try:
        if (n := zstandard.frame_content_size(frame)) > most:
            raise InputError(f"{where}: unpacks to {n} bytes, expected at most {most}")
        return bytes(zstandard.ZstdDecompressor().decompress(frame, max_output_size=most))
    except zstandard.ZstdError as error:
        raise InputError(f"{where}: is damaged: {error}; copy the version again") from None


def zstandard_module() -> Any:
    """Return the module zstandard; InputError if it is missing."""
    try:
        import zstandard
    except ImportError:
        raise InputError("delta versions need zstandard: pip install 'tallies[zstd]'") from None
    return zstandard
