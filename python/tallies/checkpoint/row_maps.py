"""State where the rows of an embedding come from when a vocabulary changes."""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

from ..errors import InputError
from ..messages import show
from ..spec.dtypes import DTYPES

if TYPE_CHECKING:
    from .tensors import TensorInfo

Pairs: TypeAlias = tuple[tuple[int, int], ...]
"""Numbers of models (0 is the first of the merge), each with a row."""


@dataclass(frozen=True)
class RowMap:
    """The rows of a tensor that stands for another one with other rows.

    Row i is row ``own[i]`` of the tensor itself. A row with ``own[i] < 0`` is the mean of the rows
    in ``means[i]``, summed in their order in float32, from +0 on, and divided by their number;
    without an entry there it is zero. The rows from ``len(own)`` on are the mean of all rows
    before, summed in float64 in their order and rounded to float32.
    """

    own: array[int]
    """Typecode ``q``: one number a token."""
    means: Mapping[int, Pairs] = field(default_factory=dict)
    """By row; a row whose own is its tensor's ignores its entry."""
    n_padding: int = 0
    """Rows behind those of the tokens."""

    @property
    def n_rows(self) -> int:
        """The rows of the tensor that results."""
        return len(self.own) + self.n_padding

    @property
    def is_order(self) -> bool:
        """True if each row is one of the tensor's own, or zero."""
        return not self.n_padding and next(self.averaged(), None) is None

    def averaged(self) -> Iterator[tuple[int, Pairs]]:
        """Yield the rows that are means, ascending, with the rows that they are means of."""
        for row in sorted(self.means):
            if self.own[row] < 0 and self.means[row]:
                yield row, self.means[row]

    def face(self) -> str:
        """Return a text that two maps share if they give the same rows."""
        digest = hashlib.blake2b(self.own.tobytes(), digest_size=8)
        digest.update(repr(list(self.averaged())).encode())
        return f"rows {len(self.own)} {self.n_padding} {digest.hexdigest()}"


@dataclass(frozen=True, slots=True, eq=False)
class Gathered:
    """The rows that a tensor is made of; two are equal if they read the same places alike."""

    source: TensorInfo
    """The model's own tensor, whatever it is read by."""
    rows: RowMap
    others: tuple[TensorInfo, ...]
    """The tensors of all models of the merge, of which some rows are means."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Gathered) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        places = [replace(one, name="") for one in self.pieces()]
        return (self.rows.face(), *places)

    def pieces(self) -> tuple[TensorInfo, ...]:
        """Return the tensor itself and, in the order of the models, those that means are of."""
        return (self.source, *(self.others[model] for model in sorted(self._averaged_rows())))

    def averaged_rows(self) -> list[TensorInfo]:
        """Return the rows of which some rows are means, ascending, as a tensor of each model."""
        return [
            mapped(self.others[model], RowMap(array("q", sorted(rows))))
            for model, rows in sorted(self._averaged_rows().items())
        ]

    def _averaged_rows(self) -> dict[int, set[int]]:
        found: dict[int, set[int]] = {}
        for _, pairs in self.rows.averaged():
            for model, row in pairs:
                found.setdefault(model, set()).add(row)
        return found


def mapped(tensor: TensorInfo, rows: RowMap, others: Sequence[TensorInfo] = ()) -> TensorInfo:
    """Return a tensor in other rows, which every pass of the engine reads as any tensor.

    Nothing is read. A map that leaves every row in place returns the tensor as it is.

    Args:
        tensor: The model's tensor, of one dimension or more; the first has a row for each token.
            It is not in other rows already.
        rows: The rows of the result.
        others: The tensors of all models of the merge, for means.

    Raises:
        InputError: A tensor lacks a row that is asked for, or others have rows of another length.
    """
    assert tensor.gathered is None
    _refuse_lacking(tensor, max(rows.own, default=-1))
    for _, pairs in rows.averaged():
        for model, row in pairs:
            _refuse_lacking(others[model], row)
    found = Gathered(tensor, rows, tuple(others))
    for one in found.pieces():
        if one.shape[1:] != tensor.shape[1:]:
            raise InputError(
                f"{one.path}: tensor {show(one.name)} has rows of shape {list(one.shape[1:])}, "
                f"expected {list(tensor.shape[1:])} as in {tensor.path}; merge models of one "
                "architecture"
            )
    if rows.is_order and rows.own == array("q", range(tensor.shape[0])):
        return tensor
    shape = (rows.n_rows, *tensor.shape[1:])
    dtype = tensor.decoded_dtype
    return replace(
        tensor,
        dtype=dtype,
        shape=shape,
        n_bytes=math.prod(shape) * DTYPES[dtype],
        strides=None,
        scale=None,
        changes=(),
        stands_as=None,
        gathered=found,
    )


def _refuse_lacking(tensor: TensorInfo, row: int) -> None:
    n_rows = tensor.shape[0] if tensor.shape else 0
    if row >= n_rows:
        raise InputError(
            f"{tensor.path}: tensor {show(tensor.name)} has {n_rows} rows, expected at least "
            f"{row + 1}: the vocabulary has a token of number {row}; resize the embedding, or take "
            "the token out of the tokenizer"
        )
