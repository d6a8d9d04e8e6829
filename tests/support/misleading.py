"""Models whose samples mislead: thresholds that are guessed of them are wrong, or hard to name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.support.checkpoints import Array, Model
from tests.support.merges import BF16

RUN = 1024
"""Neighbours that a sample takes together."""
N_RUNS = 16
"""The runs of a sample of a unit of this size."""
SIZES = {"a": (300, 401), "b": (70_001,), "c": (500, 260), "d": (40,)}
"""Shapes of the tensors: three of more than 64 Ki elements, which are sampled, and a small one."""
N = sum(int(np.prod(shape)) for shape in SIZES.values())


def looked_at(n: int) -> Array:
    """A mask of the elements that a sample of ``n`` takes."""
    every = n // N_RUNS
    mask = np.zeros(n, bool)
    for run in range(N_RUNS):
        first = (every // 2 + run * every) // 64 * 64
        mask[first : first + RUN] = True
    return mask


def _noise(rng: np.random.Generator, n: int) -> Array:
    return rng.standard_normal(n) * 1e-3


def _cluster(rng: np.random.Generator, n: int) -> Array:
    """Large values in one stretch that no sample looks at."""
    at = np.flatnonzero(~looked_at(n))[100 : 100 + n // 10]
    delta = _noise(rng, n)
    delta[at] += np.sign(delta[at]) * 0.5
    return delta


def _seen(rng: np.random.Generator, n: int) -> Array:
    """Large values exactly where the sample looks."""
    return np.where(looked_at(n), 50, 1) * _noise(rng, n)


def _unseen(rng: np.random.Generator, n: int) -> Array:
    """Large values everywhere but where the sample looks."""
    return np.where(looked_at(n), 1, 50) * _noise(rng, n)


def _adjacent(rng: np.random.Generator, n: int) -> Array:
    """Two magnitudes, one next to the other, with the threshold between them or at one."""
    lower = np.nextafter(np.float32(0.5), np.float32(0))
    return np.where(rng.random(n) < 0.2, 0.5, lower) * rng.choice([-1, 1], n)


def _equal(rng: np.random.Generator, n: int) -> Array:
    return 0.25 * rng.choice([-1.0, 1.0], n)


def _few(rng: np.random.Generator, n: int) -> Array:
    return rng.integers(-4, 5, n) / 4


def _odd(rng: np.random.Generator, n: int) -> Array:
    """Every kind of value that is no number, and zeros of both signs."""
    delta = _noise(rng, n)
    for value in (np.nan, np.inf, -np.inf, 0.0, -0.0):
        delta[rng.random(n) < 0.03] = value
    return delta


DELTAS: dict[str, Callable[[np.random.Generator, int], Array]] = {
    "smooth": _noise,
    "a cluster between": _cluster,
    "large where it looks": _seen,
    "large elsewhere": _unseen,
    "two adjacent": _adjacent,
    "all equal": _equal,
    "all zero": lambda rng, n: np.zeros(n),
    "few values": _few,
    "odd values": _odd,
}


def models(kind: str, *, by_tensor: bool, dtype: type = np.float32) -> list[Model]:
    """A base and two experts; samples of tensors mislead, or that of all of them together."""
    rng = np.random.default_rng(len(kind))
    exact = kind in ("two adjacent", "all equal", "few values")
    base: Model = {
        name: (np.zeros(shape) if exact else rng.standard_normal(shape) * 0.05).astype(dtype)
        for name, shape in SIZES.items()
    }
    experts = []
    for _ in range(2):
        whole = DELTAS[kind](rng, N)
        expert: Model = {}
        at = 0
        for name, tensor in base.items():
            delta = DELTAS[kind](rng, tensor.size) if by_tensor else whole[at : at + tensor.size]
            at += tensor.size
            with np.errstate(all="ignore"):
                moved = tensor.astype(np.float32) + delta.reshape(tensor.shape)
                expert[name] = moved.astype(dtype)
        experts.append(expert)
    return [base, *experts]


def loud(dtype: type = np.float32) -> list[Model]:
    """A base and two experts; one tensor has all the large changes."""
    found = models("smooth", by_tensor=False, dtype=dtype)
    for expert in found[1:]:
        expert["b"] = (expert["b"].astype(np.float32) * 100).astype(dtype)
    return found


DTYPES = {"float32": np.float32, "bfloat16": BF16, "float16": np.float16}
