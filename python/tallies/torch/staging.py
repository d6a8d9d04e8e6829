"""Writes tensors of a device by way of host memory that the device reads at full speed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch

_ALIGNMENT = 64

Place = tuple[torch.Tensor, torch.Tensor]
"""A tensor of a device, and as much host memory of its dtype and shape."""


def on_host(tensor: torch.Tensor) -> bool:
    """Return whether the processor can write into the tensor itself."""
    return tensor.device.type == "cpu"


def wait_for(tensors: Iterable[torch.Tensor]) -> None:
    """Wait until everything queued on the devices of these tensors is done."""
    for device in _devices(tensors):
        torch.cuda.synchronize(device)


def staged(tensors: Sequence[torch.Tensor], n_bytes: int) -> Iterator[list[Place]]:
    """Yield the tensors in batches, each with the host memory from which it is copied.

    The caller fills the memory of a batch. Its copy is queued when the next batch is asked for, and
    runs while that batch is filled. Work on another stream has to wait for the device.

    Args:
        tensors: Tensors of devices.
        n_bytes: Bytes of host memory for a batch; a larger tensor is a batch by itself.
    """
    batches = list(_batches(tensors, n_bytes))
    sizes = [sum(map(_room, batch)) for batch in batches]
    buffers = [_pinned(max(sizes[i::2])) for i in range(min(2, len(batches)))]
    sent: list[list[torch.cuda.Event]] = [[], []]
    for i, batch in enumerate(batches):
        for event in sent[i % 2]:
            event.synchronize()
        places = _places(batch, buffers[i % 2])
        yield places
        for tensor, place in places:
            tensor.copy_(place, non_blocking=True)
        sent[i % 2] = [_mark(device) for device in _devices(batch)]


def _devices(tensors: Iterable[torch.Tensor]) -> set[torch.device]:
    return {tensor.device for tensor in tensors if tensor.device.type == "cuda"}


def _room(tensor: torch.Tensor) -> int:
    return -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT


def _batches(tensors: Iterable[torch.Tensor], n_bytes: int) -> Iterator[list[torch.Tensor]]:
    """Yield runs of tensors that fit into ``n_bytes``; a larger tensor comes by itself."""
    batch: list[torch.Tensor] = []
    left = n_bytes
    for tensor in tensors:
        if batch and _room(tensor) > left:
            yield batch
            batch, left = [], n_bytes
        batch.append(tensor)
        left -= _room(tensor)
    if batch:
        yield batch


def _places(batch: Iterable[torch.Tensor], buffer: torch.Tensor) -> list[Place]:
    places, at = [], 0
    for tensor in batch:
        part = buffer[at : at + tensor.nbytes]
        places.append((tensor, part.view(tensor.dtype).view(tensor.shape)))
        at += _room(tensor)
    return places


def _pinned(n_bytes: int) -> torch.Tensor:
    return torch.empty(n_bytes, dtype=torch.uint8, pin_memory=True)


def _mark(device: torch.device) -> torch.cuda.Event:
    """Record an event behind everything queued on the device's current stream."""
    with torch.cuda.device(device):
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
    return event
