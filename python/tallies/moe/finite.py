"""Refuse values of a mixture that its dtype does not hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from .._core import Limits, Source
from ..checkpoint.tensors import TensorInfo
from ..engine.arrays import address_of
from ..engine.decoding import written_chunks
from ..engine.nonfinite import nonfinite_tensor, objection
from ..errors import InputError
from ..messages import show
from ..spec.dtypes import BY_NAME, DTYPE_CODES, DTYPES

_LIMITS: Final = Limits(1, 1 << 20)


def finite_chunks(
    name: str, tensor: TensorInfo, dtype: str, factor: float
) -> Iterator[bytes | bytearray]:
    """Yield the bytes of a weight of the result, whose computed values have to be finite.

    A weight whose stored bytes are copied is not looked at.

    Args:
        name: The tensor of the result.
        tensor: The weight of a dense model.
        dtype: The dtype of the result.
        factor: The factor on the weight.

    Raises:
        InputError: A computed value is NaN or infinite.
        StorageError: The bytes cannot be read.
    """
    found = written_chunks(tensor, dtype, factor)
    if factor == 1.0 and tensor.dtype == dtype and not tensor.is_decoded:
        yield from found
        return
    for chunk in found:
        if count := _n_not_finite(chunk, dtype):
            raise InputError(_why(name, tensor, dtype, factor, count))
        yield chunk


def _n_not_finite(data: bytearray, dtype: str) -> int:
    import numpy as np

    n = len(data) // DTYPES[dtype]
    floats = np.empty(n, np.float32)
    source = Source.plain(values=(-1, address_of(data), DTYPE_CODES[dtype]))
    source.decode(n_elements=n, threads=1, out=floats.ctypes.data)
    return n - int(np.isfinite(floats).sum())


def _why(name: str, tensor: TensorInfo, dtype: str, factor: float, count: int) -> str:
    blamed = nonfinite_tensor(tensor, _LIMITS)
    if blamed[1]:
        return f"tensor {show(name)}: {objection(*blamed, 'repair the model')}"
    kind = BY_NAME[dtype].array_name
    made = f" times residual_scale {factor:g}" if factor != 1.0 else ""
    way_out = "lower residual_scale, or set" if factor != 1.0 else "set"
    return (
        f"tensor {show(name)}: {count} values are NaN or infinite in {kind}, expected finite "
        f"ones; they are those of tensor {show(tensor.name)} of {tensor.path}{made}, which are "
        f"too large; {way_out} a wider dtype such as bfloat16 or float32"
    )
