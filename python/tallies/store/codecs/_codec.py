"""The facts that a codec may state: parameters, the shared vector's rule, the masks' rule."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ...spec.choices import Choice, Semantics
from ...spec.parameters import Parameter, own_then_inherited
from ...spec.rules import Rule


class Mask(enum.Enum):
    """The elements in an expert's mask, by its task vector x and the shared vector m.

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


class SharedDType(Choice):
    """The dtype of the shared vector."""

    BASE = "base"
    """The base's, tensor by tensor."""
    F32 = "F32"
    BF16 = "BF16"
    F16 = "F16"

    def of(self, dtype: str) -> str:
        """Return the dtype of the shared vector for a tensor of the base of this dtype."""
        return dtype if self is SharedDType.BASE else str(self)


SHARED_DTYPE = Parameter(
    SharedDType.BASE,
    "type of the shared vector: the base's, tensor by tensor, or one for all tensors",
    choices=(*SharedDType,),
)
"""The parameter ``shared_dtype`` of codecs that have a shared vector."""


@dataclass(frozen=True)
class Sums:
    """Sums over one tensor, with one item per task."""

    n_elements: int
    x: Sequence[float]
    """Sums of the task vector's magnitudes |x|."""
    m_in_mask: Sequence[float]
    """Sums of the shared vector's magnitudes |m| over the elements in the task's mask."""


class Codec:
    """A way to encode many experts, as facts that a family of codecs follows.

    A subclass in a module of ``tallies.store.codecs`` is a codec; the registry finds it there.
    """

    name: ClassVar[str]
    formula: ClassVar[str]
    paper: ClassVar[str]
    family: ClassVar[str] = "masked"
    """Name of the family in ``tallies.store.families`` that packs and restores tensors."""
    semantics: ClassVar[tuple[Semantics, ...]] = (Semantics.PAPER,)
    mask: ClassVar[Mask | None]
    """The rule of the masks; None where tasks have no masks."""
    is_exact: ClassVar[bool] = False
    """True if a task comes back as it merges, bit for bit."""
    of_adapters: ClassVar[bool] = False
    """True if a task must be a base with adapters."""
    of_stored: ClassVar[bool] = False
    """True if tensors are kept as files have them, of any name, dtype and shape; a base may lack
    them, or be absent."""
    with_sums: ClassVar[bool] = False
    """True if ``scales`` needs the sums of magnitudes."""

    @classmethod
    def parameters(cls, semantics: Semantics = Semantics.PAPER) -> dict[str, Parameter]:
        """Return parameters by name: the codec's in the order of the class, then inherited ones."""
        return {
            name: value
            for name, value in own_then_inherited(cls).items()
            if isinstance(value, Parameter)
        }

    @classmethod
    def summary(cls) -> str:
        """Return the first line of the docstring."""
        return (cls.__doc__ or "").strip().splitlines()[0]

    @classmethod
    def has_lambda(cls) -> bool:
        """Return whether each mask has a lambda, so that a task may have several candidates."""
        return "mask_lambda" in cls.parameters()

    @classmethod
    def shared_rule(cls, parameters: Mapping[str, Any]) -> Rule | None:
        """Return the rule that merges task vectors into the shared vector; None without one."""
        return None

    @classmethod
    def ranked_density(cls, parameters: Mapping[str, Any]) -> float | None:
        """Return the density that a model-wide threshold keeps of each task vector, or None."""
        return None

    @classmethod
    def scales(
        cls, parameters: Mapping[str, Any], sums: Sequence[Sums], n_tasks: int
    ) -> list[float]:
        """Return each task's factor on the shared vector, from the sums over every tensor."""
        return [1.0] * n_tasks

    @classmethod
    def is_coded(cls, name: str, shape: Sequence[int], parameters: Mapping[str, Any]) -> bool:
        """Return whether a tensor that the tasks changed is encoded; other tensors stay dense."""
        return True

    @classmethod
    def codes_integers(cls, parameters: Mapping[str, Any]) -> bool:
        """Return whether integers and booleans are encoded too."""
        return False


def has_part(name: str, parts: str) -> bool:
    """Return whether a tensor's name contains one of the parts, which commas separate."""
    return any(part and part in name for part in map(str.strip, parts.split(",")))
