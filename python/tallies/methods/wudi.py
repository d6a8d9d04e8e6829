"""WUDI: reduce the interference of the merged matrix with each task."""

from __future__ import annotations

from ..spec.choices import FUSIONBENCH, PAPER, Semantics
from ..spec.parameters import Parameter, Values
from ._interference import Interference
from ._matrix import Deltas, MatrixMethod, Tensor, an_others

# The implementations differ in the power p of |x_t|_F and in the rate of Adam.
_VARIANTS = {"vision": (1, 1e-5), "language": (2, 2e-5)}
_FUSIONBENCH = (2, 1e-5)


class Wudi(MatrixMethod):
    """Move the sum of the task vectors so that it interferes less with each of them.

    x_t = w_t (f_t - base); M goes from sum_t x_t towards the minimum of sum_t |(M - x_t) x_t^T|_F^2
    / |x_t|_F^p; out = base + scale * M.

    ``solver: adam`` takes ``steps`` steps of Adam and stops, as published, far from the minimum:
    ``variant`` vision (p = 1, rate 1e-5) or language (p = 2, rate 2e-5), and p = 2, rate 1e-5 in
    fusionbench semantics. ``closed_form`` is the minimum of least norm itself, (sum_t x_t G_t /
    |x_t|^p) (sum_t G_t / |x_t|^p)^+ with G_t = x_t^T x_t, where eigenvalues up to 2^-23 of the
    largest count as zero.

    Experts whose matrix is the base's take no part. The published code leaves other tensors at the
    base, fusionbench takes their mean. A matrix with a NaN or infinite task vector becomes NaN as a
    whole, which is an error unless the merge's ``nonfinite`` says otherwise.

    Cheng et al., Whoever Started the Interference Should End It (WUDI), 2025, arXiv 2503.08099.
    """

    name = "wudi"
    formula = "out = base + scale * M, M towards the least sum_t |(M - x_t) x_t^T|^2 / |x_t|^p"
    paper = "Cheng et al. 2025, arXiv 2503.08099"
    semantics = (PAPER, FUSIONBENCH)
    keeps_one_expert = False
    copies = 8.0

    variant = Parameter("vision", "published program", choices=(*_VARIANTS,), semantics=(PAPER,))
    solver = Parameter(
        "adam", "steps as published, or the minimum itself", choices=("adam", "closed_form")
    )
    steps = Parameter(
        300,
        "steps of Adam",
        low=0,
        high=100000,
        whole=True,
        by_semantics={FUSIONBENCH: 400},
        only_with={"solver": "adam"},
    )
    others = an_others("base", by_semantics={FUSIONBENCH: "mean"})

    @classmethod
    def n_bytes(cls, shape: tuple[int, int], n_experts: int) -> int:
        # The Gram matrices are those of the columns, however many there are.
        return super().n_bytes(shape, n_experts) + 8 * 8 * shape[1] ** 2

    @classmethod
    def merge_matrix(cls, deltas: Deltas, parameters: Values, semantics: Semantics) -> Tensor:
        power, rate = _VARIANTS[parameters["variant"]] if semantics is PAPER else _FUSIONBENCH
        interference = Interference(deltas, power)
        if parameters["solver"] == "closed_form":
            return interference.minimum()
        return interference.descend(deltas.sum(), int(parameters["steps"]), rate)
