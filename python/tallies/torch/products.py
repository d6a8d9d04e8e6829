"""Products of small factors on tensors: what LoRA adapters are to weights."""

from __future__ import annotations

import torch
from torch import Tensor

from .calling import refusing

_low_rank = torch.ops.tallies.low_rank.default


@refusing
def low_rank(base: Tensor, left: Tensor, right: Tensor, scale: float = 1.0) -> Tensor:
    """Add a scaled product of two small factors: base + scale * (left @ right).

    The products over the rank are rounded to float32 one by one and added in order; their sum is
    multiplied by the scale, then added to the base, and the result is rounded once. The product is
    never stored.

    Args:
        base: A matrix [rows, columns].
        left: The factor [rows, rank]: B of LoRA. Dtypes may differ.
        right: The factor [rank, columns]: A of LoRA.
        scale: A finite number, alpha / rank of LoRA.

    Returns:
        A new matrix of the shape and dtype of ``base``.

    Raises:
        InputError: Shapes do not fit, the rank is 0, or the scale is not finite.

    Hu et al., LoRA, 2021, arXiv 2106.09685.

    >>> low_rank(torch.ones(2, 2), torch.tensor([[1.0], [2]]), torch.tensor([[3.0, 4]]), 0.5)
    tensor([[2.5000, 3.0000],
            [4.0000, 5.0000]])
    """
    return _low_rank(base, left, right, scale)  # type: ignore[no-any-return]
