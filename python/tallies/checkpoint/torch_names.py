"""The names that ``torch.save`` writes for tensors and containers, and records of what they make.

A call of such a name makes a record, never a tensor: the names are known here by their text, and
nothing is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

from ..messages import show
from ..spec.dtypes import TABLE
from .tensors import MAX_DIMENSIONS
from .torch_odd import Odd, odd

STORAGES: Final[Mapping[str, str | None]] = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
    "ComplexFloatStorage": "C64",
    "UntypedStorage": None,
}
"""Safetensors names of the types of stored elements, by torch's name for the storage."""


@dataclass(frozen=True, slots=True)
class Storage:
    """A stored array: its key in the archive, its dtype and its length; bytes without a dtype."""

    key: str
    dtype: str | None
    n_elements: int
    odd: Odd | None = None
    """Why its elements cannot be read."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A view of a storage; ``offset`` and ``strides`` count elements of ``dtype``."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Name:
    """A name that a pickle may use; ``build`` makes the value of a call."""

    text: str
    build: Callable[..., object] | None = None
    dtype: str | None = None
    odd: Odd | None = None
    """Why the name makes nothing that can be read."""


def storage(identity: object) -> Storage:
    """Read the record by which a pickle refers to an array of the archive."""
    if not isinstance(identity, tuple) or len(identity) != 5 or identity[0] != "storage":
        raise ValueError("refers to something outside that is no storage")
    _, kind, key, _, n_elements = identity
    if not isinstance(kind, Name) or not kind.text.endswith("Storage"):
        raise ValueError(f"refers to a storage of type {describe(kind)}")
    if not isinstance(key, str) or not _is_size(n_elements):
        raise ValueError(f"refers to storage {describe(key)} of {describe(n_elements)} elements")
    return Storage(key, kind.dtype, n_elements, kind.odd)


def _rebuild_tensor(stored: object, offset: object, shape: object, strides: object) -> object:
    return _tensor(stored, offset, shape, strides, None, None)


def _rebuild_tensor_v2(
    stored: object,
    offset: object,
    shape: object,
    strides: object,
    requires_grad: object,
    hooks: object,
    metadata: object = None,
) -> object:
    return _tensor(stored, offset, shape, strides, None, metadata)


def _rebuild_tensor_v3(
    stored: object,
    offset: object,
    shape: object,
    strides: object,
    requires_grad: object,
    hooks: object,
    dtype: object,
    metadata: object = None,
) -> object:
    if isinstance(dtype, Name) and dtype.odd:
        return dtype.odd
    if not isinstance(dtype, Name) or dtype.dtype is None:
        raise ValueError(f"has a tensor of type {describe(dtype)}")
    return _tensor(stored, offset, shape, strides, dtype.dtype, metadata)


def _tensor(
    stored: object,
    offset: object,
    shape: object,
    strides: object,
    dtype: str | None,
    metadata: object,
) -> StoredTensor | Odd:
    if not isinstance(stored, Storage):
        raise ValueError("has a tensor without a storage")
    if stored.odd:
        return stored.odd
    if not _is_size(offset) or not _are_sizes(shape) or not _are_sizes(strides):
        raise ValueError(
            f"has a tensor of shape {describe(shape)}, strides {describe(strides)} and offset "
            f"{describe(offset)}, expected non-negative integers"
        )
    if len(shape) > MAX_DIMENSIONS:
        raise ValueError(
            f"has a tensor of {len(shape)} dimensions, expected at most {MAX_DIMENSIONS}"
        )
    if len(shape) != len(strides):
        raise ValueError(f"has a tensor of shape {show(shape)} with {len(strides)} strides")
    if isinstance(metadata, dict) and (metadata.get("conj") or metadata.get("neg")):
        return Odd("is conjugated or negated only when it is read")
    found = dtype or stored.dtype
    if found is None:
        return Odd("is of bytes without a type")
    return StoredTensor(stored, found, offset, shape, strides)


def _rebuild_parameter(
    tensor: object, requires_grad: object, hooks: object, state: object = None
) -> object:
    return tensor


def _rebuild_from_type(
    build: object, kind: object, arguments: object, state: object = None
) -> object:
    """Make a tensor that has attributes; one of a class of its own is odd."""
    if not isinstance(kind, Name) or kind.text not in _PLAIN_TENSORS:
        return kind.odd if isinstance(kind, Name) and kind.odd else Odd(f"is a {describe(kind)}")
    if not isinstance(build, Name) or build.build is None or not isinstance(arguments, tuple):
        raise ValueError("has a tensor that nothing makes")
    return build.build(*arguments)


def _size(sizes: object) -> object:
    return sizes


def _ordered_dict() -> dict[Any, Any]:
    return {}


_BUILDERS: Final[Mapping[tuple[str, str], Callable[..., object]]] = {
    ("collections", "OrderedDict"): _ordered_dict,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor_v2,
    ("torch._utils", "_rebuild_tensor_v3"): _rebuild_tensor_v3,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_from_type,
    ("torch", "Size"): _size,
}

_PLAIN_TENSORS: Final = ("torch.Tensor", "torch.nn.parameter.Parameter")

_NAMES: Final[Mapping[tuple[str, str], Name]] = {
    **{place: Name(".".join(place), build) for place, build in _BUILDERS.items()},
    **{("torch", name): Name(f"torch.{name}", None, dtype) for name, dtype in STORAGES.items()},
    **{
        ("torch", d.array_name): Name(f"torch.{d.array_name}", None, d.name)
        for d in TABLE
        if not d.n_bits
    },
    ("torch", "Tensor"): Name("torch.Tensor"),
    ("torch.nn.parameter", "Parameter"): Name("torch.nn.parameter.Parameter"),
    ("torch.storage", "UntypedStorage"): Name("torch.storage.UntypedStorage"),
}


def find(module: str, name: str) -> Name:
    """Look up a name that a pickle uses; one that is not known makes an ``Odd``, and runs nothing.

    >>> find("os", "system").odd.why
    "names 'os.system', which was not run; expected tensors and containers"
    """
    found = _NAMES.get((module, name))
    if found is not None:
        return found
    why = odd(f"{module}.{name}")
    return Name(f"{module}.{name}", lambda *_: why, odd=why)


def describe(value: object) -> str:
    """Say what a value is, without following what it contains."""
    if isinstance(value, Name):
        return value.text
    if isinstance(value, str | int | float | None):
        return show(value)
    if isinstance(value, tuple) and all(isinstance(one, int) for one in value):
        return show(value)
    return f"a {type(value).__name__}"


def _is_size(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 2**63


def _are_sizes(value: object) -> TypeGuard[tuple[int, ...]]:
    return isinstance(value, tuple) and all(map(_is_size, value))
