"""Every method of elements in float64: the result without rounding, and the size of its terms.

All take task vectors (or models, for methods without a base) [N, rows, columns] and return what is
added to the base, as an `Exact`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from . import coefficients
from .random import N_NUMBERS, key, numbers

Doubles = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

SLACK = 2.0**-20
"""Comparisons of numbers that are nearer than this, in proportion, may go either way in float32."""


@dataclass(frozen=True)
class Exact:
    """A result.

    Args:
        value: The result of each element.
        size: The sum of the magnitudes of the terms that it is the sum of.
        undecided: Elements at which a comparison may go either way.
    """

    value: Doubles
    size: Doubles
    undecided: Mask | bool = False


def column(weights: Any, x: Doubles) -> Doubles:
    """The weights, [N, 1, 1]."""
    given = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64)
    return given.reshape(-1, 1, 1)


def total(x: Doubles, weights: Any = None, normalize: bool = False) -> Exact:
    """The weighted sum, or mean."""
    w = column(weights, x)
    divisor = w.sum() if normalize else 1.0
    return Exact((w * x).sum(0) / divisor, np.abs(w * x).sum(0) / abs(divisor))


def near(a: Doubles, b: Doubles | float) -> Mask:
    """Two magnitudes that float32 may order either way; zeros of both are equal in both."""
    return np.asarray((np.abs(a - b) <= SLACK * np.maximum(a, b)) & (np.maximum(a, b) > 0))


def elected(
    x: Doubles, weights: Any = None, *, mean: bool = True, votes: Doubles | None = None
) -> Exact:
    """The mean or sum of the entries that have the sign of the sum."""
    y = column(weights, x) * x
    ballot = y if votes is None else votes
    sums, sizes = ballot.sum(0), np.abs(ballot).sum(0)
    agree = y * np.sign(sums) > 0
    divisor = np.maximum(agree.sum(0), 1) if mean else 1
    return Exact(
        np.where(agree, y, 0).sum(0) / divisor,
        np.where(agree, np.abs(y), 0).sum(0) / divisor,
        (np.abs(sums) <= SLACK * sizes) & (sizes > 0),
    )


def trimmed(x: Doubles, density: float) -> Doubles:
    """The entries that reach their expert's (k + 1)-th largest magnitude, k = int(n density)."""
    k = int(x[0].size * density)
    if k >= x[0].size:
        return x
    least = np.sort(np.abs(x).reshape(len(x), -1), axis=1)[:, -(k + 1)]
    return np.where(np.abs(x) >= least.reshape(-1, 1, 1), x, 0)


def ties(x: Doubles, density: float = 0.2, weights: Any = None, normalize: bool = True) -> Exact:
    return elected(trimmed(x, density), weights, mean=normalize)


def drawn(x: Doubles) -> Doubles:
    """The random numbers of each entry of the tensor "w" for the seed 0, from 0 to 1."""
    rows = [numbers(key(0, e, "w"), x[0].size).reshape(x[0].shape) for e in range(len(x))]
    return np.stack(rows) / N_NUMBERS


def dropped(x: Doubles, density: float) -> Doubles:
    """DARE's task vectors: entries stay with a probability, and are divided by it."""
    return np.where(drawn(x) < round(density * N_NUMBERS) / N_NUMBERS, x / density, 0)


def dare_linear(x: Doubles, density: float = 0.1, weights: Any = None) -> Exact:
    return total(dropped(x, density), weights)


def dare_ties(x: Doubles, density: float = 0.1, weights: Any = None) -> Exact:
    return elected(dropped(x, density), weights)


def ranks(x: Doubles) -> Doubles:
    """The place of each entry's magnitude in its row, 0 for the smallest."""
    order = np.argsort(np.abs(x), axis=-1, kind="stable")
    return np.argsort(order, axis=-1, kind="stable").astype(np.float64)


def thinned(x: Doubles, density: float, epsilon: float) -> tuple[Doubles, Mask]:
    """DELLA's task vectors, and the elements whose lot is near their chance."""
    chances = density - epsilon + 2 * epsilon / (x.shape[-1] - 1) * ranks(x)
    lots = drawn(x)
    return np.where(lots < chances, x / chances, 0), near(lots, chances).any(axis=0)


def della(
    x: Doubles,
    density: float = 0.7,
    epsilon: float = 0.07,
    weights: Any = None,
    elects: bool = True,
) -> Exact:
    thin, undecided = thinned(x, density, epsilon)
    found = elected(thin, weights) if elects else total(thin, weights)
    return Exact(found.value, found.size, found.undecided | undecided)


