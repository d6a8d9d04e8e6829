"""What a codec may state that keeps matrices as their largest singular triplets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ...checkpoint.layout import Entry
from ...spec.dtypes import named
from ...spec.parameters import Parameter
from ._codec import Codec


class LowRankCodec(Codec):
    """A codec that keeps U, s and V^T of each task's matrices; other tensors as they are."""

    mask = None
    kind: ClassVar[str] = "factored"

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
    def is_masked(cls, name: str, shape: Sequence[int], parameters: Mapping[str, Any]) -> bool:
        parts = [part.strip() for part in str(parameters["exclude"]).split(",")]
        return len(shape) == 2 and min(shape) > 0 and not any(p and p in name for p in parts)

    @classmethod
    def entries(
        cls, name: str, dtype: str, shape: Sequence[int], parameters: Mapping[str, Any]
    ) -> list[Entry]:
        """What a task's file holds of a matrix: its name has U, NAME::s and NAME::v the rest."""
        m, n = shape
        k = int(min(m, n) * parameters["fraction"])
        own = dtype if dtype in ("BF16", "F16") else "F32"
        values = named(parameters["values"]) or own
        return [(name, values, (m, k)), (s_name(name), "F32", (k,)), (v_name(name), values, (k, n))]


def s_name(name: str) -> str:
    """Under which name a task's file has the singular values of a matrix."""
    return f"{name}::s"


def v_name(name: str) -> str:
    """Under which name a task's file has the right singular vectors of a matrix, as rows."""
    return f"{name}::v"
