"""Reads and allocates arrays of NumPy and tensors of torch."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..errors import InputError
from ..messages import show, unknown
from ..spec.dtypes import BY_NAME, DTYPE_CODES, DTYPE_OF_ARRAY
from .files import Place
from .odd_tensors import odd_kind


@dataclass(frozen=True)
class Array:
    """A contiguous array on the CPU, as matching and native passes take it."""

    dtype: str
    shape: tuple[int, ...]
    address: int
    n_elements: int
    owner: Any
    """Keeps the memory alive."""
    given: tuple[Any, ...]
    """The device, the address and the strides of the values that were given."""

    @property
    def place(self) -> Place:
        """The array as native passes take it."""
        return (-1, self.address, DTYPE_CODES[self.dtype])


def address_of(data: bytearray) -> int:
    """Return the address of a buffer, which must outlive its use; 0 for an empty one."""
    return ctypes.addressof(ctypes.c_char.from_buffer(data)) if data else 0


def is_torch(value: Any) -> bool:
    """Return True for a torch tensor; does not import torch."""
    return _is_type_of_torch(type(value))  # type: ignore[arg-type]


@functools.lru_cache(maxsize=64)
def _is_type_of_torch(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "torch" and hasattr(kind, "data_ptr")


@functools.lru_cache(maxsize=64)
def _name_of(dtype: Any) -> str:
    """Return the name of a dtype, which NumPy and torch make anew each time."""
    return str(dtype.name) if hasattr(dtype, "name") else str(dtype).removeprefix("torch.")


def view(name: str, value: Any) -> Array:
    """Return an array or tensor as native passes read it, copied to the CPU in order if need be.

    Args:
        name: The name for messages.
        value: A numpy array or torch tensor.

    Raises:
        InputError: ``value`` has no values in memory, or a type that neither merges nor is integer
            or boolean.
    """
    given: tuple[Any, ...]
    if is_torch(value):
        if (odd := odd_kind(value)) is not None:
            raise InputError(
                f"tensor {show(name)}: found {odd[0]}, expected a dense tensor; {odd[1]}"
            )
        given = (str(value.device), value.data_ptr(), value.stride())
        value = value.detach().resolve_neg().cpu().contiguous()
        dtype, address, n_elements = _name_of(value.dtype), value.data_ptr(), value.numel()
    elif hasattr(value, "__array_interface__") and hasattr(value, "dtype"):
        import numpy as np

        value = np.asarray(value)
        if not value.dtype.isnative or value.dtype.hasobject:
            raise InputError(f"tensor {show(name)}: dtype {value.dtype}, expected a native one")
        address = value.__array_interface__["data"][0]
        given = ("cpu", address, value.strides)
        if not (value.flags.c_contiguous and value.flags.aligned):
            value = np.require(value, requirements=("C", "ALIGNED"))
            address = value.__array_interface__["data"][0]
        dtype, n_elements = _name_of(value.dtype), value.size
    else:
        found = type(value).__name__
        raise InputError(
            f"tensor {show(name)}: found {found}, expected a numpy array or torch tensor"
        )
    if dtype not in DTYPE_OF_ARRAY and not dtype.startswith(("int", "uint", "bool")):
        raise InputError(
            f"tensor {show(name)}: found dtype {dtype}, expected an integer or boolean one or one "
            f"of {', '.join(DTYPE_OF_ARRAY)}; convert it"
        )
    shape = tuple(map(int, value.shape))
    return Array(DTYPE_OF_ARRAY.get(dtype, dtype), shape, address, int(n_elements), value, given)


def empty_like(value: Any) -> Any:
    """Return a new contiguous array or CPU tensor of this shape and dtype."""
    if is_torch(value):
        import torch

        return torch.empty(value.shape, dtype=value.dtype)
    import numpy as np

    return np.empty(value.shape, dtype=value.dtype)


def array_dtype(dtype: str, framework: str) -> Any:
    """Return the dtype of arrays of a framework by its safetensors name; both must be known."""
    name = BY_NAME[dtype].array_name
    if framework == "torch":
        import torch

        return getattr(torch, name)
    if BY_NAME[dtype].in_ml_dtypes:
        import ml_dtypes

        return getattr(ml_dtypes, name)
    import numpy as np

    return np.dtype(name)


FRAMEWORKS: Final = ("numpy", "torch")


def new_array(name: str, dtype: str, shape: Sequence[int], framework: str) -> tuple[Any, int]:
    """Return a new array or CPU tensor, not initialised, and its address.

    Args:
        name: The name for messages.
        dtype: The safetensors name of the dtype.
        shape: The shape.
        framework: ``"numpy"`` or ``"torch"``.

    Raises:
        InputError: ``framework`` or ``dtype`` is none of ours, or NumPy lacks the dtype and
            ml_dtypes is not installed.
    """
    if framework not in FRAMEWORKS:
        raise InputError(f"framework {unknown(framework, FRAMEWORKS)}")
    known = BY_NAME.get(dtype)
    if known is None:
        raise InputError(
            f"tensor {name!r}: arrays of dtype {dtype} are not supported; unpack to disk"
        )
    if framework == "torch":
        import torch

        tensor = torch.empty(tuple(shape), dtype=getattr(torch, known.array_name))
        return tensor, tensor.data_ptr()
    import numpy as np

    if known.in_ml_dtypes:
        try:
            import ml_dtypes
        except ImportError:
            raise InputError(
                f"tensor {name!r} is {dtype}, which NumPy lacks; install ml_dtypes, or pass "
                "framework='torch'"
            ) from None
        array = np.empty(tuple(shape), getattr(ml_dtypes, known.array_name))
    else:
        array = np.empty(tuple(shape), known.array_name)
    return array, array.ctypes.data
