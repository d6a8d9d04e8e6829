"""DOGE: optimise one correction of all task vectors, outside their shared subspace."""

from __future__ import annotations

from ..spec.choices import FUSIONBENCH, PAPER, Semantics
from ..spec.parameters import Parameter, Values
from ..spec.rules import Blend, Rule, Vote, trimmed
from ._correction import corrected_sum
from ._matrix import Deltas, MatrixMethod, Tensor, an_others
from ._parameters import a_density


class Doge(MatrixMethod):
    """Correct all task vectors by one matrix D so that the merged one agrees with each along it.

    x_t = w_t (f_t - base); c_t = coefficient / |x_t|_F; out = base + scale * sum_t c_t mask_t (x_t
    + D), where mask_t keeps the largest entries of x_t. D starts at zero and takes ``steps`` steps
    of Adam (rate 1e-4) down sum over t and rows of <x_t, x_t - sum_s c_s (x_s + D)>^2. From each
    gradient its part in the shared subspace is removed: the int(r / subspace) largest left singular
    vectors of those that the tasks have, int(r / N) each; r = min(m, n).

    ``density`` is counted as in TIES, over all matrices of an expert together, with all equal
    magnitudes kept. Experts whose matrix is the base's take no part. Other tensors stay the base's.
    A matrix with a NaN or infinite task vector becomes NaN as a whole, which is an error unless the
    merge's ``nonfinite`` says otherwise. fusionbench semantics merges only matrices with both
    "encoder" and "weight" in their name, and not "layer_norm".

    Wei et al., Modeling Multi-Task Model Merging as Adaptive Projective Gradient Descent, 2025,
    arXiv 2501.01230.
    """

    name = "doge"
    formula = "out = base + scale * sum_t c_t mask_t (x_t + D), c_t = coefficient / |x_t|_F"
    paper = "Wei et al. 2025, arXiv 2501.01230"
    semantics = (PAPER, FUSIONBENCH)
    keeps_one_expert = False
    copies = 8.0
    copies_per_expert = True

    density = a_density(0.3)
    coefficient = Parameter(0.07, "norm of each task vector in the result", low=0)
    subspace = Parameter(6, "r / this many directions are shared", low=1, high=1 << 20, whole=True)
    steps = Parameter(400, "steps of Adam", low=0, high=100000, whole=True)
    others = an_others("base", choices=("base",))

    @classmethod
    def rule(cls, parameters: Values, semantics: Semantics) -> Rule:
        return trimmed(Vote.NONE, Blend.SUM)

    @classmethod
    def takes(
        cls, name: str, shape: tuple[int, ...], parameters: Values, semantics: Semantics
    ) -> bool:
        named = "encoder" in name and "weight" in name and "layer_norm" not in name
        return (named or semantics is PAPER) and super().takes(name, shape, parameters, semantics)

    @classmethod
    def merge_matrix(cls, deltas: Deltas, parameters: Values, semantics: Semantics) -> Tensor:
        n_shared = min(deltas.shape) // int(parameters["subspace"])
        norm, n_steps = float(parameters["coefficient"]), int(parameters["steps"])
        return corrected_sum(deltas, norm, n_shared, n_steps)
