"""Merges many candidates of a grid or a search, which share the reads of their models."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, overload

from ..engine.bar import with_progress
from ..engine.environment import in_float_environment
from ..errors import InputError
from ..recipe.config import MergeConfig
from ..recipe.overrides import Overrides
from .report import MergeReport
from .sweep_arrays import BY, arrays_of
from .sweep_files import write_sweep
from .sweep_grid import completed

Config = str | os.PathLike[str] | Mapping[str, Any] | MergeConfig


@overload
def sweep(
    config: Config,
    grid: Mapping[str, Sequence[Any]],
    out: str | os.PathLike[str],
    **as_merge: Any,
) -> list[MergeReport]: ...


@overload
def sweep(
    config: Config,
    grid: Mapping[str, Sequence[Any]],
    out: None = None,
    *,
    by: Literal["candidate"] = "candidate",
    **options: Any,
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]: ...


@overload
def sweep(
    config: Config,
    grid: Mapping[str, Sequence[Any]],
    out: None = None,
    *,
    by: Literal["tensor"],
    **options: Any,
) -> Iterator[tuple[str, list[tuple[dict[str, Any], Any]]]]: ...


def sweep(
    config: Config,
    grid: Mapping[str, Sequence[Any]],
    out: str | os.PathLike[str] | None = None,
    *,
    by: str = "candidate",
    at_once: int | None = None,
    framework: str = "numpy",
    seed: int | None = None,
    nonfinite: str | None = None,
    semantics: str | None = None,
    max_shard_size: str | int | None = None,
    **as_merge: Any,
) -> Any:
    """Merge many candidates that share the reads of their models.

    A tile of the models is read once and combined for each candidate out of the cache. Thresholds
    of all densities come from one sample, and the combine proves them; where results are handed
    over tensor by tensor, thresholds of the whole model take a read of their own before. Each
    result is byte for byte that of ``merge`` with the same settings. Methods of other kinds, and
    matrices that are merged as such, take reads of their own.

    Args:
        config: The recipe that all candidates change, as ``merge`` takes it.
        grid: The values of each key: ``{"density": [0.1, 0.2], "models.0.weight": [1, 2]}``. Keys
            are those of ``--set``, and the candidates are all combinations.
        out: The directory to create, with a checkpoint for each candidate in ``0001``, ``0002``
            and so on, and ``sweep.json``; all or nothing. None for arrays instead.
        by: Without ``out``: ``"candidate"`` to get whole models, ``"tensor"`` to get each tensor
            of all candidates in turn, whose arrays are used again once the next is asked for. A
            tensor may come again for some candidates, where the results of all take more than 256
            MiB and votes take the majority of signs of the model; what comes last counts.
        at_once: Without ``out``: the candidates that are in memory at a time, each of which takes
            the memory of a whole model; further ones are another read. None for all.
        framework: Without ``out``: ``"numpy"`` or ``"torch"``.
        seed: Seed of the random methods.
        nonfinite: ``"error"``, ``"warn"`` of, or ``"propagate"`` NaN and infinite values.
        semantics: The author whose variant of the method is meant.
        max_shard_size: Upper bound for the tensors of an output shard.
        as_merge: With ``out`` the other arguments of ``merge``; without ``max_memory``, ``threads``
            and ``progress`` alone.

    Returns:
        With ``out`` the reports, in the order of the candidates. Without, an iterator: of settings
        and arrays by name; by tensor, of names and lists of settings and array.

    Raises:
        InputError: The request, the grid or an input is wrong; before anything is written.
        StorageError: Reading or writing fails.

    >>> for settings, tensors in tallies.sweep("ties.yml", {"density": [0.1, 0.2]}):
    ...     print(settings, score(tensors))  # doctest: +SKIP
    """
    given = {
        "seed": seed,
        "nonfinite": nonfinite,
        "semantics": semantics,
        "max_shard_size": max_shard_size,
    }
    request = completed(lambda one: MergeConfig.load(config, Overrides(given, settings=one)), grid)
    if out is None:
        if others := sorted(set(as_merge) - {"max_memory", "threads", "progress"}):
            raise InputError(f"{', '.join(others)}: of checkpoints alone; leave out, or give 'out'")
        return arrays_of(request, grid, by=by, at_once=at_once, framework=framework, **as_merge)
    if by != BY[0] or at_once is not None or framework != "numpy":
        raise InputError(
            "by, at_once and framework are of arrays; leave them out, or leave out 'out'"
        )
    return write(request, grid, out, **as_merge).reports


write = in_float_environment(with_progress("sweep")(write_sweep))
