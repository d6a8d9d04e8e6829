"""The passes that write the shared vector and a mask of each task."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ..._core import Candidate, PackResult, PackTask, pack
from ...checkpoint.tensors import TensorInfo
from ...engine.codes import BLEND_CODES, GATE_CODES, KEEP_ALL, VOTE_CODES, ZERO_SIGNS
from ...engine.files import Place, native
from ...engine.fingerprints import content_of
from ...engine.jobs import Work
from ...engine.passes import Passes
from ...errors import InputError
from ...spec.choices import PAPER
from ...spec.rules import Blend, Rule, Vote, trimmed
from ..codecs._codec import Codec, Sums
from ..manifest import SHARED
from .job import GRAIN, PackJob

# The rule of a survey for thresholds alone.
_TRIM: Final = trimmed(Vote.SUM, Blend.SUM_OF_AGREEING)


def scale_name(name: str) -> str:
    """Return the name under which a task's file has the magnitude of a matrix of signs."""
    return f"{name}::scale"


def pack_masks(
    codec: type[Codec], parameters: Mapping[str, Any], job: PackJob
) -> tuple[list[int], list[float]]:
    """Write the shared vector, if there is one, and the masks; as ``Family.pack``."""
    rule = codec.shared_rule(parameters)
    files, outputs = job.plan_files, _outputs(rule, job)
    for name, sources in job.tensors.items():
        files.plan.add_job(
            sources[0].n_elements,
            [native(files.operand(one)) for one in sources],
            [_place(job, file, one) for file, one in outputs[name]],
            apart=True,
            grain=GRAIN,
        )
    floors, zero_sign = _survey(codec, parameters, rule, job)
    tasks = [_task(i, n, floors, zero_sign, job.lambdas) for i, n in enumerate(job.n_elements)]
    results = _pack(codec, rule, tasks, job)
    for (name, sources), result in zip(job.tensors.items(), results, strict=True):
        for (file, one), lanes in zip(outputs[name], result.outputs, strict=True):
            job.record.note_written(file, one, lanes)
        job.record.note_read(name, sources, result.inputs)
    sums = [
        Sums(n, result.sums, result.sums_in_mask)
        for n, result in zip(job.n_elements, results, strict=True)
    ]
    if rule is None:
        _write_magnitudes(job, sums)
        scales = [1.0] * len(job.tasks)
    else:
        scales = codec.scales(parameters, sums, len(job.tasks))
    return [sum(result.n_set[i] for result in results) for i in range(len(job.files))], scales


def _survey(
    codec: type[Codec], parameters: Mapping[str, Any], rule: Rule | None, job: PackJob
) -> tuple[list[int], int]:
    """Return each task's floor of the magnitudes kept, and the sign of a vote of zero."""
    zero = ZERO_SIGNS[rule.zero] if rule is not None else 0
    density = codec.ranked_density(parameters)
    if density is None or not job.tensors:
        return [KEEP_ALL] * len(job.tasks), zero
    elects = rule is not None and rule.vote is not Vote.NONE
    # A combine counts signs, and writes where jobs have outputs. A survey alone reads what the
    # masks are made of, which is kept for them.
    files, n_tasks = job.open_inputs() if elects else job.plan_files, len(job.tasks)
    works = [
        Work(
            name=name,
            n_elements=sources[0].n_elements,
            inputs=tuple(map(files.operand, sources)),
            outputs=(),
            weights=(1.0,) * n_tasks,
            densities=(density,) * n_tasks,
            scale=1.0,
            n_input_bytes=0,
        )
        for name, sources in job.tensors.items()
    ]
    surveyed = rule if elects and rule is not None else _TRIM
    passes = Passes(
        *(files.plan, works, surveyed, PAPER, job.limits),
        labels=list(job.tasks),
        adds_jobs=elects,
    )
    if elects:
        everything = range(len(works))
        passes.find_model()
        passes.combine(everything)
        passes.settle_guess()
        zero = passes.majority(everything)
    else:
        passes.survey_model()
    return [found.floor for found in passes.model.trims], zero


def _outputs(rule: Rule | None, job: PackJob) -> dict[str, list[tuple[str, TensorInfo]]]:
    """Return the outputs of each tensor, with their files: the shared vector, then the masks."""
    files = [SHARED, *job.files] if rule is not None else job.files
    return {name: [(file, job.places[file][name]) for file in files] for name in job.tensors}


def _place(job: PackJob, file: str, one: TensorInfo) -> Place:
    files = job.plan_files
    return files.place(one) if file == SHARED else files.mask_place(one)


def _task(
    job: int, n_elements: int, floors: Sequence[int], zero_sign: int, lambdas: Sequence[float]
) -> PackTask:
    n = len(floors)
    shared = Candidate(
        weights=[1.0] * n, floors=floors, cutoffs=[n_elements] * n, zero_sign=zero_sign
    )
    return PackTask(job=job, shared=shared, lambdas=lambdas)


def _pack(
    codec: type[Codec], rule: Rule | None, tasks: Sequence[PackTask], job: PackJob
) -> list[PackResult]:
    assert codec.mask is not None
    plan = job.plan_files.plan
    codes = (
        (GATE_CODES[rule.gate], VOTE_CODES[rule.vote], BLEND_CODES[rule.blend]) if rule else None
    )
    results = pack(
        plan=plan,
        tasks=tasks,
        shared=codes,
        mask=codec.mask.value,
        with_sums=codec.with_sums,
        stop_at_overflow=job.refuse_nonfinite,
        limits=job.limits,
        progress=job.progress,
    )
    for i, (name, result) in enumerate(zip(job.tensors, results, strict=True)):
        # Without a shared vector only the sums of magnitudes show what is not finite.
        if job.refuse_nonfinite and (result.overflow or not all(map(math.isfinite, result.sums))):
            raise InputError(job.objection(plan, i, name))
    return results


def _write_magnitudes(job: PackJob, sums: Sequence[Sums]) -> None:
    """Write the mean magnitude of each matrix of each task."""
    for name, one in zip(job.tensors, sums, strict=True):
        for file, total in zip(job.files, one.x, strict=True):
            data = struct.pack("<f", total / max(one.n_elements, 1))
            job.write(file, scale_name(name), data, content_of(data))
