"""A packing in which matrices are factored, one at a time, all tasks together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .. import _core
from ..errors import InputError
from ..files import content_of
from ..matrix_passes import single_threads
from . import low_rank_files
from ._low_rank import s_name, v_name
from .manifest import SHARED, Manifest
from .pack_run import PackRun


class LowRankRun(PackRun):
    """One packing of singular triplets."""

    def write(self, directory: Path) -> Manifest:
        made = self._plan
        core = _core.Plan(True)
        inputs = {path: core.open_to_read(path) for path in made.input_files()}
        outputs = self._open_outputs(core, directory)
        for name in made.masked:
            core.add_job(made.base.tensors[name].n_elements, self._inputs(name, inputs), [])
        n_set = [0] * len(made.masks)
        with single_threads(1) as pool:
            for job, name in enumerate(made.masked):
                factored = pool.submit(self._factor, core, job, name).result()
                self._store(core, outputs, name, factored)
                for i, (_, _, file) in enumerate(made.masks):
                    parts = (name, s_name(name), v_name(name))
                    n_set[i] += sum(made.places[file][part].n_elements for part in parts)
        self._copy_dense(core, outputs)
        self.record.note_unpacked()
        return self.record.manifest(n_set, [1.0] * len(made.tasks))

    def _factor(self, core: _core.Plan, job: int, name: str) -> low_rank_files.Factored:
        made = self._plan
        place = made.places[made.masks[0][2]][name]
        has_shared = made.rule is not None
        try:
            return low_rank_files.factor(
                core,
                job,
                made.base.tensors[name].shape,
                len(made.tasks),
                place.shape[1],
                place.dtype,
                made.parameters["scale"] if has_shared else None,
                made.places[SHARED][name].dtype if has_shared else "F32",
                self._stop,
                self._limits,
                self._advance if self._progress else None,
            )
        except ValueError:
            raise InputError(self._objection(core, job)) from None

    def _store(
        self,
        core: _core.Plan,
        outputs: Mapping[str, int],
        name: str,
        factored: low_rank_files.Factored,
    ) -> None:
        made = self._plan

        def put(file: str, part: str, data: bytes) -> None:
            info = made.places[file][part]
            core.write(outputs[file], data, info.offset)
            self.record.note_written(file, info, content_of(data))

        if factored.shared is not None:
            put(SHARED, name, factored.shared)
        for (_, _, file), parts in zip(made.masks, factored.factors, strict=True):
            for part, data in zip((name, s_name(name), v_name(name)), parts, strict=True):
                put(file, part, data)
        self.record.note_read(name, factored.prints)
