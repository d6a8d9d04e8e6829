"""Hands over the candidates of a sweep as arrays, whole or tensor by tensor."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from .._core import Limits, Plan
from ..checkpoint.tensors import TensorInfo
from ..engine.arrays import FRAMEWORKS, new_array
from ..engine.bar import shown
from ..engine.files import PlanFiles
from ..engine.handed_arrays import HandedArrays, room_of
from ..engine.limits import allow_open_files, n_threads, tile_limits
from ..engine.usage import Advance, Progress
from ..errors import InputError
from ..messages import show, unknown
from ..recipe.config import MergeConfig
from ..sizes import parse_size
from .array_merge import ArrayMerge, fill, forms, groups_of
from .checks import check_inputs
from .finishing import check_memory
from .plan import MergePlan
from .sweep_grid import Candidate, candidates, families, settings_of
from .sweep_run import bytes_shared, run_together, together

Settings = dict[str, Any]
BY: Final = ("candidate", "tensor")
"""The ways in which arrays are handed over."""


def arrays_of(
    config: MergeConfig,
    grid: Mapping[str, Sequence[Any]],
    *,
    by: str,
    at_once: int | None,
    framework: str,
    max_memory: str | int = "1GiB",
    threads: int | None = None,
    progress: Progress = None,
) -> Iterator[Any]:
    """Return an iterator over the results of a grid; arguments as for ``sweep``.

    Raises:
        InputError: The request, the grid or an input is wrong.
    """
    if by not in BY:
        raise InputError(f"by {unknown(by, BY)}")
    if framework not in FRAMEWORKS:
        raise InputError(f"framework {unknown(framework, FRAMEWORKS)}")
    if at_once is not None and (isinstance(at_once, bool) or not isinstance(at_once, int)):
        raise InputError(f"at_once: found {show(at_once)}, expected a number of candidates")
    if at_once is not None and at_once < 1:
        raise InputError(f"at_once: found {at_once}, expected at least 1 candidate")
    settings = settings_of(grid)
    inputs = config.pinned().inputs()
    inputs.fetch_opaque(bars=progress is True)
    inputs.fetch(bars=progress is True)
    made = candidates(config, settings)
    groups = [
        group[first : first + (at_once or len(group))]
        for group in families(made)
        for first in range(0, len(group), at_once or len(group))
    ]
    max_bytes, workers = parse_size(max_memory), n_threads(threads)
    for group in groups:
        check_inputs(group[0].plan)
        for one in group:
            check_memory(one.plan, max_bytes, workers, len(group))
    allow_open_files(2 * len({path for one in made for path in one.plan.input_files()}))
    hand_over = whole if by == BY[0] else by_tensor

    def run() -> Iterator[Any]:
        n_bytes = sum(
            bytes_shared([one.plan for one in group], in_hand=by == BY[1]) for group in groups
        )
        written = sum(one.plan.bytes_written for one in made)
        with shown(progress, "sweep") as told:
            moved = Advance(told, n_bytes + written)
            for group in groups:
                means = _Means(tile_limits(max_bytes, workers), workers, max_bytes)
                yield from hand_over(group, means, framework, moved if moved else None)
            moved.finish()

    return run()


@dataclass(frozen=True)
class _Means:
    """The means of a merge: limits of its passes, threads and memory for all else."""

    limits: Limits
    threads: int
    max_bytes: int

    def merge(
        self,
        made: MergePlan,
        files: PlanFiles,
        addresses: Mapping[str, int],
        groups: Sequence[Sequence[int]],
    ) -> list[str]:
        """Merge groups of tensors into arrays at these addresses, and return the warnings."""
        merge = ArrayMerge(made, files, self.limits, self.threads, self.max_bytes)
        return merge.run(addresses, groups)


def whole(
    group: Sequence[Candidate], means: _Means, framework: str, progress: Any
) -> Iterator[tuple[Settings, dict[str, Any]]]:
    """Yield the settings and the arrays of candidates that are made of the same reads."""
    results = []
    for one in group:
        found = {
            name: new_array(name, info.dtype, info.shape, framework)
            for name, info in forms(one.plan).items()
            if one.plan.action(name) != "tie"
        }
        for name, (_, address) in found.items():
            fill(one.plan, name, address, forms(one.plan)[name].dtype)
        results.append(found)

    def run(number: int, files: PlanFiles) -> list[str]:
        made = group[number].plan
        addresses = {name: address for name, (_, address) in results[number].items()}
        return means.merge(made, files, addresses, [range(len(made.match.merged))])

    _warn(run_together([one.plan for one in group], run, progress))
    for number, one in enumerate(group):
        arrays = {name: array for name, (array, _) in results[number].items()}
        results[number] = {}
        tied = one.plan.match.tied
        names = one.plan.template.tensors
        yield one.settings, {name: arrays[tied.get(name, name)] for name in names}


def by_tensor(
    group: Sequence[Candidate], means: _Means, framework: str, progress: Any
) -> Iterator[tuple[str, list[tuple[Settings, Any]]]]:
    """Yield each tensor with the array of every candidate, from shared reads."""
    plans = [one.plan for one in group]
    first = plans[0]
    outputs = forms(first)
    names = first.match.merged
    places = groups_of(first, len(group))

    def share(plan: Plan) -> HandedArrays:
        kinds = [(name, outputs[name].dtype, outputs[name].shape) for name in names]
        room = _room(outputs, names, places)
        return HandedArrays(plan, first.has_base, kinds, framework, room, progress)

    def run(number: int, files: PlanFiles) -> list[str]:
        return means.merge(plans[number], files, dict.fromkeys(names, 0), places)

    aliases: dict[str, list[str]] = {}
    for alias, name in first.match.tied.items():
        aliases.setdefault(name, []).append(alias)

    def released(shared: HandedArrays) -> Iterator[tuple[str, list[tuple[Settings, Any]]]]:
        for job, own in shared.release():
            for _, address in own.values():
                fill(first, names[job], address, outputs[names[job]].dtype)
            arrays = [(group[number].settings, array) for number, (array, _) in sorted(own.items())]
            for name in (names[job], *aliases.get(names[job], ())):
                yield name, arrays

    with together(plans, run, share) as (side, shared):
        while waiting := side.waiting():
            if shared.starts_anew(waiting):
                yield from released(shared)
            side.give(shared.answer(waiting))
        _warn(side.results())
    yield from released(shared)
    for name in first.match.copied:
        made = [new_array(name, outputs[name].dtype, outputs[name].shape, framework) for _ in group]
        for _, address in made:
            fill(first, name, address, outputs[name].dtype)
        rows = [(one.settings, array) for one, (array, _) in zip(group, made, strict=True)]
        for alias in (name, *aliases.get(name, ())):
            yield alias, rows


def _warn(found: Sequence[Sequence[str]]) -> None:
    """Give each warning of some merges once, at the line that asks for the next result."""
    for warning in dict.fromkeys(itertools.chain.from_iterable(found)):
        # Past whole or by_tensor, and the iterator that the caller has.
        warnings.warn(warning, stacklevel=4)


def _room(
    outputs: Mapping[str, TensorInfo], names: Sequence[str], groups: Sequence[Sequence[int]]
) -> int:
    """Return the most bytes that the results of a group take in one merge."""
    infos = [outputs[name] for name in names]
    return max(
        (sum(room_of(infos[job].dtype, infos[job].shape) for job in group) for group in groups),
        default=0,
    )
