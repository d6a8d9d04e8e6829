"""The family of packed masks: one bit per parameter and task, and a shared vector or magnitudes."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from ..._core import Limits, Source, restore
from ...checkpoint.data import chunks
from ...checkpoint.layout import Entry
from ...checkpoint.tensors import TensorInfo
from ...engine.codes import PACKED_BITS
from ...engine.files import Place, PlanFiles, n_arrays, native
from ...engine.fingerprints import content
from ...spec.dtypes import DTYPE_CODES
from ..codecs._codec import Mask
from ._masked_packing import pack_masks, scale_name
from .family import Encoded, Family, Moved, StoredTask
from .job import GRAIN, PackJob


class Masked(Family):
    """A mask NAME of each tensor and task.

    With a shared vector, the vector lies in the shared file and each task has one scale. Without,
    the masks are signs, and the task's file has the magnitude NAME::scale of each matrix.
    """

    name = "masked"
    kind = "masked"
    reads_decoded = True

    def entries(self, tensor: TensorInfo) -> list[Entry]:
        mask: Entry = (tensor.name, "U8", ((tensor.n_elements + 7) // 8,))
        return [mask] if self.has_shared else [mask, (scale_name(tensor.name), "F32", ())]

    def pack(self, job: PackJob) -> tuple[list[int], list[float]]:
        return pack_masks(self.codec, self.parameters, job)

    def restore(
        self,
        task: StoredTask,
        files: PlanFiles,
        outputs: Mapping[str, Sequence[Place]],
        limits: Limits,
        progress: Moved | None = None,
    ) -> dict[str, list[int]]:
        inputs: dict[str, list[TensorInfo]] = {}
        for name, places in outputs.items():
            base, shared = task.base[name], [task.shared[name]] if self.has_shared else []
            inputs[name] = [base, *shared, task.own[name]]
            mask, factor = files.mask_place(task.own[name]), self._factor(task, name)
            delta = (
                Source.masked(values=files.place(shared[0]), mask=mask, scale=factor)
                if shared
                else Source.signs(mask=mask, scale=factor)
            )
            files.plan.add_job(
                base.n_elements, [native(files.operand(base)), delta], places, grain=GRAIN
            )
        results = restore(files.plan, limits, progress)
        for name, result in zip(outputs, results, strict=True):
            # Scales and changes of a base are further arrays, which its fingerprint has already.
            n_of_base = n_arrays(files.operand(task.base[name]))
            found = result.inputs[:1] + result.inputs[n_of_base:]
            for one, lanes in zip(inputs[name], found, strict=True):
                task.check(one, lanes)
        return {name: result.output for name, result in zip(outputs, results, strict=True)}

    def in_memory(self, task: StoredTask, name: str) -> list[TensorInfo] | None:
        return [task.own[name], *([task.shared[name]] if self.has_shared else [])]

    def encoded(self, task: StoredTask, name: str, addresses: Sequence[int]) -> Encoded:
        factor, mask = self._factor(task, name), (-1, addresses[0], PACKED_BITS)
        if not self.has_shared:
            return Encoded(Source.signs(mask=mask, scale=factor))
        vector = (-1, addresses[1], DTYPE_CODES[task.shared[name].dtype])
        delta = Source.masked(values=vector, mask=mask, scale=factor)
        return Encoded(delta, mask_scale=factor)

    def why_not_counted(self) -> str | None:
        return f"the masks of {self.codec.name} are signs" if self.codec.mask is Mask.SIGN else None

    def _factor(self, task: StoredTask, name: str) -> float:
        """Return the factor on the shared vector, or the magnitude of a matrix of signs."""
        return task.scale if self.has_shared else _magnitude(task, name)


def _magnitude(task: StoredTask, name: str) -> float:
    """Read the magnitude of a matrix of signs."""
    one = task.own[scale_name(name)]
    data = b"".join(bytes(chunk) for chunk in chunks(one))
    task.check(one, content(one))
    (value,) = struct.unpack("<f", data)
    return float(value)
