"""Packed masks on tensors: building, counting, applying. See ``steps`` for the rules of tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import arguments
from .calling import refusing

_magnitude_mask = torch.ops.tallies.magnitude_mask.default
_tall_mask = torch.ops.tallies.tall_mask.default
_consensus_mask = torch.ops.tallies.consensus_mask.default
_pack_bits = torch.ops.tallies.pack_bits.default
_unpack_bits = torch.ops.tallies.unpack_bits.default
_apply_mask = torch.ops.tallies.apply_mask.default


@refusing
def magnitude_mask(x: Tensor, threshold: float | Tensor) -> Tensor:
    """Return the packed mask of |x| >= threshold.

    Entries equal to the threshold are in the mask, so that 0 takes everything. NaN reaches every
    threshold, and only NaN reaches NaN, as ``kth_magnitude`` ranks it.

    Args:
        x: A tensor of any shape.
        threshold: A number of 0 or more, which is rounded to float32, or NaN. A tensor of one
            number breaks a compiled graph, and the call waits for its value.

    Returns:
        uint8 [(n + 7) // 8] for n elements.

    Raises:
        InputError: The threshold is negative.

    >>> unpack_bits(magnitude_mask(torch.tensor([1, -2, 3, -0.5]), 2), 4)
    tensor([False,  True,  True, False])
    """
    if type(threshold) is not float:
        threshold = arguments.threshold(threshold)
    return _magnitude_mask(x, threshold)  # type: ignore[no-any-return]


@refusing
def tall_mask(expert_delta: Tensor, merged_delta: Tensor, lam: float) -> Tensor:
    """Return the packed mask of |x| > lam * |m - x|: where m stands for one expert's own x.

    The bit is clear where both sides are equal, as where x and m are zero, and where either is NaN.

    Args:
        expert_delta: The expert's task vector x.
        merged_delta: The merged task vector m, in the shape of x; dtypes may differ.
        lam: The lambda of the paper, 0 or more: the larger, the fewer bits are set.

    Returns:
        uint8 [(n + 7) // 8] for n elements.

    Raises:
        InputError: Shapes differ, or lam is below 0.

    Wang et al., Localizing Task Information (TALL-masks), 2024, arXiv 2405.07813.

    >>> x, m = torch.tensor([0.1, 1, 0]), torch.tensor([1.0, 1, 0])
    >>> unpack_bits(tall_mask(x, m, 0.4), 3)
    tensor([False,  True, False])
    """
    return _tall_mask(expert_delta, merged_delta, lam)  # type: ignore[no-any-return]


@refusing
def consensus_mask(packed_masks: Sequence[Tensor] | Tensor, n: int, k: int) -> Tensor:
    """Return the packed mask of the elements that at least ``k`` of the masks contain.

    Args:
        packed_masks: N packed masks, or one tensor [N, (n + 7) // 8]; bits after the last element
            are ignored.
        n: The number of elements.
        k: The least number of masks; 0 takes every element, a number above N none.

    Returns:
        uint8 [(n + 7) // 8].

    Raises:
        InputError: A mask has another length.

    Wang et al., Localizing Task Information (Consensus merging), 2024, arXiv 2405.07813.

    >>> masks = [pack_bits(torch.tensor([True, True])), pack_bits(torch.tensor([True, False]))]
    >>> unpack_bits(consensus_mask(masks, 2, 2), 2)
    tensor([ True, False])
    """
    return _consensus_mask(arguments.rows_of("packed_masks", packed_masks), n, k)  # type: ignore[no-any-return]


@refusing
def pack_bits(mask: Tensor) -> Tensor:
    """Pack a boolean tensor of any shape, in row-major order.

    Bit i % 8 of byte i // 8 is element i; the bits after the last element are zero.

    Args:
        mask: The tensor of n elements.

    Returns:
        uint8 [(n + 7) // 8].

    Raises:
        InputError: The tensor has another dtype.

    >>> pack_bits(torch.tensor([True, False, False, True]))
    tensor([9], dtype=torch.uint8)
    """
    return _pack_bits(mask)  # type: ignore[no-any-return]


@refusing
def unpack_bits(packed: Tensor, n: int) -> Tensor:
    """Unpack the elements of a packed mask.

    Args:
        packed: The packed mask, uint8 [(n + 7) // 8].
        n: The number of elements.

    Returns:
        bool [n].

    Raises:
        InputError: The mask has another length.

    >>> unpack_bits(torch.tensor([9], dtype=torch.uint8), 4)
    tensor([ True, False, False,  True])
    """
    return _unpack_bits(packed, n)  # type: ignore[no-any-return]


@refusing
def apply_mask(base: Tensor, shared: Tensor, packed: Tensor, scale: float = 1.0) -> Tensor:
    """Reconstruct an expert: base + scale * (shared where the mask is set, +0 elsewhere).

    The product and the sum are rounded in float32, the result once to its dtype. A NaN or infinity
    of ``shared`` counts only where the mask is set.

    Args:
        base: The base.
        shared: The shared vector, in the shape of the base; dtypes may differ.
        packed: The packed mask.
        scale: The expert's factor on the shared vector.

    Returns:
        A new tensor of the shape and dtype of the base.

    Raises:
        InputError: Shapes differ, or the mask has another length.

    Wang et al., Localizing Task Information (TALL-masks), 2024, arXiv 2405.07813.

    >>> packed = torch.tensor([5], dtype=torch.uint8)
    >>> apply_mask(torch.ones(3), torch.tensor([2.0, 4, 6]), packed, 0.5)
    tensor([2., 1., 4.])
    """
    return _apply_mask(base, shared, packed, scale)  # type: ignore[no-any-return]
