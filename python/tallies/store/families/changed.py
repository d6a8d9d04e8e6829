"""The family of changes: what adapters do to a tensor, as text, and the tensors that it names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..._core import Limits, restore
from ...checkpoint.data import chunks
from ...checkpoint.layout import Entry
from ...checkpoint.tensors import TensorInfo
from ...engine.files import Place, PlanFiles, native
from ...engine.fingerprints import content
from ...errors import InputError
from ...messages import show
from ._change_packing import pack_changes
from ._change_text import changed
from .family import Family, Moved, StoredTask
from .job import GRAIN, PackJob


class Changed(Family):
    """The text NAME of each tensor's changes, and the pieces NAME::0, NAME::1 and so on.

    Nothing is shared: the file of a task does not depend on the others.
    """

    name = "changes"
    kind = "changed"
    reads_decoded = True

    def entries(self, tensor: TensorInfo) -> list[Entry]:
        # The text and the pieces are those of each task.
        return [(tensor.name, "U8", (0,))]

    def pack(self, job: PackJob) -> tuple[list[int], list[float]]:
        return pack_changes(job), [1.0] * len(job.tasks)

    def restore(
        self,
        task: StoredTask,
        files: PlanFiles,
        outputs: Mapping[str, Sequence[Place]],
        limits: Limits,
        progress: Moved | None = None,
    ) -> dict[str, list[int]]:
        made = {name: changed_tensor(task, name) for name in outputs}
        for name, one in made.items():
            files.plan.add_job(
                one.n_elements, [native(files.operand(one))], outputs[name], grain=GRAIN
            )
        results = restore(files.plan, limits, progress)
        for (name, one), result in zip(made.items(), results, strict=True):
            if one.path == task.base[name].path:
                task.check(task.base[name], result.inputs[0])
        return {name: result.output for name, result in zip(made, results, strict=True)}


def changed_tensor(task: StoredTask, name: str) -> TensorInfo:
    """Return a tensor of a task: the base's with changes, whose pieces are checked.

    Raises:
        InputError: The text of the changes or a piece is not what was packed.
        StorageError: Reading fails.
    """
    told = task.own[name]
    text = b"".join(map(bytes, chunks(told)))
    task.check(told, content(told))
    parts = {part: one for part, one in task.own.items() if part.startswith(f"{name}::")}
    for one in parts.values():
        task.check(one, content(one))
    try:
        return changed(text, task.base[name], parts)
    except ValueError as error:
        raise InputError(
            f"{told.path}: tensor {show(name)} is no text of changes ({error}); pack again"
        ) from None
