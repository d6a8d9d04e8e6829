"""Tensors that a written adapter changes, and how PEFT stores the factors of each kind."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from ..spec.choices import Choice

PREFIX: Final = "base_model.model."
"""The beginning of every name in a file of PEFT."""


class Kind(Choice):
    """The kind of a tensor that an adapter changes: it decides the layout of the factors."""

    LINEAR = "linear"
    """A weight [out, in]."""
    TRANSPOSED = "transposed"
    """A weight [in, out], as the Conv1D of transformers keeps it (``fan_in_fan_out``)."""
    CONVOLUTION = "convolution"
    """A weight [out, in, ...kernel]."""
    EMBEDDING = "embedding"
    """A weight [tokens, features]."""
    STACK = "stack"
    """A parameter [experts, out, in] (``target_parameters``)."""
    TRANSPOSED_STACK = "transposed_stack"
    """A parameter [experts, in, out], of modules that say ``is_transposed``."""
    PARAMETER = "parameter"
    """A parameter [out, in] that is no weight of a linear module (``target_parameters``)."""


_PARAMETERS: Final = (Kind.STACK, Kind.TRANSPOSED_STACK, Kind.PARAMETER)


@dataclass(frozen=True, slots=True)
class Target:
    """One tensor of a model that an adapter changes by the product of two factors.

    >>> Target("model.layers.0.mlp.up_proj.weight", (8, 4)).module
    'model.layers.0.mlp.up_proj'
    """

    name: str
    """The tensor as the model calls it."""
    shape: tuple[int, ...]
    kind: Kind = Kind.LINEAR
    stored: str | None = None
    """The module in the names of the factors, where parameters of one module are nested."""

    @property
    def key(self) -> str:
        """The target as configurations and patterns name it: a module, or a parameter."""
        return self.name if self.kind in _PARAMETERS else self.module

    @property
    def module(self) -> str:
        """The module of the tensor."""
        return self.name.rpartition(".")[0]

    @property
    def is_parameter(self) -> bool:
        """True for a parameter that PEFT reaches by ``target_parameters``."""
        return self.kind in _PARAMETERS

    @property
    def most_rank(self) -> int:
        """The largest rank that makes sense: that of a matrix of the tensor's size."""
        return min(self.matrix_shape[-2:])

    @property
    def matrix_shape(self) -> tuple[int, ...]:
        """The shape as a matrix, or as a stack of matrices: a kernel is among the columns."""
        if self.kind is not Kind.CONVOLUTION:
            return self.shape
        return (self.shape[0], math.prod(self.shape[1:]))

    def stored_factors(self, left: Any, right: Any) -> Iterator[tuple[str, Any]]:
        """Yield the names and the arrays of the factors as PEFT stores them.

        Args:
            left: [rows, rank], or [experts, rows, rank]; a NumPy array.
            right: [rank, columns], or [experts, rank, columns]; the rows and columns are those of
                the tensor as it lies in the file, a convolution's kernel among its columns.
        """
        rank = left.shape[-1]
        place = f"{PREFIX}{self.stored or self.module}"
        match self.kind:
            case Kind.EMBEDDING:
                yield f"{place}.lora_embedding_A", left.T
                yield f"{place}.lora_embedding_B", right.T
                return
            case Kind.TRANSPOSED:
                a, b = left.T, right.T
            case Kind.CONVOLUTION:
                ones = (1,) * (len(self.shape) - 2)
                a, b = (
                    right.reshape(rank, *self.shape[1:]),
                    left.reshape(self.shape[0], rank, *ones),
                )
            case Kind.STACK:
                a = right.reshape(-1, right.shape[-1])
                b = left.transpose(1, 2, 0).reshape(left.shape[1], -1)
            case Kind.TRANSPOSED_STACK:
                a = left.transpose(0, 2, 1).reshape(-1, left.shape[1])
                b = right.transpose(2, 1, 0).reshape(right.shape[-1], -1)
            case _:
                a, b = right, left
        yield f"{place}.lora_A.weight", a
        yield f"{place}.lora_B.weight", b


@dataclass(frozen=True, slots=True)
class Kept:
    """One tensor that a written adapter holds whole, in the place of the model's."""

    name: str
    """The tensor as the model calls it."""
    dtype: str
    shape: tuple[int, ...]


def saved_modules(kept: list[Kept], targets: list[Target]) -> tuple[list[str], list[Kept]]:
    """Tell the modules that are saved whole from biases that are saved alone.

    Args:
        kept: The tensors that the adapter holds.
        targets: The tensors that it changes by factors.

    Returns:
        The modules of ``modules_to_save``, sorted, and the biases.
    """
    changed = {target.module for target in targets if not target.is_parameter}
    whole = {
        one.name.rpartition(".")[0] for one in kept if one.name.rpartition(".")[2] != "bias"
    } - changed
    # A module is saved with all that is inside.
    whole -= {one for one in whole for other in whole if one.startswith(f"{other}.")}
    inside = tuple(f"{one}." for one in whole)
    biases = [one for one in kept if not one.name.startswith(inside)]
    return sorted(whole), biases


def stored_name(kept: Kept, changed: set[str]) -> str:
    """Return the name of a kept tensor in the adapter's file.

    Args:
        kept: The tensor.
        changed: The modules that are changed by factors: PEFT wraps these.
    """
    module, _, last = kept.name.rpartition(".")
    return f"{PREFIX}{module}.base_layer.{last}" if module in changed else f"{PREFIX}{kept.name}"
