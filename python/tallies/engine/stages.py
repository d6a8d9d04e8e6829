"""Stages: what becomes of each task vector of a tensor before the blend, in numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from .._core import Band as NativeBand
from .._core import Draw, DropByRank, RowBand, Threshold
from ..spec.rules import Gate, Rule
from .codes import NAN_BITS
from .outcomes import Stage
from .random_keys import chance, key

_CHUNK, _GRAIN = 2048, 64
# mergekit rescales no tensor whose sum of magnitudes is smaller.
_LEAST_SUM = 1e-7


class Band(NamedTuple):
    """How many of some entries are too large, and how many of the others, the largest, stay."""

    n_outliers: int
    n_kept: int


class Staged(Protocol):
    """What a stage needs to know of a tensor."""

    @property
    def name(self) -> str: ...
    @property
    def n_elements(self) -> int: ...
    @property
    def row_length(self) -> int: ...
    @property
    def densities(self) -> tuple[float, ...]: ...
    @property
    def gammas(self) -> tuple[float, ...]: ...
    @property
    def epsilons(self) -> tuple[float, ...]: ...


def band(n: int, density: float, gamma: float, semantics: str) -> Band:
    """The band of ``n`` entries: int(n gamma) are too large, int(n density) of the others stay.

    In mergekit semantics fewer are too large where else fewer would stay, and density 1 keeps all.

    >>> band(10, 0.5, 0.2, "paper"), band(10, 0.9, 0.2, "paper"), band(10, 0.9, 0.2, "mergekit")
    (Band(n_outliers=2, n_kept=5), Band(n_outliers=2, n_kept=8), Band(n_outliers=1, n_kept=9))
    """
    n_outliers, n_kept = int(n * gamma), int(n * density)
    if semantics != "mergekit":
        return Band(n_outliers, min(n_kept, n - n_outliers))
    return Band(0, n) if density >= 1 else Band(min(n_outliers, n - n_kept), n_kept)


def row_elements(row_length: int, n_elements: int) -> tuple[int, int]:
    """The least elements of a tile and of a chunk of whole rows, as in csrc/engine/stages.cpp.

    >>> row_elements(4096, 10**9), row_elements(100, 10**9), row_elements(100, 10**3)
    ((4096, 4096), (8000, 2000), (1000, 2000))
    """
    length = max(row_length, 1)
    chunk = max(_CHUNK // length, 1) * length
    return min(math.lcm(chunk, _GRAIN), n_elements), chunk


def l1_factor(before: float, after: float) -> float:
    """What restores a sum of magnitudes; 1 where one is nearly zero or not finite."""
    if not _LEAST_SUM <= min(before, after) <= max(before, after) < math.inf:
        return 1.0
    return before / after


def between(n: int, wanted: Band, outlier: Threshold, last: Threshold) -> dict[str, int]:
    """The band of a tensor of ``n`` elements from its thresholds.

    They are those of its last outlier and of the last entry that stays; of the magnitudes equal to
    one, the lowest index counts as the largest.
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
    tensor: Staged,
    semantics: str,
    seed: int,
    bands: Sequence[Mapping[str, int]] = (),
    factors: Sequence[float] = (),
) -> list[Stage]:
    """What the rule's gate does to each expert.

    ``bands`` are those of the whole tensor, where the rule has such; ``factors`` those of L1
    rescaling.
    """
    found: list[Stage] = []
    for expert in range(len(tensor.densities)):
        factor = factors[expert] if factors else None
        if bands:
            found.append(NativeBand(**bands[expert], factor=1.0 if factor is None else factor))
        else:
            found.append(_MAKE[rule.gate](rule, tensor, expert, semantics, seed, factor))
    return found


def _random(
    rule: Rule, tensor: Staged, expert: int, semantics: str, seed: int, factor: float | None
) -> Draw:
    density = tensor.densities[expert]
    if factor is None:
        factor = 1 / density if rule.rescale == "probability" and density > 0 else 1.0
    return Draw(key=key(seed, expert, tensor.name), chance=chance(density), factor=factor)


def _by_rank(
    rule: Rule, tensor: Staged, expert: int, semantics: str, seed: int, factor: float | None
) -> DropByRank:
    density, epsilon = tensor.densities[expert], tensor.epsilons[expert]
    if density in (0, 1) or tensor.row_length < 2:
        low, step = density, 0.0
    else:
        low, step = density - epsilon, 2 * epsilon / (tensor.row_length - 1)
    return DropByRank(
        key=key(seed, expert, tensor.name),
        low=low,
        step=step,
        own_factor=rule.rescale == "probability",
        factor=1.0 if factor is None else factor,
    )


def _row_band(
    rule: Rule, tensor: Staged, expert: int, semantics: str, seed: int, factor: float | None
) -> RowBand:
    density, gamma = tensor.densities[expert], tensor.gammas[expert]
    wanted = band(tensor.row_length, density, gamma, semantics)
    return RowBand(
        n_outliers=wanted.n_outliers,
        n_kept=wanted.n_kept,
        factor=1.0 if factor is None else factor,
    )


_MAKE: Final[Mapping[Gate, Callable[..., Stage]]] = {
    Gate.RANDOM: _random,
    Gate.RANK: _by_rank,
    Gate.BAND: _row_band,
}
