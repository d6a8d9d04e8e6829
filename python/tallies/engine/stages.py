"""Turns a gate that is a stage before the blend into numbers, one stage an expert."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from .._core import Band as TensorBand
from .._core import Draw, DropByRank, RowBand, Threshold
from ..spec.choices import MERGEKIT, Rescale, Semantics
from ..spec.rules import Gate, Rule
from .codes import NAN_BITS
from .jobs import Work
from .outcomes import Stage
from .random_keys import chance, key

_CHUNK, _GRAIN = 2048, 64
# mergekit rescales no tensor whose sum of magnitudes is smaller.
_LEAST_SUM = 1e-7


class Band(NamedTuple):
    """The numbers of entries that are too large, and of the largest others, which survive."""

    n_outliers: int
    n_kept: int


def band(n: int, density: float, gamma: float, semantics: Semantics) -> Band:
    """Return the band of ``n`` entries: int(n gamma) are too large, int(n density) others survive.

    In mergekit semantics fewer are too large where else fewer would survive, and density 1 keeps
    all.

    >>> from tallies.spec.choices import PAPER
    >>> band(10, 0.5, 0.2, PAPER), band(10, 0.9, 0.2, PAPER), band(10, 0.9, 0.2, MERGEKIT)
    (Band(n_outliers=2, n_kept=5), Band(n_outliers=2, n_kept=8), Band(n_outliers=1, n_kept=9))
    """
    n_outliers, n_kept = int(n * gamma), int(n * density)
    if semantics is not MERGEKIT:
        return Band(n_outliers, min(n_kept, n - n_outliers))
    return Band(0, n) if density >= 1 else Band(min(n_outliers, n - n_kept), n_kept)


def row_elements(row_length: int, n_elements: int) -> tuple[int, int]:
    """Return the least elements of a tile and of a chunk of whole rows, as the engine cuts them.

    >>> row_elements(4096, 10**9), row_elements(100, 10**9), row_elements(100, 10**3)
    ((4096, 4096), (8000, 2000), (1000, 2000))
    """
    length = max(row_length, 1)
    chunk = max(_CHUNK // length, 1) * length
    return min(math.lcm(chunk, _GRAIN), n_elements), chunk


def l1_factor(before: float, after: float) -> float:
    """Return the factor that restores a sum of magnitudes; 1 where a sum is tiny or not finite."""
    if not _LEAST_SUM <= min(before, after) <= max(before, after) < math.inf:
        return 1.0
    return before / after


def between(n: int, wanted: Band, outlier: Threshold, last: Threshold) -> dict[str, int]:
    """Return the fields of the native stage that cuts a band out of a tensor.

    Among magnitudes equal to a threshold, the lowest index counts as the largest.

    Args:
        n: The elements of the tensor.
        wanted: The band.
        outlier: The threshold of the last outlier.
        last: The threshold of the last entry that survives.
    """

    def cutoff(found: Threshold) -> int:
        return n if found.last_job else found.last_count

    numbers = {"floor": NAN_BITS, "floor_cutoff": n, "ceiling": NAN_BITS, "ceiling_cutoff": n}
    if wanted.n_outliers:
        numbers |= {"ceiling": outlier.bits - 1, "ceiling_cutoff": cutoff(outlier)}
    if sum(wanted) >= n:
        numbers["floor"] = -1
    elif wanted.n_kept:
        numbers |= {"floor": last.bits - 1, "floor_cutoff": cutoff(last)}
    return numbers


def stages(
    rule: Rule,
    tensor: Work,
    semantics: Semantics,
    seed: int,
    bands: Sequence[Mapping[str, int]] = (),
    factors: Sequence[float] = (),
) -> list[Stage]:
    """Return the stage of each expert in a tensor.

    Args:
        rule: A rule whose gate is a stage.
        tensor: The tensor.
        semantics: The author whose variant is meant.
        seed: The seed of random gates.
        bands: The bands of the whole tensor, one per expert, where the rule has such.
        factors: The factors of L1 rescaling, one per expert.
    """
    found: list[Stage] = []
    for expert in range(len(tensor.densities)):
        numbers: dict[str, Any] = (
            {**bands[expert]} if bands else _NUMBERS[rule.gate](rule, tensor, expert, semantics)
        )
        if factors:
            numbers["factor"] = factors[expert]
        if rule.gate is Gate.BAND:
            found.append(TensorBand(**numbers) if bands else RowBand(**numbers))
        else:
            stage = Draw if rule.gate is Gate.RANDOM else DropByRank
            found.append(stage(key=key(seed, expert, tensor.name), **numbers))
    return found


def _random(rule: Rule, tensor: Work, expert: int, semantics: Semantics) -> dict[str, Any]:
    density = tensor.densities[expert]
    divides = rule.rescale is Rescale.PROBABILITY and density > 0
    return {"chance": chance(density), "factor": 1 / density if divides else 1.0}


def _by_rank(rule: Rule, tensor: Work, expert: int, semantics: Semantics) -> dict[str, Any]:
    density, epsilon = tensor.densities[expert], tensor.epsilons[expert]
    if density in (0, 1) or tensor.row_length < 2:
        low, step = density, 0.0
    else:
        low, step = density - epsilon, 2 * epsilon / (tensor.row_length - 1)
    return {"low": low, "step": step, "own_factor": rule.rescale is Rescale.PROBABILITY}


def _row_band(rule: Rule, tensor: Work, expert: int, semantics: Semantics) -> dict[str, Any]:
    density, gamma = tensor.densities[expert], tensor.gammas[expert]
    return band(tensor.row_length, density, gamma, semantics)._asdict()


_NUMBERS: Final[Mapping[Gate, Callable[[Rule, Work, int, Semantics], dict[str, Any]]]] = {
    Gate.RANDOM: _random,
    Gate.RANK: _by_rank,
    Gate.BAND: _row_band,
}
"""The functions that return the fields of a native stage, all but its key."""
