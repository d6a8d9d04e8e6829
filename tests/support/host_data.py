"""Task vectors that hosts and ours have to merge alike: rich in ties, zeros and cancelling sums."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


def normal(x: Tensor) -> Tensor:
    return x


def coarse(x: Tensor) -> Tensor:
    return (x * 2).round() / 2


def mostly_zero(x: Tensor) -> Tensor:
    return torch.where(x.abs() > 1, x, 0.0)


def signed_zeros(x: Tensor) -> Tensor:
    return torch.where(x.abs() > 0.7, x, torch.copysign(torch.zeros(()), x))


def cancelling(x: Tensor) -> Tensor:
    x[1::2] = -x[: len(x) // 2 * 2 : 2]
    return x


def subnormal(x: Tensor) -> Tensor:
    return x * 2.0**-140


def large(x: Tensor) -> Tensor:
    return x.clamp(-3, 3) * 1e37


def one_sided(x: Tensor) -> Tensor:
    return x.abs()


def of_all_sizes(x: Tensor) -> Tensor:
    return x * torch.exp2(torch.linspace(-60, 60, x[0].numel())).view_as(x[0])


KINDS = (
    normal,
    coarse,
    mostly_zero,
    signed_zeros,
    cancelling,
    subnormal,
    large,
    one_sided,
    of_all_sizes,
)


def task_vectors(kind, n: int, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Return float32 [n, *shape] of one of the kinds."""
    generator = torch.Generator().manual_seed(seed)
    return kind(torch.randn(n, *shape, generator=generator))


def flattened(result: Any) -> Iterator[Tensor]:
    """Yield the tensors of a result: of dicts, lists, tuples and models."""
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, torch.nn.Module):
        yield from result.state_dict().values()
    else:
        for one in result.values() if isinstance(result, Mapping) else result:
            yield from flattened(one)


def same_bits(found: Any, expected: Any) -> bool:
    """Tell whether results hold the same tensors bit for bit, NaN for NaN."""
    pairs = zip(flattened(found), flattened(expected), strict=True)
    return all(_same(one.detach(), other.detach()) for one, other in pairs)


def _same(one: Tensor, other: Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if not one.is_floating_point():
        return torch.equal(one, other)
    nan = one.isnan()
    if not torch.equal(nan, other.isnan()):
        return False
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[one.element_size()]
    bits = [x.masked_fill(nan, 0).view(whole) for x in (one.contiguous(), other.contiguous())]
    return torch.equal(*bits)
