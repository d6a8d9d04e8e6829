"""The facts of a method that merges whole matrices by a function of their task vectors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias

from ..spec.choices import PAPER, Semantics
from ..spec.parameters import Parameter, Values
from ..spec.rules import Blend, Gate, Rule, Vote
from ._method import Method
from ._parameters import a_scale

if TYPE_CHECKING:
    import torch

Tensor: TypeAlias = "torch.Tensor"
"""``torch.Tensor``, without an import of torch."""

_BLENDS = {"mean": Blend.MEAN, "sum": Blend.SUM, "base": Blend.SUM}


def is_stack(name: str, shape: tuple[int, ...]) -> bool:
    """Return whether a tensor is a stack of matrices, one of each expert of a mixture.

    transformers 5 keeps ``mlp.experts.down_proj`` as [experts, out, in]; kernels of convolutions
    have three dimensions as well.
    """
    return len(shape) == 3 and "experts" in name.split(".")


class Deltas(Protocol):
    """The task vectors x_t of one matrix: float32 tensors, each read when a method asks for it."""

    def __len__(self) -> int: ...
    def __getitem__(self, expert: int) -> Tensor: ...
    def __iter__(self) -> Iterator[Tensor]: ...
    @property
    def shape(self) -> tuple[int, int]: ...

    def sum(self) -> Tensor:
        """Add up all task vectors in float32, in the order of the experts."""
        ...

    def kept(self, expert: int) -> Tensor:
        """Return the boolean mask of an expert's trim, all true without ``density``."""
        ...


def an_exclude(default: str, **others: Any) -> Parameter:
    """Return the parameter that excludes matrices by name."""
    about = "parts of names, between commas, of matrices merged as other tensors"
    return Parameter(default, about, **others)


def an_others(default: str, choices: tuple[str, ...] = (*_BLENDS,), **others: Any) -> Parameter:
    """Return the parameter that states the blend of tensors that are no matrices."""
    about = "tensors that are no matrices: mean or sum of the task vectors, or the base alone"
    return Parameter(default, about, choices=choices, **others)


class MatrixMethod(Method):
    """A method that merges matrices, and other tensors by a plain rule.

    Tensors with two dimensions are matrices, and so is each part of a stack of experts.
    """

    copies: ClassVar[float] = 3.0
    """The number of float32 matrices of the tensor's size that the method holds at once."""

    weight = Parameter(1.0, "factor on the task vector", per_model=True)
    scale = a_scale()
    exclude = an_exclude("")
    others = an_others("mean")

    @classmethod
    def rule(cls, parameters: Values, semantics: Semantics) -> Rule:
        return Rule(Gate.ALL, Vote.NONE, _BLENDS[parameters["others"]])

    @classmethod
    def takes(
        cls, name: str, shape: tuple[int, ...], parameters: Values, semantics: Semantics
    ) -> bool:
        """Return whether a tensor is merged as a matrix, or as several."""
        parts = [part.strip() for part in str(parameters["exclude"]).split(",")]
        # Other tools know of no stacks.
        is_matrix = len(shape) == 2 or (semantics is PAPER and is_stack(name, shape))
        return is_matrix and min(shape) > 0 and not any(p and p in name for p in parts)

    @classmethod
    def n_bytes(cls, shape: tuple[int, int], n_experts: int) -> int:
        """Return the bytes that merging a matrix takes: copies, and work of the linear algebra."""
        m, n = max(shape), min(shape)
        copies = cls.copies + (n_experts if cls.copies_per_expert else 0)
        return int(4 * copies * m * n + 8 * 8 * n * n) + (1 << 26)

    copies_per_expert: ClassVar[bool] = False
    """The method holds all task vectors at once."""

    @classmethod
    def merge_matrix(cls, deltas: Deltas, parameters: Values, semantics: Semantics) -> Tensor:
        """Return the merged task vector of one matrix.

        Args:
            deltas: The task vectors [m, n], float32.
            parameters: The parameters of this tensor.
            semantics: The author whose variant of the method to follow.

        Returns:
            A float32 tensor [m, n], before the scale.
        """
        raise TypeError(f"{cls.__name__} states no function of matrices")
