"""The facts that codecs of singular triplets share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...spec.parameters import Parameter
from ._codec import Codec, has_part


class LowRankCodec(Codec):
    """A codec that keeps U, s and V^T of each task's matrices; other tensors stay dense."""

    family = "low_rank"
    mask = None

    fraction = Parameter(
        0.1, "singular triplets that are kept: int(min(m, n) * fraction)", low=0, high=1
    )
    values = Parameter(
        "base",
        "type of the vectors: the base's where that is bf16 or f16, else f32; or another",
        choices=("base", "bf16", "f16", "f32"),
    )
    exclude = Parameter("", "parts of names, between commas, of matrices that are kept as they are")

    @classmethod
    def is_coded(cls, name: str, shape: Sequence[int], parameters: Mapping[str, Any]) -> bool:
        return len(shape) == 2 and min(shape) > 0 and not has_part(name, str(parameters["exclude"]))
