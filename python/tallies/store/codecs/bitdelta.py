"""BitDelta: one bit per parameter of a matrix, and one factor a matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...spec.parameters import Parameter
from ._codec import Codec, Mask, has_part


class BitDelta(Codec):
    """The signs of each task vector and one magnitude a matrix; the rest as it is.

    x_t = f_t - base; a = mean|x_t| over the matrix; f_t ~ base + a where x_t >= 0, base - a where
    x_t < 0. So an element that the task left alone moves by +a.

    Tensors with two dimensions are coded, unless their name contains one of the parts in ``dense``.
    All others are kept as they are, bit for bit and in their own dtype.

    Liu et al., BitDelta: Your Fine-Tune May Only Be Worth One Bit, 2024, arXiv 2402.10193.
    """

    name = "bitdelta"
    formula = "f_t ~ base + sign(x_t) mean|x_t| for each matrix, sign(0) = +1"
    paper = "Liu et al. 2024, arXiv 2402.10193"
    mask = Mask.SIGN
    with_sums = True

    dense = Parameter(
        "embed,lm_head,wte,wpe",
        "parts of names, separated by commas, of matrices to keep as they are",
    )

    @classmethod
    def is_coded(cls, name: str, shape: Sequence[int], parameters: Mapping[str, Any]) -> bool:
        return len(shape) == 2 and not has_part(name, str(parameters["dense"]))
