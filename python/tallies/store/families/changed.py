"""The family of changes: what adapters do to a tensor, as text, and the tensors that it names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import count, takewhile
from typing import Final

from ..._core import Limits, Source, restore
from ...checkpoint.changes import Added, Hadamard, Kronecker, Product
from ...checkpoint.data import chunks
from ...checkpoint.layout import Entry
from ...checkpoint.tensors import TensorInfo
from ...engine.changes import native_change
from ...engine.files import Place, PlanFiles, native, place_code
from ...engine.fingerprints import content
from ...errors import InputError
from ...messages import show
from ._change_packing import pack_changes
from ._change_text import changed, piece_name
from .family import Encoded, Family, Moved, StoredTask
from .job import GRAIN, PackJob

_ADDS: Final = (Product, Hadamard, Kronecker, Added)


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

    def stored_entries(self, task: StoredTask, name: str) -> list[Entry]:
        text = task.own.get(name)
        return [(name, "U8", (text.n_bytes if text is not None else 0,))]

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
        made = {name: _changed_tensor(task, name) for name in outputs}
        for one in (piece for name in outputs for piece in _pieces(task, name)):
            task.check(one, content(one))
        for name, one in made.items():
            files.plan.add_job(
                one.n_elements, [native(files.operand(one))], outputs[name], grain=GRAIN
            )
        results = restore(files.plan, limits, progress)
        for (name, one), result in zip(made.items(), results, strict=True):
            if one.path == task.base[name].path:
                task.check(task.base[name], result.inputs[0])
        return {name: result.output for name, result in zip(made, results, strict=True)}

    def in_memory(self, task: StoredTask, name: str) -> list[TensorInfo] | None:
        one = _changed_tensor(task, name)
        if one.path != task.base[name].path or not all(isinstance(c, _ADDS) for c in one.changes):
            return None
        return _pieces(task, name)

    def encoded(self, task: StoredTask, name: str, addresses: Sequence[int]) -> Encoded:
        pieces = _pieces(task, name)
        at = dict(zip(pieces, addresses, strict=True))
        stated = _changed_tensor(task, name).changes[len(task.base[name].changes) :]
        changes = [
            native_change(change, lambda piece: (-1, at[piece], place_code(piece.dtype)))
            for change in stated
        ]
        n_rows = task.base[name].shape[:1]
        products = [
            (pieces.index(change.left), pieces.index(change.right), change.scale)
            for change in stated
            if isinstance(change, Product) and change.left.shape[:-1] == n_rows
        ]
        return Encoded(
            Source.changed(source=Source.zero(), changes=changes),
            changes=tuple(changes),
            products=tuple(products) if len(products) == len(changes) else (),
        )


def _changed_tensor(task: StoredTask, name: str) -> TensorInfo:
    """Return a tensor of a task, the base's or one in its place, with the changes to it.

    Raises:
        InputError: The text of the changes is not what was packed.
        StorageError: Reading fails.
    """
    told = task.own[name]
    text = b"".join(map(bytes, chunks(told)))
    task.check(told, content(told))
    try:
        return changed(text, task.base[name], task.own)
    except ValueError as error:
        raise InputError(
            f"{told.path}: tensor {show(name)} is no text of changes ({error}); pack again"
        ) from None


def _pieces(task: StoredTask, name: str) -> list[TensorInfo]:
    """Return the pieces of a tensor's changes, in the order of their numbers."""
    names = map(partial(piece_name, name), count())
    return [task.own[one] for one in takewhile(task.own.__contains__, names)]
