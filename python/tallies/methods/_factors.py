"""The methods that merge the factors of adapters one by one."""

from __future__ import annotations

from typing import ClassVar

from ..spec.choices import Semantics
from ..spec.parameters import Parameter, Values
from ..spec.rules import Blend, Gate, Rule, Vote
from ._method import Method


class FactorMethod(Method):
    """A method of adapters that merges their factors, not the products of these."""

    of_adapters: ClassVar[bool] = True


class Copa(FactorMethod):
    """Sum trimmed factors of adapters of one rank, and strengthen what the trim weakened.

    A'_t and B'_t are the trimmed factors; s_ti = |A_ti|_1 / |A'_ti|_1 of row i, at least the value
    that the share ``top`` of the rows of t exceeds; A = fuse sum_t A'_t; column i of
    B = fuse sum_t s_ti B'_ti / sum_t s_ti.

    The product has cross terms: the factors of different adapters multiply each other, as in the
    authors' code. Entries equal to a threshold stay. A row of which nothing is left counts as if
    the trim had not changed it. An adapter's alpha counts in B.

    Zeng et al., RobustMerge (CoPA-Merging), 2025, arXiv 2502.17159.
    """

    name = "copa"
    formula = "A = c sum_t A'_t; B_i = c sum_t s_ti B'_ti / sum_t s_ti; s_ti = |A_ti| / |A'_ti|"
    paper = "Zeng et al. 2025, arXiv 2502.17159"
    needs_base = False

    density = Parameter(0.2, "share of the entries of each factor that survives", low=0, high=1)
    top = Parameter(0.2, "share of the directions with a score of their own", low=0, high=1)
    fuse = Parameter(2.0, "factor on both sums")

    @classmethod
    def rule(cls, parameters: Values, semantics: Semantics) -> Rule:
        # The rule of the tensors that are held whole.
        return Rule(Gate.ALL, Vote.NONE, Blend.MEAN)


class Disjoint(FactorMethod):
    """Gather the factors of sparse adapters whose entries do not overlap.

    Each entry of A and of B is that of the adapter in which it is not zero. Adapters in which an
    entry has different values are refused; equal values count once.

    After Zhang et al., MoSA: Mixture of Sparse Adapters (joint merging), 2023, arXiv 2312.02923.
    """

    name = "disjoint"
    formula = "A = the A_t that is not zero, entry by entry; B alike"
    paper = "Zhang et al. 2023, arXiv 2312.02923"
    needs_base = False

    @classmethod
    def rule(cls, parameters: Values, semantics: Semantics) -> Rule:
        return Rule(Gate.ALL, Vote.NONE, Blend.MEAN)
