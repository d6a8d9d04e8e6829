"""A packing with masks: the passes that write the shared vector and a mask of each task."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..._core import JobRule, Limits, PackResult, PackRule, Plan, pack
from ...checkpoint.files import refuse_changed, stamps
from ...checkpoint.safetensors import TensorInfo
from ...engine.codes import BLEND_CODES, GATE_CODES, KEEP_ALL, PACKED_BITS, VOTE_CODES, ZERO_SIGNS
from ...engine.files import Inputs, Place, Writer
from ...engine.fingerprints import content_of, copy_out
from ...engine.jobs import Work
from ...engine.nonfinite import nonfinite_objection
from ...engine.passes import Passes
from ...engine.usage import Progress
from ...errors import InputError
from ...spec.choices import PAPER
from ...spec.dtypes import DTYPE_CODES
from ...spec.rules import Blend, Gate, Rule, Vote
from ..codecs._codec import Sums
from ..families.masked import GRAIN, scale_name
from ..manifest import SHARED, Manifest
from .plan import PackPlan
from .record import PackRecord


class PackRun:
    """One packing: the open files, the passes and what they found out."""

    def __init__(
        self,
        made: PackPlan,
        limits: Limits,
        progress: Progress | None,
        *,
        stop_at_overflow: bool,
    ) -> None:
        self._plan = made
        self._limits = limits
        self._progress = progress
        self._stop = stop_at_overflow
        self._stamps = stamps([Path(path) for path in made.input_files()])
        self._moved = 0
        self.record = PackRecord(made)

    def write(self, directory: Path) -> Manifest:
        """Write all files; what the manifest is to say about them."""
        made = self._plan
        floors, zero_sign = self._survey()
        core = Plan(True)
        inputs = Inputs(core, made.input_files())
        outputs = self._open_outputs(core, directory)
        rules = []
        for job, name in enumerate(made.masked):
            core.add_job(
                made.base.tensors[name].n_elements,
                self._inputs(name, inputs),
                self._outputs(name, outputs),
                apart=True,
                grain=GRAIN,
            )
            rules.append(self._rule(job, name, floors, zero_sign))
        results = self._pack(core, rules)
        self._note(results)
        scales = self._scales(core, outputs, results)
        self._copy_dense(core, outputs)
        self.record.note_unpacked()
        n_set = [sum(result.n_set[i] for result in results) for i in range(len(made.masks))]
        return self.record.manifest(n_set, scales)

    def _open_outputs(self, core: Plan, directory: Path) -> dict[str, int]:
        """Make room for all files and write their headers; their numbers by name."""
        made = self._plan
        outputs = {}
        for file in made.files:
            (directory / file).parent.mkdir(parents=True, exist_ok=True)
            path = os.fspath(directory / file)
            self.record.checksums[file] = {}
            self.record.file_bytes[file] = made.file_bytes(file)
            outputs[file] = core.open_to_write(path, made.file_bytes(file))
            core.write(outputs[file], made.headers[file][0], 0)
        return outputs

    def _survey(self) -> tuple[list[int], int]:
        """The floors of the magnitudes that stay, by task, and the sign of a vote of zero."""
        made = self._plan
        n_tasks = len(made.tasks)
        zero = ZERO_SIGNS[made.rule.zero] if made.rule is not None else 0
        density = made.codec.ranked_density(made.parameters)
        if density is None or not made.masked:
            return [KEEP_ALL] * n_tasks, zero
        elects = made.rule is not None and made.rule.vote is not Vote.NONE
        rule = (
            made.rule
            if elects and made.rule
            else Rule(Gate.MAGNITUDE, Vote.SUM, Blend.SUM_OF_AGREEING)
        )
        core = Plan(True)
        inputs = Inputs(core, made.input_files())
        works = [
            Work(
                name=name,
                n_elements=made.base.tensors[name].n_elements,
                inputs=tuple(self._inputs(name, inputs)),
                outputs=(),
                weights=(1.0,) * n_tasks,
                densities=(density,) * n_tasks,
                scale=1.0,
                n_input_bytes=0,
            )
            for name in made.masked
        ]
        passes = Passes(core, works, rule, PAPER, self._limits, labels=list(made.tasks))
        passes.survey_model()
        if elects:
            everything = range(len(works))
            passes.combine(everything)
            zero = passes.majority(everything)
        return [found.floor for found in passes.model.found], zero

    def _inputs(self, name: str, inputs: Inputs) -> list[Place]:
        return [inputs.place(one) for one in self._plan.sources(name)]

    def _outputs(self, name: str, outputs: Mapping[str, int]) -> list[Place]:
        made = self._plan
        places = []
        if made.rule is not None:
            shared = made.places[SHARED][name]
            places.append((outputs[SHARED], shared.offset, DTYPE_CODES[shared.dtype]))
        for _, _, file in made.masks:
            places.append((outputs[file], made.places[file][name].offset, PACKED_BITS))
        return places

    def _rule(self, job: int, name: str, floors: Sequence[int], zero: int) -> PackRule:
        n_elements = self._plan.base.tensors[name].n_elements
        n_tasks = len(self._plan.tasks)
        lambdas = [value for _, value, _ in self._plan.masks if value is not None]
        cutoffs = [n_elements] * n_tasks
        shared = JobRule(job, 0, n_elements, [1.0] * n_tasks, floors, cutoffs, 1.0, 1.0, zero, -1)
        return PackRule(shared, lambdas)

    def _pack(self, core: Plan, rules: list[PackRule]) -> list[PackResult]:
        made = self._plan
        rule, mask = made.rule, made.codec.mask
        assert mask is not None
        results = pack(
            core,
            rules,
            (GATE_CODES[rule.gate], VOTE_CODES[rule.vote], BLEND_CODES[rule.blend])
            if rule
            else None,
            mask.value,
            made.codec.with_sums,
            self._stop,
            self._limits,
            self._advance if self._progress else None,
        )
        for job, result in enumerate(results):
            # Without a shared vector only the sums of magnitudes show what is not finite.
            if self._stop and (result.overflow or not all(map(math.isfinite, result.sums))):
                raise InputError(self._objection(core, job))
        return results

    def _objection(self, core: Plan, job: int) -> str:
        made = self._plan
        name = made.masked[job]
        for i, one in enumerate(made.sources(name)):
            if objection := nonfinite_objection(one, *core.find_nonfinite(job, i, self._limits)):
                return objection
        dtype = made.places[SHARED][name].dtype if made.rule else "F32"
        return (
            f"tensor {name!r}: the shared vector overflows {dtype}; pass --param shared_dtype=F32, "
            "or --nonfinite propagate"
        )

    def _advance(self, n_bytes: int) -> None:
        whole = self._plan.bytes_read + self._plan.n_bytes
        self._moved += n_bytes
        if self._progress is not None:
            self._progress(min(self._moved, whole), whole)

    def finish_progress(self) -> None:
        """Report what no pass moved, such as headers."""
        self._advance(self._plan.bytes_read + self._plan.n_bytes - self._moved)

    def _note(self, results: Sequence[PackResult]) -> None:
        """Checksums of what was written, and fingerprints of what was read."""
        made = self._plan
        files = ([SHARED] if made.rule is not None else []) + [file for _, _, file in made.masks]
        for name, result in zip(made.masked, results, strict=True):
            for file, lanes in zip(files, result.outputs, strict=True):
                self.record.note_written(file, made.places[file][name], lanes)
            self.record.note_read(name, result.inputs)

    def _scales(
        self, core: Plan, outputs: Mapping[str, int], results: Sequence[PackResult]
    ) -> list[float]:
        """The factor of each task; where each matrix has its own, write those."""
        made = self._plan
        sums = [
            Sums(made.base.tensors[name].n_elements, result.sums, result.sums_in_mask)
            for name, result in zip(made.masked, results, strict=True)
        ]
        if made.rule is not None:
            return made.codec.scales(made.parameters, sums, len(made.tasks))
        for name, one in zip(made.masked, sums, strict=True):
            for (_, _, file), total in zip(made.masks, one.x, strict=True):
                data = struct.pack("<f", total / max(one.n_elements, 1))
                info = made.places[file][scale_name(name)]
                core.write(outputs[file], data, info.offset)
                self.record.note_written(file, info, content_of(data))
        return [1.0] * len(made.tasks)

    def _copy_dense(self, core: Plan, outputs: Mapping[str, int]) -> None:
        """Write the tensors that are kept as they are."""
        made = self._plan
        for i, (_, _, file) in enumerate(made.masks):
            for name in made.dense:
                one = made.sources(name)[1 + i]
                if self._stop:
                    self._refuse_nonfinite(one)
                place = made.places[file][name]
                write = Writer(core, outputs[file], place.offset)
                self.record.note_written(file, place, copy_out(one, write))

    def _refuse_nonfinite(self, one: TensorInfo) -> None:
        core = Plan(False)
        inputs = Inputs(core)
        core.add_job(one.n_elements, [inputs.place(one)], [])
        if objection := nonfinite_objection(one, *core.find_nonfinite(0, 0, self._limits)):
            raise InputError(objection)

    def check_unchanged(self) -> None:
        """Raise StorageError if an input changed while it was being read."""
        refuse_changed(self._stamps)