def band(x: Doubles, density: float, gamma: float) -> Doubles:
    """The entries of each row without the int(n gamma) largest, and the int(n density) behind."""
    n = x.shape[-1]
    outliers = int(n * gamma)
    place = np.argsort(np.argsort(-np.abs(x), axis=-1, kind="stable"), axis=-1, kind="stable")
    return np.where((place >= outliers) & (place < outliers + int(n * density)), x, 0)


def breadcrumbs(
    x: Doubles,
    density: float = 0.15,
    gamma: float = 0.006,
    weights: Any = None,
    elects: bool = False,
) -> Exact:
    kept = band(x, density, gamma)
    return elected(kept, weights, mean=False) if elects else total(kept, weights)


def claimed(x: Doubles, merged: Exact, k: int, mask_lambda: float) -> Exact:
    """The merged entries that at least k tasks claim."""
    own, others = np.abs(x), mask_lambda * np.abs(merged.value - x)
    on = (own > others).sum(0) >= k
    # The other side of a claim has the rounding errors of the sum.
    slack = SLACK * (own + mask_lambda * merged.size)
    undecided = ((np.abs(own - others) <= slack) & (own + others > 0)).any(axis=0)
    return Exact(
        np.where(on, merged.value, 0), np.where(on, merged.size, 0), undecided | merged.undecided
    )


def consensus_ta(x: Doubles, k: int = 2, mask_lambda: float = 0.4, weights: Any = None) -> Exact:
    return claimed(x, total(x, weights), k, mask_lambda)


def consensus_ties(
    x: Doubles, k: int = 2, mask_lambda: float = 0.4, density: float = 0.2, weights: Any = None
) -> Exact:
    return claimed(x, ties(x, density, weights, normalize=False), k, mask_lambda)


def largest(x: Doubles) -> tuple[Doubles, Mask]:
    """The entry of largest magnitude, and the elements with two of them that differ little."""
    order = np.sort(np.abs(x), axis=0)
    found = np.take_along_axis(x, np.abs(x).argmax(0)[None], 0)[0]
    rivals = near(order[-1], order[-2]) if len(x) > 1 else np.zeros(x.shape[1:], np.bool_)
    return found, rivals


def emr(x: Doubles) -> Exact:
    sums = x.sum(0)
    agreeing = np.where(x * np.sign(sums) > 0, x, 0)
    value, _ = largest(agreeing)
    return Exact(value, np.abs(value), np.abs(sums) <= SLACK * np.abs(x).sum(0))


def magmax(x: Doubles, weights: Any = None) -> Exact:
    value, rivals = largest(column(weights, x) * x)
    return Exact(value, np.abs(value), rivals)


def ram(x: Doubles, epsilon: float = 1e-5, factors: Any = None) -> Exact:
    """Changes of one expert alone times its factor, else the mean of those above epsilon."""
    on = np.abs(x) > epsilon
    n = on.sum(0)
    terms = np.where(on, x * np.where(n == 1, column(factors, x), 1 / np.maximum(n, 1)), 0)
    return Exact(terms.sum(0), np.abs(terms).sum(0), near(np.abs(x), epsilon).any(axis=0))


def ramplus(x: Doubles, epsilon: float = 1e-5, r: float = 0.1, alpha: float = 0.2) -> Exact:
    on = np.abs(x) > epsilon
    n = on.sum(0)
    shared = (on & (n > 1)).sum(axis=(1, 2))
    alone = (on & (n == 1)).sum(axis=(1, 2))
    rho = shared / np.where(alone > 0, alone, epsilon)
    return ram(x, epsilon, 1 + r * np.minimum(rho, alpha))


def sce(x: Doubles, select_topk: float = 1.0) -> Exact:
    variance = x.var(axis=0)
    k = int(np.count_nonzero(variance) * select_topk)
    least = np.sort(variance, axis=None)[::-1][k - 1]
    kept = np.where(variance >= least, x, 0)
    squares = (kept**2).mean(axis=(1, 2))
    w = column(squares / squares.sum(), x)
    found = elected(kept, w.ravel(), mean=False, votes=kept)
    agree = kept * np.sign(kept.sum(0)) > 0
    divisor = np.maximum(np.where(agree, w, 0).sum(0), 1e-6)
    return Exact(found.value / divisor, found.size / divisor, found.undecided)


