"""The manifest and the report of a packing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..._core import Limits, target
from ...checkpoint.checkpoint import Checkpoint
from ...checkpoint.tied import tied_pairs
from ...engine.fingerprints import contents, model_fingerprint, tensor_fingerprint
from ...engine.usage import measure
from ...merging.adapters import AdapterReport
from ..lambdas import text
from ..manifest import Manifest, Tensor
from ..origins import recorded
from ..record import Record
from ..small_files import SmallFiles, own_bytes
from ..tasks import Task
from .plan import PackPlan
from .report import PackReport, TaskReport


class PackRecord(Record):
    """The fingerprints of a packing, and the manifest and report that hold them."""

    def __init__(self, plan: PackPlan) -> None:
        super().__init__(len(plan.tasks) + 1)
        self._plan = plan

    def note_unpacked(self, threads: int) -> None:
        """Note fingerprints of the tensors that no pass read, so that whole models have one.

        Args:
            threads: The number of threads that read.
        """
        plan = self._plan
        models = (plan.base, *plan.tasks.values())
        sources = {n: plan.sources(n) for n in (*plan.match.merged, *plan.match.copied)}
        for i, (model, prints) in enumerate(zip(models, self.prints, strict=True)):
            due = {}
            for name in (n for n in sources if n not in prints):
                one = sources[name][i]
                if name in plan.match.settled:
                    one = model.tensors.get(name, one)
                if plan.kind(name) == "frozen" and name in self.prints[0]:
                    prints[name] = self.prints[0][name]
                else:
                    due[name] = one
            for name, lanes in zip(due, contents(list(due.values()), threads), strict=True):
                prints[name] = tensor_fingerprint(due[name], lanes)
            own = (
                {**plan.own[i - 1]}
                if i
                else {
                    name: one
                    for name, one in model.tensors.items()
                    if name not in plan.match.template
                }
            )
            due = {name: one for name, one in own.items() if name not in prints}
            for name, lanes in zip(due, contents(list(due.values()), threads), strict=True):
                prints[name] = tensor_fingerprint(due[name], lanes)
            for alias, canonical in tied_pairs(model):
                if canonical in prints:
                    prints.setdefault(alias, prints[canonical])

    def manifest(
        self,
        store: Path,
        n_set: Sequence[int],
        scales: Sequence[float],
        small_files: dict[str, SmallFiles],
    ) -> Manifest:
        """Return the store's manifest.

        Args:
            store: The place where the store will appear.
            n_set: The bits set, or values kept, in each file.
            scales: The scale of each task.
            small_files: The small files of each task.
        """
        plan = self._plan
        base_prints, *task_prints = self.prints
        counts = dict(zip(plan.task_files, n_set, strict=True))
        tasks = {}
        for i, name in enumerate(plan.tasks):
            own = [file for file in plan.task_files if file.task == name]
            several = plan.lambdas.n_per_task > 1
            tasks[name] = Task(
                source=recorded(plan.texts[name], store),
                fingerprint=model_fingerprint(task_prints[i]),
                scale=scales[i],
                mask_lambda=None if several else own[0].mask_lambda,
                n_set={text(file.mask_lambda): counts[file] for file in own},
                file=None if several else own[0].path,
                candidates={text(file.mask_lambda): file.path for file in own} if several else {},
                n_missing=plan.n_missing(i),
                n_extra=plan.n_extra(i),
                forms={n: (one.dtype, one.shape) for n, one in plan.own[i].items()},
                lacks=plan.lacks(i),
                borrowed=self.borrowed.get(own[0].path, {}),
                parts=() if plan.has_base else plan.tasks[name].parts,
            )
        return Manifest(
            codec=plan.family.codec.name,
            parameters=dict(plan.family.parameters),
            base_path=recorded(plan.texts[""], store) if plan.has_base else "",
            base_fingerprint=model_fingerprint(base_prints),
            variant=plan.variant,
            tensors={
                name: Tensor(
                    one.decoded_dtype,
                    one.shape,
                    plan.kind(name),
                    base_prints[name],
                    plan.match.tied.get(name),
                )
                for name, one in plan.base.tensors.items()
            },
            tasks=tasks,
            checksums={file: dict(sorted(sums.items())) for file, sums in self.checksums.items()},
            small_files=small_files,
        )

    def report(self, path: Path, manifest: Manifest, start: float, limits: Limits) -> PackReport:
        """Return the report of a packing that ends now.

        Args:
            path: The store.
            manifest: The manifest of the store.
            start: ``time.perf_counter()`` at the start of the packing.
            limits: The limits of its passes.
        """
        plan = self._plan
        warnings = [*plan.warnings]
        warnings += [
            f"task {name!r}: {plan.texts[name]} equals the base bit for bit"
            for name in plan.tasks
            if manifest.tasks[name].fingerprint == manifest.base_fingerprint
        ]
        warnings += [
            f"task {name!r}: {task.n_missing} tensors are the base's and {task.n_extra} of the "
            f"expert are left out: what it unpacks to is another model than {plan.texts[name]}"
            for name, task in manifest.tasks.items()
            if not task.is_whole
        ]
        base_bytes, expert_bytes = plan.base.n_bytes, sum(t.n_bytes for t in plan.tasks.values())
        n_trained = plan.n_coded + sum(plan.base.tensors[n].n_elements for n in plan.dense)
        n_frozen = sum(
            one.n_elements
            for n, one in plan.base.tensors.items()
            if n in plan.match.template
            and n not in plan.match.tied
            and n not in plan.coded
            and n not in plan.dense
        )
        n_bytes = sum(self.file_bytes.values())
        return PackReport(
            path=str(path),
            codec=manifest.codec,
            parameters=manifest.parameters,
            base=plan.texts[""],
            base_fingerprint=manifest.base_fingerprint,
            tasks=[
                TaskReport(
                    name=name,
                    source=plan.texts[name],
                    fingerprint=task.fingerprint,
                    scale=task.scale,
                    set_fraction={
                        key: n / plan.n_coded if plan.n_coded else 0.0
                        for key, n in task.n_set.items()
                    },
                    n_bytes=sum(
                        self.file_bytes[file]
                        for file in ([task.file] if task.file else task.candidates.values())
                    ),
                    n_small_bytes=own_bytes(manifest.small_files[name]),
                    adapters=_adapters(plan.tasks[name]),
                )
                for name, task in manifest.tasks.items()
            ],
            tensors_masked=len(plan.coded_names),
            tensors_dense=len(plan.dense),
            tensors_frozen=len(plan.frozen),
            tensors_copied=sum(plan.kind(n) == "copied" for n in plan.base.tensors),
            parameters_masked=plan.n_coded,
            parameters_trained=n_trained,
            parameters_frozen=n_frozen,
            n_bytes=n_bytes,
            base_bytes=base_bytes,
            expert_bytes=expert_bytes,
            has_shared=plan.family.has_shared,
            left_out={
                plan.texts[name]: dict(model.not_read)
                for name, model in {"": plan.base, **plan.tasks}.items()
                if model.not_read
            },
            warnings=warnings,
            target=target(),
            **measure(start, plan.bytes_read, n_bytes, limits.n_threads, limits.bytes_direct),
        )


def _adapters(expert: Checkpoint) -> list[AdapterReport]:
    tensors = list(expert.tensors.values())
    return [
        AdapterReport(str(one.path), one.kind, one.base, one.n_changed(tensors))
        for one in expert.adapters
    ]
