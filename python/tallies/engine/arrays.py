"""Arrays of NumPy and tensors of torch, as the engine reads and allocates them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..errors import InputError
from ..messages import show, unknown
from ..spec.dtypes import BY_NAME, DTYPE_CODES, DTYPE_OF_ARRAY
from .files import Place


@dataclass(frozen=True)
class Array:
    """A contiguous array on the CPU: what matching and the native code need to know of it."""

    dtype: str
    shape: tuple[int, ...]
    address: int
    n_elements: int
    owner: Any
    """Keeps the memory alive."""
    given: tuple[Any, ...]
    """Where the values lay before: the device, the address and the strides."""

    @property
    def place(self) -> Place:
        """The array as the native code takes it."""
        return (-1, self.address, DTYPE_CODES[self.dtype])


def is_torch(value: Any) -> bool:
    """Whether this is a torch tensor; does not import torch."""
    return type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "data_ptr")


def view(name: str, value: Any) -> Array:
    """The array or tensor as native code reads it; a contiguous copy on the CPU where needed.

    InputError for what holds no values in memory, and for types that neither merge nor are integer
    or boolean.
    """
    given: tuple[Any, ...]
    if is_torch(value):
        if value.is_meta or str(value.layout) != "torch.strided":
            kind = "a meta tensor" if value.is_meta else f"layout {value.layout}"
            raise InputError(f"tensor {show(name)}: found {kind}, expected a dense tensor")
        given = (str(value.device), value.data_ptr(), value.stride())
        value = value.detach().cpu().contiguous()
        dtype, address = str(value.dtype).removeprefix("torch."), value.data_ptr()
    elif hasattr(value, "__array_interface__") and hasattr(value, "dtype"):
        import numpy as np

        value = np.asarray(value)
        if not value.dtype.isnative or value.dtype.hasobject:
            raise InputError(f"tensor {show(name)}: dtype {value.dtype}, expected a native one")
        given = ("cpu", value.ctypes.data, value.strides)
        value = np.require(value, requirements=("C", "ALIGNED"))
        dtype, address = value.dtype.name, value.ctypes.data
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
    shape = tuple(int(size) for size in value.shape)
    n_elements = int(value.numel() if is_torch(value) else value.size)
    return Array(DTYPE_OF_ARRAY.get(dtype, dtype), shape, address, n_elements, value, given)


def empty_like(value: Any) -> Any:
    """A new contiguous array or CPU tensor of this shape and dtype."""
    if is_torch(value):
        import torch

        return torch.empty(value.shape, dtype=value.dtype)
    import numpy as np

    return np.empty(value.shape, dtype=value.dtype)


FRAMEWORKS: Final = ("numpy", "torch")


def new_array(name: str, dtype: str, shape: Sequence[int], framework: str) -> tuple[Any, int]:
    """An array or CPU tensor of this safetensors dtype, not initialised, and its address.

    bfloat16 and float8 arrays of NumPy need the ml_dtypes package; InputError without it.
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
