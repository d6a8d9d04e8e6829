"""Merges checkpoints on disk into arrays in memory."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from .._core import Limits
from ..checkpoint.rows import first_rows
from ..checkpoint.tensors import TensorInfo
from ..engine.files import PlanFiles
from ..engine.jobs import Work
from ..engine.nonfinite import objections
from ..spec.dtypes import DTYPE_CODES, DTYPES
from .base_rows import base_rows, copied_bytes
from .plan import MergePlan
from .steps import Findings, Steps

# Bytes of results in hand, at least one tensor of each candidate.
_GROUP_BYTES = 1 << 28


class ArrayMerge:
    """One merge whose result is arrays.

    Args:
        made: The plan of the merge.
        files: The open files of a native plan, which other merges may share.
        limits: Threads and buffers of the passes.
        threads: Threads for all else.
        max_bytes: Memory for the matrices in hand.
    """

    def __init__(
        self, made: MergePlan, files: PlanFiles, limits: Limits, threads: int, max_bytes: int
    ) -> None:
        self._made, self._files, self._limits = made, files, limits
        self._threads, self._max_bytes = threads, max_bytes

    def run(self, addresses: Mapping[str, int], groups: Iterable[Sequence[int]]) -> list[str]:
        """Merge all tensors, and return the warnings.

        Args:
            addresses: The address of each merged tensor's result; 0 if the plan decides it later.
            groups: The numbers of tensors that are merged together.
        """
        made, outputs = self._made, forms(self._made)
        works: list[Work] = []
        # The places of results in files do not count.
        path = Path(made.input_files()[0])
        stand_ins = {name: replace(one, path=path) for name, one in outputs.items()}
        for work in made.works(self._files, stand_ins):
            code = DTYPE_CODES[outputs[work.name].dtype]
            works.append(replace(work, outputs=((-1, addresses[work.name], code),)))

        def explain(job: int) -> Iterator[str]:
            name = works[job].name
            tensors = [made.match.source(model, name) for model in made.inputs(name)]
            found = list(objections(self._files.plan, job, tensors, self._limits))
            yield from found or [
                f"tensor {name!r}: merged values overflow {outputs[name].dtype}; lower the scale "
                "or the weights, or pass nonfinite='propagate'"
            ]

        steps = Steps(
            made.request(),
            self._files.plan,
            self._files.open_again,
            works,
            Findings(),
            self._limits,
            n_workers=self._threads,
            max_bytes=self._max_bytes,
            objections=explain,
            lists_arrays=True,
        )
        steps.run(groups)
        return steps.warnings()


def forms(made: MergePlan) -> dict[str, TensorInfo]:
    """Return the name, the dtype and the shape of every tensor of a result, without a place."""
    return {
        name: TensorInfo(
            name,
            dtype,
            tuple(shape),
            made.template.tensors[name].path,
            0,
            math.prod(shape) * DTYPES[dtype],
        )
        for shard in made.shards
        for name, dtype, shape in shard.tensors
    }


def groups_of(made: MergePlan, n_results: int) -> list[list[int]]:
    """Return the merged tensors, by number, in groups of which all results fit into memory."""
    groups: list[list[int]] = []
    n_bytes = 0
    outputs = forms(made)
    for job, name in enumerate(made.match.merged):
        more = n_results * outputs[name].n_bytes
        if not groups or n_bytes + more > _GROUP_BYTES:
            groups.append([])
            n_bytes = 0
        groups[-1].append(job)
        n_bytes += more
    return groups


def fill(made: MergePlan, name: str, address: int, dtype: str) -> None:
    """Write the part of a tensor that no pass writes: all of a copy, or rows of the base."""
    info = made.template.tensors[name]
    at = address
    rows = made.match.rows.get(made.match.tied.get(name, name))
    if made.action(name) == "copy":
        parts = copied_bytes(info, dtype)
    elif rows is not None:
        at += first_rows(forms(made)[name], rows).n_bytes
        parts = base_rows(info, rows, dtype)
    else:
        return
    for data in parts:
        ctypes.memmove(at, bytes(data), len(data))
        at += len(data)
