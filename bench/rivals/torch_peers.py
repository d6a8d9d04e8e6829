"""TIES of one tensor in plain torch, with the operations of other tools on dense tensors.

``peft``: those of ``ties`` in ``peft.utils.merge_utils`` 0.21.2; ``mergekit``: those of its method
``ties``, 0.1.5, at its defaults on the CPU. Both get a base and experts, and give the base plus the
merged task vector.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor


def peft(base: Tensor, experts: list[Tensor], density: float) -> Tensor:
    """Ranks by topk; the sum elects, the values that agree are averaged by their number."""
    trimmed = []
    for expert in experts:
        delta = expert - base
        mask = torch.zeros_like(delta)
        mask[torch.topk(delta.abs(), int(density * delta.numel())).indices] = 1
        trimmed.append(delta * mask)
    deltas = torch.stack(trimmed)
    majority = torch.where(deltas.sum(0) >= 0, 1, -1)
    agree = deltas.sign() == majority
    weighted = deltas * torch.ones(len(experts), 1, dtype=base.dtype)
    return base + (weighted * agree).sum(0) / agree.sum(0).clamp(min=1.0)


def mergekit(base: Tensor, experts: list[Tensor], density: float) -> Tensor:
    """Ranks by a full sort; the sum elects, the values that agree are averaged by their weights."""
    trimmed = []
    for expert in experts:
        delta = expert - base
        order = torch.argsort(delta.abs().float(), descending=True)
        mask = torch.zeros_like(delta)
        mask[order[: int(density * delta.numel())]] = 1
        trimmed.append(delta * mask)
    deltas = torch.stack(trimmed)
    weights = torch.ones(len(experts), 1, dtype=base.dtype)
    weighted = deltas * weights
    majority = (weighted.sum(0) >= 0).to(base.dtype) * 2 - 1
    agree = weighted.sign() == majority
    divisor = (weights * agree).sum(0)
    divisor[divisor == 0] = 1
    return base + (weighted * agree).sum(0) / divisor


PROGRAMS: Final[dict[str, Callable[[Tensor, list[Tensor], float], Tensor]]] = {
    "peft": peft,
    "mergekit": mergekit,
}
