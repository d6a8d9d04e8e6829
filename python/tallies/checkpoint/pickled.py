"""Read the tensors and containers that a pickle states, without running the pickle.

A pickle is a program for a stack machine. The standard library's machine imports and calls names
that the program gives; the machine here knows the few names that ``torch.save`` writes for tensors
and containers, builds plain records for those names, and refuses all other names. Nothing is
imported, and no value but text and numbers is hashed, so that no program can run code or exhaust
the C stack.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

from ..messages import show
from ..spec.dtypes import _NAMES as TORCH_NAMES

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
    "UntypedStorage": None,
}
"""Safetensors names of the types of stored elements, by torch's name for the storage."""


@dataclass(frozen=True, slots=True)
class Storage:
    """A stored array: its key in the archive, its dtype and its length; bytes without a dtype."""

    key: str
    dtype: str | None
    n_elements: int


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A view of a storage; ``offset`` and ``strides`` count elements of ``dtype``."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Name:
    """A name that a pickle may use; ``build`` makes the value of a call."""

    text: str
    build: Callable[..., object] | None = None
    dtype: str | None = None


class _Mark:
    """Where a list of arguments begins on the stack."""


_MARK: Final = _Mark()


def load(data: bytes) -> object:
    """Build the value that a pickle states.

    Args:
        data: The bytes of the pickle.

    Returns:
        Dicts, lists, tuples, numbers, texts and ``StoredTensor`` records. Containers may contain
        themselves, and a container may stand in several places.

    Raises:
        ValueError: For anything else that the pickle names, and for a damaged pickle; the text
            says which.
    """
    machine = _Machine()
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name == "STOP":
            return machine.pop()
        machine.step(opcode.name, argument)
    raise ValueError("the pickle ends early")


