"""The place where operators on CUDA tensors are tested, and their inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from tallies import cuda
from tallies.torch import ops
from tests.support import strategies
from tests.support.everywhere import assert_same_bits
from tests.support.operators import array_of, tensor_of
from tests.support.strategies import KERNEL_DTYPES


@dataclass
class Place:
    """A set of operators and the device on which tests call them."""

    operators: Any
    device: str

    def moved(self, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(self.moved(one) for one in value)
        return value.to(self.device) if isinstance(value, Tensor) else value

    def check(self, name: str, *given: Any, **keywords: Any) -> None:
        """The operator gives the CPU's bits, and leaves its inputs as they are."""
        expected = getattr(torch.ops.tallies, name)(*given, **keywords)
        there = self.moved(given)
        before = bytes_in(there)
        found = getattr(self.operators, name)(*there, **keywords)
        assert found.device.type == self.device
        assert_same_bits(array_of(found.cpu()), array_of(expected))
        assert bytes_in(there) == before


def bytes_in(value: Any) -> list[bytes]:
    """The bits of all tensors."""
    if isinstance(value, (list, tuple)):
        return [one for item in value for one in bytes_in(item)]
    return [array_of(value.cpu().contiguous()).tobytes()] if isinstance(value, Tensor) else []


def skip_without_device() -> None:
    problem = ops.CUDA_PROBLEM or cuda.problem()
    if problem is not None:
        pytest.skip(problem)


examples = settings(settings.get_profile("tallies"), max_examples=40)


def lengths() -> st.SearchStrategy[int]:
    """A few chunks of a thread, or several blocks."""
    return strategies.sizes(0, 70) | st.sampled_from([2047, 2048, 2049, 20_001])


@st.composite
def arranged(draw: st.DrawFn, x: Tensor) -> Tensor:
    """The elements of ``x`` with other strides, or behind an aligned address."""
    kind = draw(st.sampled_from(["plain", "plain", "strided", "behind"]))
    if kind == "strided":
        return x.repeat_interleave(2)[::2]
    return torch.cat([x[:1], x])[1:] if kind == "behind" and x.numel() else x


@st.composite
def groups(draw: st.DrawFn, mixed: bool = True) -> tuple[Tensor, list[Tensor]]:
    """A base and experts of one shape, of one or of several dtypes."""
    dtype = draw(st.sampled_from(KERNEL_DTYPES))
    group = draw(strategies.groups(dtype))
    length = draw(lengths()) if group.base.size else 0
    experts = []
    for expert in group.experts:
        kind = draw(st.sampled_from(KERNEL_DTYPES)) if mixed and draw(st.booleans()) else dtype
        with np.errstate(all="ignore"):
            grown = np.resize(expert, length).astype(kind)
        experts.append(draw(arranged(tensor_of(grown))))
    return draw(arranged(tensor_of(np.resize(group.base, length)))), experts


@st.composite
def masks(draw: st.DrawFn, n: int) -> Tensor:
    """A packed mask; bits past the n-th may be set."""
    seed = draw(st.integers(0, 99))
    mask = np.random.default_rng(seed).integers(0, 256, (n + 7) // 8, np.uint8)
    return tensor_of(mask)
