"""Matrices with changes of each kind: as native passes take them, and as the reference does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from tallies._core import Change
from tests.reference import changes as reference
from tests.reference.dtype import Floats, widen
from tests.support import strategies

Array = npt.NDArray[Any]
KINDS = [
    *("product", "stack", "part", "hadamard", "kronecker"),
    *("added", "row factors", "column factors", "rows", "added rows", "row divisors"),
]
PlaceOf = Callable[[Array], tuple[int, int, int]]


@dataclass(frozen=True)
class Step:
    """A change of a matrix."""

    native: Callable[[PlaceOf], Change]
    made: Callable[[Floats], Floats]
    """The matrix after the change."""


@dataclass(frozen=True)
class Changed:
    """A matrix and its changes."""

    values: Array
    steps: list[Step]

    @property
    def dense(self) -> Floats:
        x = widen(self.values)
        for step in self.steps:
            x = step.made(x)
        return x

    def changes(self, place_of: PlaceOf) -> list[Change]:
        return [step.native(place_of) for step in self.steps]


def product(left: Array, right: Array, scale: float, first_row: int = 0) -> Step:
    """LoRA, of one matrix or of a stack."""
    rows = left.shape[-2]

    def native(place_of: PlaceOf) -> Change:
        return Change.product(
            left=place_of(left),
            right=place_of(right),
            rank=left.shape[-1],
            columns=right.shape[-1],
            scale=scale,
            matrix_rows=rows if left.ndim == 3 else None,
            first_row=first_row,
            n_rows=rows if left.ndim == 2 else None,
        )

    return Step(native, lambda x: reference.add_product(x, left, right, scale, first_row))


def hadamard(a: tuple[Array, Array], b: tuple[Array, Array], scale: float) -> Step:
    """LoHa."""
    return Step(
        lambda place_of: Change.hadamard(
            a=product(*a, 7.0).native(place_of), b=product(*b, 7.0).native(place_of), scale=scale
        ),
        lambda x: reference.add_hadamard(x, a, b, scale),
    )


def kronecker(
    left: Array | tuple[Array, Array], right: Array | tuple[Array, Array], scale: float
) -> Step:
    """LoKr, of matrices or of products."""

    def shape(one: Array | tuple[Array, Array]) -> tuple[int, int]:
        return (one[0].shape[0], one[1].shape[1]) if isinstance(one, tuple) else one.shape

    def native(place_of: PlaceOf) -> Change:
        factors = [
            product(*one, 7.0).native(place_of) if isinstance(one, tuple) else place_of(one)
            for one in (left, right)
        ]
        return Change.kronecker(
            left=factors[0],
            right=factors[1],
            left_shape=shape(left),
            right_shape=shape(right),
            scale=scale,
        )

    return Step(native, lambda x: reference.add_kronecker(x, left, right, scale))


def added(values: Array, scale: float) -> Step:
    """A difference."""
    return Step(
        lambda place_of: Change.added(values=place_of(values), scale=scale),
        lambda x: reference.add(x, values, scale),
    )


def row_factors(factors: Array, columns: int) -> Step:
    """DoRA."""
    return Step(
        lambda place_of: Change.row_factors(factors=place_of(factors), columns=columns),
        lambda x: reference.multiply_rows(x, factors),
    )


def column_factors(factors: Array) -> Step:
    """DoRA of columns."""
    return Step(
        lambda place_of: Change.column_factors(factors=place_of(factors), columns=factors.size),
        lambda x: reference.multiply_columns(x, factors),
    )


def rows(indices: list[int], values: Array, *, added: bool) -> Step:
    """Trained tokens, or rows of a mean."""
    make = reference.add_rows if added else reference.replace_rows
    return Step(
        lambda place_of: Change.rows(
            indices=indices, values=place_of(values), columns=values.shape[1], added=added
        ),
        lambda x: make(x, indices, values),
    )


def row_divisors(indices: list[int], divisors: Array, columns: int) -> Step:
    """Counts of a mean."""
    return Step(
        lambda place_of: Change.row_divisors(
            indices=indices, divisors=place_of(divisors), columns=columns
        ),
        lambda x: reference.divide_rows(x, indices, divisors),
    )


@st.composite
def _filled(draw: st.DrawFn, *shape: int) -> Array:
    """An array of any dtype, of few values that repeat."""
    few = draw(strategies.arrays(draw(strategies.dtypes()), 1, 60))
    return np.resize(few, shape)


@st.composite
def steps(draw: st.DrawFn, n_rows: int, n_columns: int) -> Step:
    """A change of any kind of a matrix of this shape."""
    scale = draw(st.sampled_from([1.0, -0.5, 0.3, 0.0, 2.0]))
    rank = draw(st.sampled_from([1, 2, 3, 5, 16]))

    def pair(height: int, width: int, *stack: int) -> tuple[Array, Array]:
        return draw(_filled(*stack, height, rank)), draw(_filled(*stack, rank, width))

    def divisor(n: int) -> int:
        return draw(st.sampled_from([d for d in range(1, n + 1) if n % d == 0]))

    match draw(st.sampled_from(KINDS)):
        case "product":
            return product(*pair(n_rows, n_columns), scale)
        case "stack":
            n = divisor(n_rows)
            return product(*pair(n_rows // n, n_columns, n), scale)
        case "part":
            first = draw(st.integers(0, n_rows - 1))
            n = draw(st.integers(1, n_rows - first))
            return product(*pair(n, n_columns), scale, first)
        case "hadamard":
            return hadamard(pair(n_rows, n_columns), pair(n_rows, n_columns), scale)
        case "kronecker":
            height, width = divisor(n_rows), divisor(n_columns)
            shapes = [(height, width), (n_rows // height, n_columns // width)]
            left, right = (
                pair(*shape) if draw(st.booleans()) else draw(_filled(*shape)) for shape in shapes
            )
            return kronecker(left, right, scale)
        case "added":
            return added(draw(_filled(n_rows, n_columns)), scale)
        case "row factors":
            return row_factors(draw(_filled(n_rows)), n_columns)
        case "column factors":
            return column_factors(draw(_filled(n_columns)))
        case kind:
            some = draw(st.sets(st.integers(0, n_rows - 1), min_size=1, max_size=5))
            if kind == "row divisors":
                return row_divisors(sorted(some), draw(_filled(len(some))), n_columns)
            values = draw(_filled(len(some), n_columns))
            return rows(sorted(some), values, added=kind == "added rows")


@st.composite
def changed(draw: st.DrawFn) -> Changed:
    """Small and long rows; one change or several."""
    n_rows = draw(st.integers(1, 12) | st.sampled_from([40, 300]))
    n_columns = draw(st.integers(1, 12) | st.sampled_from([63, 130, 257, 2049]))
    values = draw(_filled(n_rows, n_columns))
    n_steps = draw(st.sampled_from([1, 1, 2, 3]))
    return Changed(values, [draw(steps(n_rows, n_columns)) for _ in range(n_steps)])