def pcb(x: Doubles, ratio: float = 0.2, weights: Any = None) -> Exact:
    """The size has a second part: errors of the scores, in proportion to the largest of them."""
    n, places = len(x), x[0].size
    ordered = np.sort(np.abs(x).reshape(n, -1), axis=1)
    low, high = ordered[:, int(places * 1e-4)], ordered[:, int(places * (1 - 1e-4) - 1)]
    low, high = low.reshape(-1, 1, 1), high.reshape(-1, 1, 1)
    clipped = np.clip(np.abs(x), low, high)
    parts = (clipped - low) / (high - low)
    scores = np.exp(n * parts**2) * np.tanh(x * x.sum(0))
    flat = np.sort(scores.reshape(n, -1), axis=1)
    least = flat[:, int(places * (1 - ratio))].reshape(-1, 1, 1)
    width = flat[:, -1].reshape(-1, 1, 1) - least
    shares = np.maximum(scores - least, 0) / width
    values = column(weights, x) * np.sign(x) * clipped
    divisor = np.maximum(shares.sum(0), 1e-12)
    value = (shares * values).sum(0) / divisor
    errors = np.abs(scores).max(axis=(1, 2), keepdims=True) / width
    doubts = (errors * (np.abs(values) + np.abs(value))).sum(0) / divisor
    size = (shares * np.abs(values)).sum(0) / divisor + np.where(shares.any(0), doubts, 0)
    # The result is zero or a value if the only share may be none, or none may be one.
    some = np.abs(scores - least) <= SLACK * errors * width
    return Exact(value, size, (shares.sum(0) <= SLACK * errors.sum()) & some.any(axis=0))


def arcee_fusion(x: Doubles, base: Doubles) -> Exact:
    delta = x[0]

    def softmax(rows: Doubles) -> Doubles:
        powers = np.exp(rows - rows.max(axis=-1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=-1, keepdims=True) + 1e-8)

    p, q = softmax(base + delta), softmax(base)
    importance = np.abs(delta) * np.maximum((p * np.log(p / q)).sum(axis=-1, keepdims=True), 0)
    order = np.sort(importance, axis=None)
    q1, q2, q3 = (order[int(share * (order.size - 1))] for share in (0.25, 0.5, 0.75))
    least = q2 + 1.5 * (q3 - q1)
    value = np.where(importance >= least, delta, 0)
    return Exact(value, np.abs(value), near(importance, least))


def nearswap(x: Doubles, t: float) -> Exact:
    first, second = x
    share = np.clip(t / np.maximum(np.abs(first - second), 1e-6), 0, 1)
    return Exact((1 - share) * first + share * second, np.abs(first) + np.abs(second))


def combination(solve: Callable[..., Doubles], x: Doubles, **parameters: Any) -> Exact:
    """A method whose result is a sum of the vectors with coefficients that hold for the tensor."""
    flat = x.reshape(len(x), -1)
    value = solve(flat, **parameters)
    shares = np.linalg.lstsq(flat.T, value, rcond=None)[0]
    return Exact(value.reshape(x.shape[1:]), np.abs(column(shares, x) * x).sum(0))


ORACLES: Mapping[str, Callable[..., Exact]] = {
    "linear": partial(total, normalize=True),
    "task_arithmetic": total,
    "passthrough": total,
    "ties": ties,
    "consensus_ta": consensus_ta,
    "consensus_ties": consensus_ties,
    "dare_linear": dare_linear,
    "dare_ties": dare_ties,
    "della": della,
    "della_linear": partial(della, elects=False),
    "breadcrumbs": breadcrumbs,
    "breadcrumbs_ties": partial(breadcrumbs, elects=True),
    "emr": emr,
    "magmax": magmax,
    "ram": ram,
    "ramplus": ramplus,
    "sce": sce,
    "pcb": pcb,
    "arcee_fusion": arcee_fusion,
    "nearswap": nearswap,
    "metagpt": partial(combination, coefficients.metagpt),
    "model_stock": partial(combination, coefficients.model_stock),
    "slerp": partial(combination, coefficients.slerp),
    "nuslerp": partial(combination, coefficients.nuslerp),
    "multislerp": partial(combination, coefficients.multislerp),
    "karcher": partial(combination, coefficients.karcher),
    "codiemb": partial(combination, coefficients.codiemb),
}
"""By the names of the methods; `arcee_fusion` alone takes the base as well."""
