"""Sparse task vectors: what matters of each task by itself, or all that it changed, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...spec.choices import Choice, Scope
from ...spec.dtypes import named
from ...spec.parameters import Parameter
from ._codec import Codec, Mask


class ValueType(Choice):
    """The type of the kept values."""

    BASE = "base"
    """The base's, tensor by tensor."""
    BF16 = "bf16"
    F32 = "f32"
    INT8 = "int8"
    """Eight bits, with a scale for each row."""

    def dtype(self, base: str) -> str:
        """Return the dtype of the values for a tensor of the base of this dtype."""
        return named(self) or base


class Sparse(Codec):
    """For each task a mask of its largest entries, and their values; nothing is shared.

    x_t = f_t - base; mask_t = |x_t| >= its threshold; f_t ~ base + (x_t where mask_t, else 0).

    ``density`` is counted as in TIES, over the tensors that the task changed or, with ``scope:
    tensor``, over each of them: k = int(P density), and every magnitude that reaches the (P - k)-th
    smallest is in, equal ones all alike. ``values`` says how x_t is rounded: once, to the base's
    dtype, bfloat16 or float32, or to 8 bits: q = rint(x / scale), scale = max|x| / 127 of what is
    kept of a row (an index of the first dimension; tensors with fewer than two are one row).

    ``density: exact`` keeps the elements whose bits differ from the base's, as they are: any dtype,
    integers too, comes back bit for bit, NaN and -0 included. ``scope`` and ``values`` then mean
    nothing.
    """

    name = "sparse"
    formula = "f_t ~ base + (x_t where |x_t| >= threshold_t, else 0); exact: f_t itself"
    paper = "trimming as in Yadav et al. 2023, arXiv 2306.01708"
    family = "sparse"
    mask = Mask.MAGNITUDE

    density = Parameter(
        0.1,
        "share of each task vector to keep, or 'exact' for every change, bit for bit",
        low=0,
        high=1,
        words=("exact",),
    )
    scope = Parameter(
        Scope.MODEL, "entries that share a threshold", choices=(Scope.MODEL, Scope.TENSOR)
    )
    values = Parameter(
        ValueType.BASE,
        "type of the values: the base's dtype, or another",
        choices=(*ValueType,),
    )

    @classmethod
    def codes_integers(cls, parameters: Mapping[str, Any]) -> bool:
        return bool(parameters["density"] == "exact")
