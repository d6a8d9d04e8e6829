"""Tell whether the caller's arrays have room for results: writable, each in memory of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..engine.arrays import is_torch
from ..engine.odd_tensors import odd_kind
from ..errors import InputError
from ..messages import show

# NumPy's search for common memory stops after as many steps; memory it cannot tell apart is common.
STEPS = 100_000


def check_room(name: str, own: Any) -> None:
    """Raise InputError where an array of the caller cannot be written, element by element.

    Args:
        name: The name for messages.
        own: The array or tensor.
    """
    if is_torch(own):
        _check_tensor(name, own)
    elif not own.flags.writeable:
        raise InputError(f"out: tensor {show(name)} is read-only; pass a copy of it")
    if _overlaps_itself(own):
        raise InputError(
            f"out: tensor {show(name)} has elements that share memory; pass a copy of it"
        )


def _check_tensor(name: str, own: Any) -> None:
    import torch

    if (odd := odd_kind(own)) is not None:
        raise InputError(
            f"out: tensor {show(name)}: found {odd[0]}, expected a dense tensor; {odd[1]}"
        )
    if own.is_inference() and not torch.is_inference_mode_enabled():
        raise InputError(
            f"out: tensor {show(name)}: found an inference tensor, which torch lets nobody write "
            "here; pass a clone of it, or merge under torch.inference_mode()"
        )
    if own.requires_grad and torch.is_grad_enabled():
        raise InputError(
            f"out: tensor {show(name)}: found a tensor that requires grad; pass its detach(), or "
            "merge under torch.no_grad()"
        )


def check_apart(rooms: Mapping[str, Any], tied: Mapping[str, str]) -> None:
    """Raise InputError where arrays for different results share memory.

    Args:
        rooms: The caller's arrays by name, each of which has passed ``check_room``.
        tied: Names that get the values of another name; one array may stand for both.
    """
    spans = sorted((*_span(own), name) for name, own in rooms.items() if _n_elements(own))
    open_spans: list[tuple[str, int, int, str]] = []
    for device, start, end, name in spans:
        open_spans = [one for one in open_spans if one[0] == device and one[2] > start]
        for *_, other in open_spans:
            first, second = rooms[other], rooms[name]
            is_tied = tied.get(name, name) == tied.get(other, other)
            if is_tied and _layout(first) == _layout(second):
                continue
            if _share(first, second):
                raise InputError(
                    f"out: tensors {show(min(name, other))} and {show(max(name, other))} share "
                    "memory, expected one array for each result; pass a copy of one"
                )
        open_spans.append((device, start, end, name))


def _n_elements(own: Any) -> int:
    return int(own.numel() if is_torch(own) else own.size)


def _layout(own: Any) -> tuple[Any, ...]:
    """Return the device, the address, the bytes of an element, the dtype, sizes and strides."""
    if is_torch(own):
        size = own.element_size()
        strides = tuple(size * step for step in own.stride())
        dtype = str(own.dtype).removeprefix("torch.")
        return str(own.device), own.data_ptr(), size, dtype, tuple(own.shape), strides
    return "cpu", own.ctypes.data, own.itemsize, own.dtype.name, own.shape, own.strides


def _span(own: Any) -> tuple[str, int, int]:
    """Return the device, and the addresses from which and up to which an array lies."""
    device, start, size, _, shape, strides = _layout(own)
    reaches = [(n - 1) * step for n, step in zip(shape, strides, strict=True)]
    low = start + sum(min(reach, 0) for reach in reaches)
    return device, low, start + sum(max(reach, 0) for reach in reaches) + size


def _overlaps_itself(own: Any) -> bool:
    """Return whether two elements of an array share memory."""
    if _n_elements(own) < 2:
        return False
    _, _, size, _, shape, strides = _layout(own)
    steps = sorted((abs(step), n) for n, step in zip(shape, strides, strict=True) if n > 1)
    extent = size
    for step, n in steps:
        if step < extent:
            break
        extent += (n - 1) * step
    else:
        return False
    import numpy as np

    # Dimensions that interleave may still meet nowhere.
    offsets = np.zeros(1, np.int64)
    for step, n in steps:
        offsets = (offsets[:, None] + step * np.arange(n)).ravel()
    offsets.sort()
    return bool((np.diff(offsets) < size).any())


def _share(first: Any, second: Any) -> bool:
    """Return whether arrays whose spans overlap have a byte in common."""
    import numpy as np

    try:
        # NumPy's stubs know two of the numbers of steps.
        return bool(np.shares_memory(_bytes(first), _bytes(second), STEPS))  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


class _Bytes:
    """The bytes of an array, of which NumPy reads the addresses alone."""

    def __init__(self, own: Any) -> None:
        _, address, size, _, shape, strides = _layout(own)
        self.__array_interface__ = {
            "data": (address, True),
            "shape": (*shape, size),
            "strides": (*strides, 1),
            "typestr": "|u1",
            "version": 3,
        }


def _bytes(own: Any) -> Any:
    import numpy as np

    return np.asarray(_Bytes(own))
