"""The family of singular triplets: U, s and V^T of each task's matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..._core import Limits
from ...checkpoint.layout import Entry
from ...checkpoint.tensors import TensorInfo
from ...engine.files import Place, PlanFiles
from ...errors import InputError
from ...linalg import spectral
from ...sizes import budget
from ._low_rank_layout import entries_of
from ._low_rank_packing import pack_triplets, peak_bytes
from ._low_rank_restoring import restore_matrix
from .family import Family, Moved, StoredTask
from .job import PackJob


class LowRank(Family):
    """The factors NAME, NAME::s and NAME::v of each matrix and task.

    With a shared vector, they are the factors of what a task has beside the vector.
    """

    name = "low_rank"
    kind = "factored"

    def check_request(self, tensors: Sequence[TensorInfo], max_memory: int) -> None:
        name = self.codec.name
        spectral.require(name)
        for one in tensors:
            needed = peak_bytes(one.shape)
            if needed > max_memory:
                least = budget(needed, at_least=True)
                raise InputError(
                    f"{name}: tensor {one.name!r} {list(one.shape)} is factored as a whole, which "
                    f"takes {least}, and max_memory allows {budget(max_memory)}; "
                    "raise --max-memory, or keep it as it is: --param exclude=NAME"
                )

    def entries(self, tensor: TensorInfo) -> list[Entry]:
        return entries_of(tensor, self.parameters)

    def pack(self, job: PackJob) -> tuple[list[int], list[float]]:
        scale = self.parameters["scale"] if self.has_shared else None
        return pack_triplets(job, scale), [1.0] * len(job.tasks)

    def restore(
        self,
        task: StoredTask,
        files: PlanFiles,
        outputs: Mapping[str, Sequence[Place]],
        limits: Limits,
        progress: Moved | None = None,
    ) -> dict[str, list[int]]:
        restored = {}
        for name, places in outputs.items():
            prints, restored[name] = restore_matrix(
                files.plan,
                task.base[name],
                task.shared.get(name),
                task.own,
                places,
                limits.n_threads,
                progress,
            )
            for one, lanes in prints:
                task.check(one, lanes)
        return restored
