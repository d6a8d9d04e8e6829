"""Words the report on a packing for a person."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...engine.usage import done_line
from ...messages import counted, labelled, warned
from ...sizes import format_size
from ..codecs import registry as codecs
from ..codecs._codec import Mask

if TYPE_CHECKING:
    from .report import PackReport, TaskReport


def summary(report: PackReport, screen: int | None = None) -> str:
    """Return the lines that a packing prints.

    Args:
        report: The report on the packing.
        screen: The columns of a terminal; None where the text goes elsewhere.
    """
    n_others = len(report.store_tasks) - len(report.tasks)
    what = counted(len(report.tasks), "task")
    lines = [
        f"{report.codec}: {what} added to {n_others}"
        if n_others > 0
        else f"{report.codec} of {what}",
        *(labelled(label, text, screen) for label, text in _rows(report)),
        *(warned(warning, screen) for warning in report.warnings),
        done_line(report, screen),
    ]
    return "\n".join(lines)


def _rows(report: PackReport) -> Iterator[tuple[str, str]]:
    if report.base:
        yield "base", f"{report.base}: {format_size(report.base_bytes)}"
    for task in report.tasks:
        yield "task", f"{task.name}: {', '.join(_facts(report, task))}"
        yield from (("adapter", str(adapter)) for adapter in task.adapters)
    yield "tensors", ", ".join(_tensors(report))
    for model, paths in report.left_out.items():
        yield "left out", f"{', '.join(paths)} of {model}"
    small = sum(task.n_small_bytes for task in report.tasks)
    if report.store_tasks:
        yield (
            "store",
            f"{report.path}: {counted(len(report.store_tasks), 'task')}, "
            f"{format_size(report.store_bytes)} of tensors, {format_size(report.n_bytes)} of the "
            "new one" + (f", {format_size(small)} of its small files" if small else ""),
        )
        return
    yield (
        "store",
        f"{report.path}: {format_size(report.n_bytes)} of tensors"
        + (f", {format_size(small)} of small files" if small else ""),
    )
    yield (
        "size",
        f"the experts take {format_size(report.expert_bytes)}, {report.ratio:.2f} times as much as "
        + ("base and store" if report.base else "the store"),
    )
    yield "rate", f"{report.bits_per_parameter_and_task:.3f} bits per parameter and task"
    if report.has_shared:
        experts, store = (_bits(report.paper_bits[what]) for what in ("experts", "store"))
        yield "paper", f"{experts} -> {store} with 32-bit floats, base included"


def _facts(report: PackReport, task: TaskReport) -> Iterator[str]:
    """Yield the facts of one task, as text."""
    noun = _noun(report)
    for key, share in task.set_fraction.items() if noun else ():
        at = f" at lambda {key}" if len(task.set_fraction) > 1 else ""
        yield f"{share:.4%} {noun}{at}"
    if task.scale != 1:
        yield f"scale {task.scale:.6g}"
    yield format_size(task.n_bytes)
    if task.n_small_bytes:
        yield f"{format_size(task.n_small_bytes)} of small files"
    yield f"from {task.source}"


def _noun(report: PackReport) -> str | None:
    """Return the name of what the share of a task counts; None where a task has no share."""
    mask = codecs.get(report.codec).mask
    if mask is None:
        return None
    if mask is Mask.SIGN:
        return "of the changes upwards"
    return "of the shared vector" if report.has_shared else "of the elements kept"


def _tensors(report: PackReport) -> Iterator[str]:
    """Yield the number of tensors of each kind, as text."""
    yield f"{report.tensors_masked} encoded ({report.parameters_masked:,} parameters)"
    if report.tensors_dense:
        yield f"{report.tensors_dense} stored whole for each task"
    if report.tensors_frozen:
        yield f"{report.tensors_frozen} that no task changed"
    if report.tensors_copied:
        yield f"{report.tensors_copied} of integers or booleans, taken from the base"


def _bits(n: int) -> str:
    for unit, size in (("Gbit", 10**9), ("Mbit", 10**6), ("kbit", 10**3)):
        if n >= size:
            return f"{n / size:.2f} {unit}"
    return f"{n} bits"
