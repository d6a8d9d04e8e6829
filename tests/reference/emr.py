"""EMR: elect a sign, share the largest agreeing entry, mask it and rescale it for each task."""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum

import numpy as np

from .blend import disjoint_merge
from .dtype import Floats, Mask, ieee
from .elect import elect_signs
from .masks import pack_bits, unpack_bits
from .tall import Masks, Vector


def unified_vector(tasks: Sequence[Vector]) -> dict[str, Floats]:
    """Take the largest of the entries with the sign of their in-order sum; else +0.

    A sum of exactly zero elects the negative sign. If the sum is NaN, so is the result.
    """
    stacks = {name: np.stack([x[name] for x in tasks]) for name in tasks[0]}
    return {
        name: disjoint_merge(xs, elect_signs(xs, zero="negative"), blend="max")
        for name, xs in stacks.items()
    }


def masks(tasks: Sequence[Vector], unified: Vector) -> list[Masks]:
    """Mark where x_t and the unified vector have the same sign; zero and NaN have none."""
    return [{name: pack_bits(agrees(x[name], unified[name])) for name in x} for x in tasks]


def agrees(x: Floats, u: Floats) -> Mask:
    """Both positive or both negative."""
    return np.asarray(((x > 0) & (u > 0)) | ((x < 0) & (u < 0)))


@ieee
def scales(tasks: Sequence[Vector], unified: Vector, rescale: str = "code") -> list[float]:
    """The rescaler of each task, a float32 value: the size of x_t over that of u where it is set.

    "code": sum over tensors of mean|x_t| / sum over tensors of mean|u M_t|, as the authors compute
    it. "paper": sum|x_t| / sum|u M_t| over all elements. Both from the unrounded u, the sums exact,
    the means and the ratio in float64. A task with no bit set has nothing to scale: 1.
    """
    results = []
    for x, bits in zip(tasks, masks(tasks, unified), strict=True):
        sizes = {name: x[name].size if rescale == "code" else 1 for name in x}
        marked = {
            name: np.where(unpack_bits(bits[name], u.size), u.ravel(), np.float32(0))
            for name, u in unified.items()
        }
        own = fsum(l1_norm(x[name]) / sizes[name] for name in x)
        set_part = fsum(l1_norm(marked[name]) / sizes[name] for name in x)
        results.append(float(np.float32(own / set_part)) if set_part != 0 else 1.0)
    return results


def l1_norm(x: Floats) -> float:
    """sum|x|, rounded once to float64; NaN if an entry is."""
    return fsum(np.abs(x).ravel().tolist())
