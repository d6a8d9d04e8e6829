"""Reads and allocates arrays of NumPy and tensors of torch."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..errors import InputError
from ..messages import show, unknown
from ..spec.dtypes import BY_NAME, DTYPE_CODES, DTYPE_OF_ARRAY, OPAQUE
from .files import Place
from .odd_tensors import odd_kind

_KNOWN: Final = (*DTYPE_OF_ARRAY, *(BY_NAME[name].array_name for name in sorted(OPAQUE)))


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
        InputError: ``value`` has no values in memory, or a type that no file can hold.
    """
    given: tuple[Any, ...]
    if is_torch(value):
        if (odd := odd_kind(value)) is not None:
            raise InputError(
                f"tensor {show(name)}: found {odd[0]}, expected a dense tensor; {odd[1]}"
            )
        given = (str(value.device), value.data_ptr(), value.stride())
        value = value.detach().resolve_conj().resolve_neg().cpu().contiguous()
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
    if dtype not in _KNOWN and not dtype.startswith(("int", "uint", "bool")):
        raise InputError(
            f"tensor {show(name)}: found dtype {dtype}, expected an integer or boolean one or one "
            f"of {', '.join(_KNOWN)}; convert it"
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


def array_shape(dtype: str, shape: Sequence[int]) -> tuple[int, ...] | None:
    """Return the shape of an array of a stored tensor; None where no array holds it.

    >>> array_shape("BF16", [2, 4]), array_shape("F4", [2, 4]), array_shape("F6_E2M3", [4])
    ((2, 4), (2, 2), None)
    """
    one = BY_NAME[dtype]
    if one.in_array == 1:
        return tuple(shape) if one.array_name else None
    if not shape or shape[-1] % one.in_array:
        return None
    return (*shape[:-1], shape[-1] // one.in_array)


def stored_shape(dtype: str, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of the stored tensor of an array.

    >>> stored_shape("BF16", (2, 4)), stored_shape("F4", (2, 2))
    ((2, 4), (2, 4))
    """
    *rest, last = map(int, shape) if len(shape) else [0]
    return (*rest, last * BY_NAME[dtype].in_array) if len(shape) else ()


FRAMEWORKS: Final = ("numpy", "torch")


def new_array(name: str, dtype: str, shape: Sequence[int], framework: str) -> tuple[Any, int]:
    """Return a new array or CPU tensor, not initialised, and its address.

    Args:
        name: The name for messages.
        dtype: The safetensors name of the dtype.
        shape: The shape.
        framework: ``"numpy"`` or ``"torch"``.

    Raises:
        InputError: ``framework`` or ``dtype`` is none of ours, the framework lacks the dtype, or
            ml_dtypes, which has it for NumPy, is not installed.
    """
    if framework not in FRAMEWORKS:
        raise InputError(f"framework {unknown(framework, FRAMEWORKS)}")
    known = BY_NAME.get(dtype)
    own = None if known is None else array_shape(dtype, shape)
    if known is None or own is None or (framework == "numpy" and known.n_bits):
        raise InputError(
            f"tensor {name!r}: {framework} has no arrays of dtype {dtype} and shape {list(shape)}; "
            "unpack to disk"
        )
    if framework == "torch":
        import torch

        tensor = torch.empty(own, dtype=getattr(torch, known.array_name))
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
        array = np.empty(own, getattr(ml_dtypes, known.array_name))
    else:
        array = np.empty(own, known.array_name)
    return array, array.ctypes.data
