"""Numbers of how far two tensors, or two groups of tensors, lie apart."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Measures:
    """Numbers of how the elements of two tensors differ.

    Sums, sign flips and the largest difference are over the elements of which both values are
    finite: ``n_nonfinite`` others are in none of them.
    """

    n_elements: int
    n_different: int
    """Elements that are not equal bit for bit."""
    n_sign_flips: int
    """Elements whose values have opposite signs; zeros have none."""
    n_nonfinite: int
    """Elements that are NaN or infinite on either side."""
    largest: float
    """The largest size of a difference."""
    squares_a: float
    products: float
    squares_b: float
    squares_of_differences: float
    has_values: bool = True
    """False for bits without a meaning, such as scales of MX types: there is no norm of them."""

    @property
    def is_equal(self) -> bool:
        """True if all bits are equal."""
        return self.n_different == 0

    @property
    def changed_share(self) -> float:
        """The share of the elements that are not equal; 0 of none."""
        return self.n_different / self.n_elements if self.n_elements else 0.0

    @property
    def l2(self) -> float:
        """The norm of the difference."""
        return math.sqrt(self.squares_of_differences)

    @property
    def relative_l2(self) -> float | None:
        """The norm of the difference as a share of the first norm; None where that one is zero."""
        if not self.has_values:
            return None
        if self.squares_of_differences == 0:
            return 0.0
        return math.sqrt(self.squares_of_differences / self.squares_a) if self.squares_a else None

    @property
    def cosine(self) -> float | None:
        """The cosine of the angle between the two; None where just one is zero."""
        if not self.has_values:
            return None
        if self.squares_of_differences == 0:
            return 1.0
        if not self.squares_a or not self.squares_b:
            return None
        cosine = self.products / (math.sqrt(self.squares_a) * math.sqrt(self.squares_b))
        return min(max(cosine, -1.0), 1.0)

    def to_json_dict(self) -> dict[str, float | int | bool | None]:
        """Return the numbers as plain data; infinities, which JSON lacks, are None."""
        floats = {
            "changed_share": self.changed_share,
            "l2": self.l2,
            "relative_l2": self.relative_l2,
            "cosine": self.cosine,
            "largest_difference": self.largest,
        }
        return {
            "equal": self.is_equal,
            "n_elements": self.n_elements,
            "n_different": self.n_different,
            "n_sign_flips": self.n_sign_flips,
            "n_nonfinite": self.n_nonfinite,
            **{
                name: value if self._is_stated(name, value) else None
                for name, value in floats.items()
            },
        }

    def _is_stated(self, name: str, value: float | None) -> bool:
        is_of_bits = self.has_values or name == "changed_share"
        return is_of_bits and value is not None and math.isfinite(value)


def together(parts: Iterable[Measures]) -> Measures:
    """Return the numbers of all elements of several tensors.

    >>> one = Measures(4, 1, 0, 0, 2.0, 4.0, 4.0, 8.0, 4.0)
    >>> together([one, one]).l2
    2.8284271247461903
    """
    found = list(parts)
    return Measures(
        n_elements=sum(one.n_elements for one in found),
        n_different=sum(one.n_different for one in found),
        n_sign_flips=sum(one.n_sign_flips for one in found),
        n_nonfinite=sum(one.n_nonfinite for one in found),
        largest=max((one.largest for one in found), default=0.0),
        squares_a=math.fsum(one.squares_a for one in found),
        products=math.fsum(one.products for one in found),
        squares_b=math.fsum(one.squares_b for one in found),
        squares_of_differences=math.fsum(one.squares_of_differences for one in found),
        has_values=any(one.has_values for one in found) or not found,
    )
