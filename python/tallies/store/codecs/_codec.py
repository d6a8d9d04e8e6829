"""What a codec may state: parameters, how the shared vector is made, and what its masks contain."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ...spec.choices import Semantics
from ...spec.parameters import Parameter, own_then_inherited
from ...spec.rules import Rule


class Mask(enum.Enum):
    """Which elements of an expert its mask contains, by its task vector x and the shared vector m.

    The values are those of ``tallies::MaskRule``.
    """

    TALL = 0
    """|x| > lambda |m - x|"""
    MAGNITUDE = 1
    """|x| is among the largest"""
    SAME_SIGN = 2
    """x and m have the same sign"""
    SIGN = 3
    """x is not below zero"""


SHARED_DTYPE = Parameter(
    "base",
    "of the shared vector: the base's, tensor by tensor, or one for all",
    choices=("base", "F32", "BF16", "F16"),
)
"""The parameter ``shared_dtype`` of codecs that have a shared vector."""


@dataclass(frozen=True)
class Sums:
    """Of one tensor, by task: the sums of |x|, and of |m| where the task's mask is set."""

    n_elements: int
    x: Sequence[float]
    m_in_mask: Sequence[float]


class Codec:
    """A way to keep many experts. Subclasses are facts; ``tallies.store.codecs`` lists them."""

    name: ClassVar[str]
    formula: ClassVar[str]
    paper: ClassVar[str]
    semantics: ClassVar[tuple[Semantics, ...]] = (Semantics.PAPER,)
    mask: ClassVar[Mask | None]
    """None where tasks have no masks."""
    kind: ClassVar[str] = "masked"
    """How the manifest calls tensors that are coded."""
    with_sums: ClassVar[bool] = False

    @classmethod
    def parameters(cls, semantics: Semantics = Semantics.PAPER) -> dict[str, Parameter]:
        """Parameters by name: the codec's in the order of the class, then those it inherits."""
        return {
            name: value
            for name, value in own_then_inherited(cls).items()
            if isinstance(value, Parameter)
        }

    @classmethod
    def summary(cls) -> str:
        """The first line of the docstring."""
        return (cls.__doc__ or "").strip().splitlines()[0]

    @classmethod
    def shared_rule(cls, parameters: Mapping[str, Any]) -> Rule | None:
        """How the shared vector is merged from the task vectors; None where there is none."""
        return None

    @classmethod
    def ranked_density(cls, parameters: Mapping[str, Any]) -> float | None:
        """The share of each task vector that a model-wide threshold keeps; None without one."""
        return None

    @classmethod
    def scales(
        cls, parameters: Mapping[str, Any], sums: Sequence[Sums], n_tasks: int
    ) -> list[float]:
        """The factor on the shared vector of each task; ``sums`` has all tensors."""
        return [1.0] * n_tasks

    @classmethod
    def is_masked(cls, name: str, shape: Sequence[int], parameters: Mapping[str, Any]) -> bool:
        """Whether a tensor that the tasks changed gets a mask; else it is kept as it is."""
        return True
