"""List the CUDA devices, or say why there is none.

The kernels of devices are in a library of their own (``_cuda.so``, built where nvcc is); the first
call opens that library. The environment variable ``TALLIES_CUDA_LIBRARY`` names another.

>>> bool(devices()) == (problem() is None)
True
"""

from __future__ import annotations

from typing import NamedTuple

from ._core import cuda_devices, cuda_problem


class Device(NamedTuple):
    """One CUDA device; ``n_bytes`` is the size of its memory."""

    name: str
    architecture: str
    n_multiprocessors: int
    n_bytes: int


def devices() -> list[Device]:
    """Return the devices that the kernels can run on, none if there is a ``problem``."""
    return [Device(*device) for device in cuda_devices()]


def problem() -> str | None:
    """Return one sentence on why no device can be used, or None when a device can."""
    return cuda_problem() or None
