"""DARE: drop entries of the task vectors at random, rescale the survivors, add."""

from __future__ import annotations

from ..spec.choices import FUSIONBENCH, MERGEKIT, PAPER, PEFT, Semantics
from ..spec.parameters import Parameter, Values
from ..spec.rules import Blend, Gate, Rule, Vote, staged
from ._method import Method, mean_objection
from ._parameters import a_rescale, a_scale, a_weight, an_int8_mask

_WEIGHTED = (PAPER, MERGEKIT, PEFT)


class DareLinear(Method):
    """Drop entries of the task vectors at random and add the rescaled survivors.

    x_t = f_t - base, each entry kept with probability density and then divided by density; out =
    base + scale * sum_t w_t x_t, the sum divided by sum_t w_t when ``normalize`` is true.

    Seed, expert, tensor name and element decide whether an entry survives: experts in another order
    draw other numbers. ``rescale: l1``, mergekit's, multiplies the survivors of each tensor by sum
    |x| / sum |survivors| instead, unless either sum is below 1e-7. Density 1 keeps all entries, 0
    none. Equal magnitudes and zeros are ordinary entries. A NaN is never dropped, and is an error
    unless the merge's ``nonfinite`` says otherwise.

    fusionbench semantics, its ``dare/task_arithmetic``, has no weights; its ``sparsity_ratio`` is 1
    - density.

    Yu et al., Language Models are Super Mario, 2023, arXiv 2311.03099.
    """

    name = "dare_linear"
    formula = "out = base + scale * sum_t w_t drop(f_t - base) / density"
    paper = "Yu et al. 2023, arXiv 2311.03099"
    semantics = (*_WEIGHTED, FUSIONBENCH)
    has_order = True

    density = Parameter(
        0.1,
        "probability that an entry survives",
        low=0,
        high=1,
        per_model=True,
        range_by_semantics={MERGEKIT: (0, None)},
        by_semantics={MERGEKIT: 1.0, FUSIONBENCH: 0.5},
    )
    weight = a_weight(semantics=_WEIGHTED)
    scale = a_scale(by_semantics={FUSIONBENCH: 0.3})
    rescale = a_rescale()
    normalize = Parameter(False, "divide by the sum of the weights", semantics=_WEIGHTED)
    int8_mask = an_int8_mask(semantics=_WEIGHTED)

    @classmethod
    def rule(cls, parameters: Values, semantics: Semantics) -> Rule:
        blend = Blend.MEAN if parameters.get("normalize") else Blend.SUM
        return staged(Gate.RANDOM, Vote.NONE, blend, rescale=parameters["rescale"])

    @classmethod
    def objection(cls, parameters: Values) -> str | None:
        return mean_objection(parameters) if "normalize" in parameters else None
