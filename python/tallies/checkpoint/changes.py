"""Changes that adapters make to a tensor, one after the other, in float32.

The tensor is seen as a matrix of ``columns`` elements a row, in row-major order. The columns are
those of the change: a convolution's weight [out, in, 3, 3] has 9 * in of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from .tensors import TensorInfo


@dataclass(frozen=True, slots=True)
class Product:
    """Adds scale * left @ right: LoRA.

    The sum over the rank is in the order of the rank index, in float32; it is multiplied by the
    scale, then added. A stack of matrices has factors of three dimensions.
    """

    left: TensorInfo
    """[rows, rank], or [matrices, rows, rank]; may be a strided view."""
    right: TensorInfo
    """[rank, columns], or [matrices, rank, columns]; may be a strided view."""
    scale: float = 1.0
    first_row: int = 0
    """The row of the tensor to which the first row of a single product is added."""


@dataclass(frozen=True, slots=True)
class Hadamard:
    """Adds scale * (a.left @ a.right) * (b.left @ b.right), element by element: LoHa."""

    a: Product
    b: Product
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Kronecker:
    """Adds scale * kron(left, right): LoKr. A factor is a matrix, or a product of scale 1."""

    left: TensorInfo | Product
    right: TensorInfo | Product
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Added:
    """Adds scale * values, of the tensor's shape: differences of biases and of whole weights."""

    values: TensorInfo
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Magnitudes:
    """Gives every row, or every column, the L2 norm that an adapter learned: DoRA.

    The factors are the magnitudes divided by the norms of what the changes before this one make.
    """

    values: TensorInfo
    """One for each row, or for each column."""
    columns: int
    """The elements of a row of the matrix whose rows or columns have norms."""
    of_columns: bool = False


@dataclass(frozen=True, slots=True)
class Rows:
    """Replaces some rows by others: trained tokens."""

    indices: tuple[int, ...]
    """Ascending."""
    values: TensorInfo
    """[indices, columns]."""


Change: TypeAlias = Product | Hadamard | Kronecker | Added | Magnitudes | Rows


def pieces(change: Change) -> tuple[TensorInfo, ...]:
    """Return the stored tensors that a change is made of."""
    match change:
        case Product(left, right):
            return (left, right)
        case Hadamard(a, b):
            return (*pieces(a), *pieces(b))
        case Kronecker(left, right):
            return tuple(
                piece
                for factor in (left, right)
                for piece in (pieces(factor) if isinstance(factor, Product) else (factor,))
            )
        case Added(values) | Magnitudes(values) | Rows(_, values):
            return (values,)


def face(change: Change) -> str:
    """Return the facts of a change beside the values of its pieces: two of one face do the same."""
    match change:
        case Product(left, right, scale, first_row):
            return f"product {_shape(left)} {_shape(right)} {scale!r} {first_row}"
        case Hadamard(a, b, scale):
            return f"hadamard {face(a)} {face(b)} {scale!r}"
        case Kronecker(left, right, scale):
            factors = (
                face(one) if isinstance(one, Product) else _shape(one) for one in (left, right)
            )
            return f"kronecker {' '.join(factors)} {scale!r}"
        case Added(values, scale):
            return f"added {_shape(values)} {scale!r}"
        case Magnitudes(values, columns, of_columns):
            return f"magnitudes {_shape(values)} {columns} {of_columns}"
        case Rows(indices, values):
            return f"rows {list(indices)} {_shape(values)}"


def _shape(tensor: TensorInfo) -> str:
    return f"{tensor.dtype}{list(tensor.shape)}"
