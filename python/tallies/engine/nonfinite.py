"""Finds the inputs of a job that have NaN or infinite values, and words the objections to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from .._core import Limits, Plan
from ..checkpoint.changes import Magnitudes, pieces
from ..checkpoint.tensors import TensorInfo
from .files import PlanFiles, native

REPAIR = "repair the model, or pass --nonfinite propagate"
"""The way out that objections name, unless they are given another."""


@dataclass(frozen=True)
class NonfiniteInput:
    """An input of a job that has NaN or infinite values, as float32 reads them."""

    number: int
    """The position of the input in its job, from 0."""
    count: int
    """The number of its NaN and infinite values."""
    first: int
    """The element at which the first of them lies."""


def nonfinite_inputs(
    plan: Plan, job: int, n_inputs: int, limits: Limits
) -> Iterator[NonfiniteInput]:
    """Yield the inputs of a job that have NaN or infinite values, in their order.

    Args:
        plan: The native plan that has the job.
        job: The number of the job in the plan.
        n_inputs: The number of inputs of the job, the base among them.
        limits: Threads and buffers of the pass, which reads each input once.

    Raises:
        StorageError: Reading fails.
    """
    for number in range(n_inputs):
        count, first = plan.find_nonfinite(job=job, input=number, limits=limits)
        if count:
            yield NonfiniteInput(number, count, first)


def objections(
    plan: Plan,
    job: int,
    tensors: Sequence[TensorInfo],
    limits: Limits,
    way_out: str | None = REPAIR,
) -> Iterator[str]:
    """Yield an objection to each of a job's inputs that has NaN or infinite values.

    ``tensors`` are the stored tensors that the job reads, in the order of its inputs; ``way_out``
    is that of ``objection``. The other arguments and the errors are those of ``nonfinite_inputs``.
    """
    for found in nonfinite_inputs(plan, job, len(tensors), limits):
        blamed = nonfinite_tensor(tensors[found.number], limits, (found.count, found.first))
        yield objection(*blamed, way_out)


def find_nonfinite(tensor: TensorInfo, limits: Limits) -> tuple[int, int]:
    """Return how many values of a stored tensor are NaN or infinite, and where the first lies.

    Args:
        tensor: A tensor of a dtype that merges.
        limits: Threads and buffers of the pass, which reads the tensor once.

    Returns:
        The number of such values and the first one's element; 0 and 0 where all are finite.

    Raises:
        StorageError: The file cannot be read.
    """
    files = PlanFiles(Plan(False))
    files.plan.add_job(tensor.n_elements, [native(files.operand(tensor))], [])
    return files.plan.find_nonfinite(job=0, input=0, limits=limits)


def nonfinite_tensor(
    tensor: TensorInfo, limits: Limits, known: tuple[int, int] | None = None
) -> tuple[TensorInfo, int, int]:
    """Find the stored tensor that makes the values of a tensor NaN or infinite.

    Args:
        tensor: A tensor of a dtype that merges.
        limits: Threads and buffers of the passes; what it is made of is read once each.
        known: The result of ``find_nonfinite`` for the tensor, if it is known.

    Returns:
        The tensor's scale, the first piece of its changes or the tensor without changes, whichever
        is not finite; otherwise the tensor up to the change that makes its values NaN or infinite,
        or the tensor itself. Then the number of such values in it and the first one's element, 0
        and 0 where all are finite.

    Raises:
        StorageError: A file cannot be read.
    """
    count, first = known or find_nonfinite(tensor, limits)
    if count:
        suspects = [
            replace(piece, stored_as=piece.name)
            for change in tensor.changes
            for piece in pieces(change)
        ]
        if tensor.gathered:
            for piece in tensor.gathered.pieces():
                found = nonfinite_tensor(piece, limits)
                if found[1]:
                    return found
        if tensor.scale:
            suspects.insert(0, tensor.scale.tensor)
        if tensor.changes:
            suspects.append(replace(tensor, changes=()))
        for one in suspects:
            n_found, first_found = find_nonfinite(one, limits)
            if n_found:
                return one, n_found, first_found
        for n in range(1, len(tensor.changes)):
            one = replace(tensor, changes=tensor.changes[:n])
            n_found, first_found = find_nonfinite(one, limits)
            if n_found:
                return one, n_found, first_found
    return tensor, count, first


def objection(tensor: TensorInfo, count: int, first: int, way_out: str | None = REPAIR) -> str:
    """Return the objection to ``count`` NaN or infinite values of a tensor, one or more."""
    # A finite float64 beyond the range of float32 counts as infinite.
    values = "values in float32" if tensor.dtype == "F64" else "values"
    if way_out and (tensor.changes or tensor.stored_as):
        way_out = way_out.replace("the model", "the adapter")
    end = f", the first at element {first}, expected finite ones{f'; {way_out}' if way_out else ''}"
    if tensor.changes:
        return f"{_cause(tensor)}: {count} NaN or infinite values{end}"
    name = tensor.stored_as or tensor.name
    return f"{tensor.path}: tensor {name!r} has {count} NaN or infinite {values}{end}"


def _cause(tensor: TensorInfo) -> str:
    """Say how the last change of a tensor, of finite pieces, makes values that are not finite."""
    last = tensor.changes[-1]
    first, *others = pieces(last)
    names = " and ".join(repr(one.name) for one in (first, *others))
    start = f"{first.path}: tensor{'s' if others else ''} {names}"
    changed = f"{tensor.name!r} in {tensor.path}"
    if isinstance(last, Magnitudes):
        line = "column" if last.of_columns else "row"
        return (
            f"{start} (DoRA) sets the norm of each {line} of {changed}, of which one is too small"
        )
    made = "make" if others else "makes"
    return f"{start}, all finite, {made} {changed} too large for float32"