class _Machine:
    """The stack, the memo and one step."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        if name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _LITERALS:
            self._stack.append(argument)
        elif name in ("PROTO", "FRAME"):
            pass
        elif (method := getattr(self, f"_{name.lower()}", None)) is not None:
            method(argument)
        else:
            raise ValueError(f"has the instruction {name}, expected tensors and containers")

    def pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise ValueError("takes a value from an empty stack")
        return self._stack.pop()

    def _top(self, kind: type[Any]) -> Any:
        if not self._stack or not isinstance(self._stack[-1], kind):
            raise ValueError(f"fills a {kind.__name__} that is not there")
        return self._stack[-1]

    def _since_mark(self) -> list[Any]:
        values: list[Any] = []
        while self._stack:
            value = self._stack.pop()
            if value is _MARK:
                return values[::-1]
            values.append(value)
        raise ValueError("takes values up to a mark that is not there")

    def _mark(self, _: Any) -> None:
        self._stack.append(_MARK)

    def _pop(self, _: Any) -> None:
        self.pop()

    def _pop_mark(self, _: Any) -> None:
        self._since_mark()

    def _empty_list(self, _: Any) -> None:
        self._stack.append([])

    def _empty_dict(self, _: Any) -> None:
        self._stack.append({})

    def _list(self, _: Any) -> None:
        self._stack.append(self._since_mark())

    def _dict(self, _: Any) -> None:
        pairs = self._since_mark()
        self._stack.append({})
        self._set(pairs)

    def _append(self, _: Any) -> None:
        value = self.pop()
        self._top(list).append(value)

    def _appends(self, _: Any) -> None:
        values = self._since_mark()
        self._top(list).extend(values)

    def _setitem(self, _: Any) -> None:
        value = self.pop()
        self._set([self.pop(), value])

    def _setitems(self, _: Any) -> None:
        self._set(self._since_mark())

    def _set(self, pairs: list[Any]) -> None:
        filled = self._top(dict)
        if len(pairs) % 2:
            raise ValueError("has a key without a value")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if not isinstance(key, str | int | float | bytes | None):
                raise ValueError(f"has a key that is a {type(key).__name__}, expected text")
            if key in filled:
                raise ValueError(f"has the key {show(key)} twice")
            filled[key] = value

    def _tuple(self, _: Any) -> None:
        self._stack.append(tuple(self._since_mark()))

    def _tuple1(self, _: Any) -> None:
        self._stack.append((self.pop(),))

    def _tuple2(self, _: Any) -> None:
        last = self.pop()
        self._stack.append((self.pop(), last))

    def _tuple3(self, _: Any) -> None:
        last, middle = self.pop(), self.pop()
        self._stack.append((self.pop(), middle, last))

    def _put(self, index: int) -> None:
        self._memo[index] = self.pop()
        self._stack.append(self._memo[index])

    _binput = _long_binput = _put

    def _memoize(self, _: Any) -> None:
        self._put(len(self._memo))

    def _get(self, index: int) -> None:
        if index not in self._memo:
            raise ValueError(f"takes value {index}, which it did not store")
        self._stack.append(self._memo[index])

    _binget = _long_binget = _get

    def _global(self, text: str) -> None:
        self._stack.append(_find(*text.split(" ", 1)))

    def _stack_global(self, _: Any) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("names something by what is no text")
        self._stack.append(_find(module, name))

    def _reduce(self, _: Any) -> None:
        arguments, called = self.pop(), self.pop()
        if not isinstance(called, _Name) or called.build is None:
            raise ValueError(f"calls {_describe(called)}, expected tensors and containers")
        if not isinstance(arguments, tuple):
            raise ValueError(f"calls {called.text} without arguments")
        try:
            self._stack.append(called.build(*arguments))
        except TypeError:
            raise ValueError(
                f"calls {called.text} with {len(arguments)} arguments, which it does not take"
            ) from None

    def _build(self, _: Any) -> None:
        """Drop the attributes of a container, such as the ``_metadata`` of a state dict."""
        self.pop()
        self._top(dict)

    def _binpersid(self, _: Any) -> None:
        self._stack.append(_storage(self.pop()))


_CONSTANTS: Final[Mapping[str, object]] = {
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
    "EMPTY_TUPLE": (),
}

_LITERALS: Final = frozenset(
    {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
    | {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
    | {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}
)


def _storage(identity: object) -> Storage:
    """Read the record by which a pickle refers to an array of the archive."""
    if not isinstance(identity, tuple) or len(identity) != 5 or identity[0] != "storage":
        raise ValueError("refers to something outside that is no storage")
    _, kind, key, _, n_elements = identity
    if not isinstance(kind, _Name) or not kind.text.endswith("Storage"):
        raise ValueError(f"refers to a storage of type {_describe(kind)}")
    if not isinstance(key, str) or not _is_size(n_elements):
        raise ValueError(f"refers to storage {_describe(key)} of {_describe(n_elements)} elements")
    return Storage(key, kind.dtype, n_elements)


def _rebuild_tensor(
    storage: object, offset: object, shape: object, strides: object
) -> StoredTensor:
    return _tensor(storage, offset, shape, strides, None, None)


def _rebuild_tensor_v2(
    storage: object,
    offset: object,
    shape: object,
    strides: object,
    requires_grad: object,
    hooks: object,
    metadata: object = None,
) -> StoredTensor:
    return _tensor(storage, offset, shape, strides, None, metadata)


def _rebuild_tensor_v3(
    storage: object,
    offset: object,
    shape: object,
    strides: object,
    requires_grad: object,
    hooks: object,
    dtype: object,
    metadata: object = None,
) -> StoredTensor:
    if not isinstance(dtype, _Name) or dtype.dtype is None:
        raise ValueError(f"has a tensor of type {_describe(dtype)}")
    return _tensor(storage, offset, shape, strides, dtype.dtype, metadata)


def _tensor(
    storage: object,
    offset: object,
    shape: object,
    strides: object,
    dtype: str | None,
    metadata: object,
) -> StoredTensor:
    if not isinstance(storage, Storage):
        raise ValueError("has a tensor without a storage")
    if not _is_size(offset) or not _are_sizes(shape) or not _are_sizes(strides):
        raise ValueError(
            f"has a tensor of shape {_describe(shape)}, strides {_describe(strides)} and offset "
            f"{_describe(offset)}, expected non-negative integers"
        )
    if len(shape) != len(strides):
        raise ValueError(f"has a tensor of shape {show(shape)} with {len(strides)} strides")
    if isinstance(metadata, dict) and (metadata.get("conj") or metadata.get("neg")):
        raise ValueError("has a tensor that is conjugated or negated only when it is read")
    found = dtype or storage.dtype
    if found is None:
        raise ValueError("has a tensor of bytes without a type")
    return StoredTensor(storage, found, offset, shape, strides)


def _rebuild_parameter(
    tensor: object, requires_grad: object, hooks: object, state: object = None
) -> object:
    return tensor


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
    ("torch", "Size"): _size,
}

_NAMES: Final[Mapping[tuple[str, str], _Name]] = {
    **{place: _Name(".".join(place), build) for place, build in _BUILDERS.items()},
    **{("torch", name): _Name(f"torch.{name}", None, dtype) for name, dtype in STORAGES.items()},
    **{("torch", name): _Name(f"torch.{name}", None, dtype) for dtype, name in TORCH_NAMES.items()},
    ("torch.storage", "UntypedStorage"): _Name("torch.storage.UntypedStorage"),
}


def _find(module: str, name: str = "") -> _Name:
    found = _NAMES.get((module, name))
    if found is None and module == "torch" and name.endswith("Storage"):
        raise ValueError(f"has a tensor of torch.{name}, which is not supported")
    if found is None:
        raise ValueError(
            f"names {show(f'{module}.{name}')}, which was not run; expected tensors and containers"
        )
    return found


def _describe(value: object) -> str:
    """Say what a value is, without following what it contains."""
    if isinstance(value, _Name):
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
