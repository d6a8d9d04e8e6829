"""Writes the changes that adapters make to the tensors of the base, and the adapters' tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ...checkpoint.checkpoint import Checkpoint
from ...checkpoint.data import same_tensor
from ...checkpoint.layout import Entry
from ...checkpoint.tensors import TensorInfo
from ...engine.files import PlanFiles
from ...engine.fingerprints import content_of, contents, copy_out
from ...engine.nonfinite import nonfinite_tensor, objection
from ...errors import InputError
from ...messages import show
from ..layout import Layout
from ._change_text import piece_name, worded
from .job import PackJob


@dataclass(frozen=True)
class _Told:
    """The changes of one tensor of a task."""

    text: bytes
    pieces: tuple[TensorInfo, ...]

    def entries(self, name: str) -> list[Entry]:
        """Return the tensors of the task's file."""
        pieces = [(piece_name(name, i), one.dtype, one.shape) for i, one in enumerate(self.pieces)]
        return [(name, "U8", (len(self.text),)), *pieces]


def pack_changes(job: PackJob) -> list[int]:
    """Write the file of each task, and note fingerprints of all that was read.

    Returns:
        The elements of the pieces in each file.

    Raises:
        InputError: A task differs from the base where no adapter changes it, or a piece has values
            that are not finite.
        StorageError: Reading or writing fails.
    """
    _refuse_taken_names(job)
    told = [_told(job, i) for i in range(len(job.tasks))]
    files = job.open_inputs()
    for file, changes in zip(job.files, told, strict=True):
        _write(job, files, file, changes)
    files.close_written()
    _note_read(job)
    return [
        sum(piece.n_elements for one in changes.values() for piece in one.pieces)
        for changes in told
    ]


def _told(job: PackJob, task: int) -> dict[str, _Told]:
    """Return the changes of each tensor that a task's adapters change."""
    expert = job.experts[task]
    found = {}
    for name, sources in job.tensors.items():
        base, one = sources[0], sources[1 + task]
        if same_tensor(base, one):
            continue
        replacement, changes = None, one.changes
        if one.path in {path for adapter in expert.adapters for path in adapter.files}:
            replacement = replace(one, changes=(), stands_as=None)
        elif same_tensor(base, replace(one, changes=base.changes)) and _begins(one, base):
            changes = changes[len(base.changes) :]
        else:
            raise _refusal(job.tasks[task], expert, base, one)
        text, pieces = worded(changes, replacement)
        found[name] = _Told(text.encode(), tuple(pieces))
    return found


def _begins(one: TensorInfo, base: TensorInfo) -> bool:
    return one.changes[: len(base.changes)] == base.changes


def _refusal(task: str, expert: Checkpoint, base: TensorInfo, one: TensorInfo) -> InputError:
    what = "no adapter changes it" if expert.adapters else "the task has no adapter"
    return InputError(
        f"task {show(task)}: {one.path}: tensor {show(one.name)} differs from that of {base.path}, "
        f"and {what}: codec 'lora' keeps adapters; name the task BASE+ADAPTER, make an adapter of "
        f"it first (tallies extract-lora {expert.path} --base BASE --rank 32 --out ADAPTER), or "
        "pack with another codec, such as 'sparse'"
    )


def _refuse_taken_names(job: PackJob) -> None:
    for name in job.tensors:
        taken = piece_name(name, 0)
        if taken in job.tensors:
            raise InputError(
                f"{job.tensors[taken][0].path}: has a tensor {show(taken)}, which is what a store "
                f"calls a piece of an adapter of tensor {show(name)}; rename one of them"
            )


def _write(job: PackJob, files: PlanFiles, file: str, changes: Mapping[str, _Told]) -> None:
    layout = Layout({file: [entry for name, one in changes.items() for entry in one.entries(name)]})
    layout.create(files, job.directory)
    job.record.add_file(file, layout.file_bytes(file))
    places = layout.places(job.directory)[file]
    for name, one in changes.items():
        files.write(places[name], one.text)
        job.record.note_written(file, places[name], content_of(one.text))
        for i, piece in enumerate(one.pieces):
            if job.refuse_nonfinite:
                blamed, count, first = nonfinite_tensor(piece, job.limits)
                if count:
                    raise InputError(objection(blamed, count, first))
            place = places[piece_name(name, i)]
            lanes = copy_out(piece, files.writer(place))
            job.record.note_written(file, place, lanes)
            if job.progress is not None:
                job.progress(piece.n_bytes)


def _note_read(job: PackJob) -> None:
    """Note the fingerprints of all tensors, whose values most tasks have from the base's files."""
    stored = {_place(one): one for sources in job.tensors.values() for one in sources}
    found = contents(list(stored.values()), job.limits.n_threads)
    lanes = dict(zip(stored, found, strict=True))
    for name, sources in job.tensors.items():
        job.record.note_read(name, sources, [lanes[_place(one)] for one in sources])


def _place(one: TensorInfo) -> tuple[object, ...]:
    return one.path, one.offset, one.n_bytes, one.strides
