"""The family of sparse task vectors: a mask of each tensor and the values in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..._core import Limits, count_mask
from ...checkpoint.data import same_tensor
from ...checkpoint.layout import Entry
from ...checkpoint.tensors import TensorInfo
from ...engine.codes import PACKED_BITS
from ...engine.files import NOWHERE, Place, PlanFiles
from ...spec.dtypes import DTYPE_CODES
from ._sparse_layout import (
    Values,
    entries_of,
    part_names,
    refuse_other_count,
    scales_name,
    source_of,
    values_code,
    values_name,
)
from ._sparse_packing import pack
from ._sparse_unpacking import unpack
from .family import Encoded, Family, Moved, StoredTask
from .job import PackJob


class SparseFamily(Family):
    """The mask, the values and, for int8, the row scales of each tensor that a task changed.

    Nothing is shared: the file of a task does not depend on the others.
    """

    name = "sparse"
    kind = "masked"

    @property
    def reads_adapters(self) -> bool:
        # Values that adapters make of the base have no bits before they are merged.
        return Values.of(self.parameters) is not Values.REPLACED

    def entries(self, tensor: TensorInfo) -> list[Entry]:
        # The number of values is known once they were counted.
        return entries_of(tensor.name, tensor, 0, self.parameters)[:1]

    def stored_entries(self, task: StoredTask, name: str) -> list[Entry]:
        values = task.own.get(values_name(name))
        n_kept = values.n_elements if values is not None else 0
        return entries_of(name, task.base[name], n_kept, self.parameters)

    def pack(self, job: PackJob) -> tuple[list[int], list[float]]:
        n_set = []
        for i, file in enumerate(job.files, 1):
            own = {
                name: sources[0]
                for name, sources in job.tensors.items()
                if not same_tensor(sources[0], sources[i])
            }
            packed = pack(
                own,
                {name: job.tensors[name][i] for name in own},
                job.directory / file,
                self.parameters,
                job.limits,
                refuse_nonfinite=job.refuse_nonfinite,
                progress=job.progress,
            )
            job.record.add_file(file, packed.n_bytes)
            job.record.checksums[file].update(packed.checksums)
            job.record.prints[0].update(packed.base)
            job.record.prints[i].update(packed.expert)
            n_set.append(sum(packed.n_set.values()))
        return n_set, [1.0] * len(job.tasks)

    def restore(
        self,
        task: StoredTask,
        files: PlanFiles,
        outputs: Mapping[str, Sequence[Place]],
        limits: Limits,
        progress: Moved | None = None,
    ) -> dict[str, list[int]]:
        restored = unpack(
            files, task.base, task.own, outputs, self.parameters, limits, progress=progress
        )
        for name, found in restored.items():
            task.check(task.base[name], found.base)
            task.check(task.own[name], found.mask)
            task.check(task.own[values_name(name)], found.values)
            if found.scales is not None:
                task.check(task.own[scales_name(name)], found.scales)
        return {name: found.output for name, found in restored.items()}

    def in_memory(self, task: StoredTask, name: str) -> list[TensorInfo] | None:
        return [task.own[part] for part in part_names(name, Values.of(self.parameters))]

    def encoded(self, task: StoredTask, name: str, addresses: Sequence[int]) -> Encoded:
        values, base = Values.of(self.parameters), task.base[name]
        stored = task.own[values_name(name)]
        mask, first, *scales = addresses
        starts = count_mask(mask=mask, n_elements=base.n_stored)
        refuse_other_count(stored, starts.n_set)
        places = (
            (-1, mask, PACKED_BITS),
            (-1, first, values_code(stored, values)),
            (-1, scales[0], DTYPE_CODES["F32"]) if scales else NOWHERE,
        )
        return Encoded(source_of(base, places, starts, values), replaces=values is Values.REPLACED)

    def why_not_counted(self) -> str | None:
        return None
