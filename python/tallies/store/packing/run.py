"""One packing: the family writes what it encodes, everything else is copied."""

from __future__ import annotations

from pathlib import Path

from ..._core import Limits
from ...checkpoint.files import refuse_changed, stamps
from ...checkpoint.tensors import TensorInfo
from ...engine.fingerprints import copy_out
from ...engine.nonfinite import nonfinite_tensor, objection
from ...engine.usage import Advance, Progress
from ...errors import InputError
from ..families.job import PackJob
from ..manifest import Manifest
from ..small_files import keep_small_files
from .plan import PackPlan
from .record import PackRecord


class PackRun:
    """One packing and its progress.

    Args:
        plan: The plan.
        store: The place where the store will appear.
        limits: Threads and the size of buffers.
        progress: Called with the bytes moved so far and the bytes to move in all.
        refuse_nonfinite: Make NaN and infinities in what is read or written an error.
    """

    def __init__(
        self,
        plan: PackPlan,
        store: Path,
        limits: Limits,
        progress: Progress,
        *,
        refuse_nonfinite: bool,
    ) -> None:
        self._plan = plan
        self._store = store
        self._limits = limits
        self._refuse_nonfinite = refuse_nonfinite
        self._stamps = stamps([*map(Path, plan.input_files()), *plan.small_files()])
        self._advance = Advance(progress, plan.bytes_read + plan.layout.n_bytes)
        self.record = PackRecord(plan)

    def write(self, directory: Path) -> Manifest:
        """Write all files of the store, and return the manifest, which is not written yet."""
        plan = self._plan
        job = PackJob(
            tensors={name: plan.sources(name) for name in plan.coded},
            tasks=list(plan.tasks),
            experts=list(plan.tasks.values()),
            own=plan.own,
            base=plan.base.tensors,
            files=[file.path for file in plan.task_files],
            lambdas=[file.mask_lambda for file in plan.task_files if file.mask_lambda is not None],
            layout=plan.layout,
            directory=directory,
            input_files=plan.input_files(),
            limits=self._limits,
            refuse_nonfinite=self._refuse_nonfinite,
            record=self.record,
            progress=self._advance or None,
        )
        n_set, scales = plan.family.pack(job)
        self._copy_dense(job)
        job.close_written()
        self.record.note_unpacked(self._limits.n_threads)
        small_files = keep_small_files(plan.base if plan.has_base else None, plan.tasks, directory)
        return self.record.manifest(self._store, n_set, scales, small_files)

    def check_unchanged(self) -> None:
        """Raise StorageError if an input changed while it was being read."""
        refuse_changed(self._stamps)

    def finish_progress(self) -> None:
        """Report the bytes that no pass moved, such as headers."""
        self._advance.finish()

    def _copy_dense(self, job: PackJob) -> None:
        """Write the tensors that are stored as they are."""
        for i, (_, _, file) in enumerate(self._plan.task_files):
            for name in self._plan.dense:
                one = self._plan.sources(name)[1 + i]
                if self._refuse_nonfinite:
                    self._check_finite(one)
                place = job.places[file][name]
                lanes = copy_out(one, job.plan_files.writer(place))
                self.record.note_written(file, place, lanes)

    def _check_finite(self, one: TensorInfo) -> None:
        blamed, count, first = nonfinite_tensor(one, self._limits)
        if count:
            raise InputError(objection(blamed, count, first))
