"""CUDA devices, and why there is none.

The kernels of devices are in a library of their own (``_cuda.so``, built where nvcc is), which is
opened at the first call. The environment variable ``TALLIES_CUDA_LIBRARY`` names another.

>>> bool(devices()) == (problem() is None)
True
"""

from __future__ import annotations

from typing import NamedTuple

from ._core import cuda_devices, cuda_problem


class Device(NamedTuple):
    """A CUDA device, its memory in bytes."""

    name: str
    architecture: str
    n_multiprocessors: int
    n_bytes: int


def devices() -> list[Device]:
    """The devices that the kernels can run on, none if there is a `problem`."""
    return [Device(*device) for device in cuda_devices()]


def problem() -> str | None:
    """Why no device can be used, as one sentence, or None when one can."""
    return cuda_problem() or None
