"""The facts that codecs of singular triplets share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...spec.choices import Choice
from ...spec.dtypes import named
from ...spec.parameters import Parameter
from ._codec import Codec, has_part


class VectorType(Choice):
    """The type of the singular vectors."""

    BASE = "base"
    """The base's where that is bfloat16 or float16, else float32."""
    BF16 = "bf16"
    F16 = "f16"
    F32 = "f32"

    def dtype(self, base: str) -> str:
        """Return the dtype of the vectors for a matrix of the base of this dtype."""
        if self is VectorType.BASE:
            return base if base in ("BF16", "F16") else "F32"
        return named(self) or base


class LowRankCodec(Codec):
    """A codec that keeps U, s and V^T of each task's matrices; other tensors stay dense."""

    family = "low_rank"
    mask = None

    fraction = Parameter(
        0.1, "share of singular triplets to keep: int(min(m, n) * fraction)", low=0, high=1
    )
    values = Parameter(
        VectorType.BASE,
        "type of the vectors: the base's where that is bf16 or f16, else f32; or another",
        choices=(*VectorType,),
    )
    exclude = Parameter("", "parts of names, separated by commas, of matrices to keep as they are")

    @classmethod
    def is_coded(cls, name: str, shape: Sequence[int], parameters: Mapping[str, Any]) -> bool:
        return len(shape) == 2 and min(shape) > 0 and not has_part(name, str(parameters["exclude"]))
