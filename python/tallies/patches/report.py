"""The reports on a patch that was made and on patches that were applied."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..engine.usage import Usage, done_line
from ..messages import labelled, warned
from ..sizes import format_size
from .manifest import TensorChange


@dataclass(frozen=True, kw_only=True)
class PatchReport(Usage):
    """The report on a patch that was made, or on patches that were applied or taken back."""

    kind: str
    """``made``, ``applied``, ``undone``, ``restored`` for what an interrupted run left, or
    ``nothing`` where it was to be restored and no run was interrupted."""
    path: str | None
    """The patch that was made, or the model that was; None for bytes."""
    old: str
    """The model that it starts from."""
    new: str | None
    """The model that a patch was made to reach; None where patches were applied."""
    patches: list[str]
    """The patches that were applied."""
    old_fingerprint: str
    new_fingerprint: str
    values: str | None = None
    """The kind of values of a patch that was made, and likewise the coder."""
    coder: str | None = None
    tensors: dict[str, int]
    """The number of tensors of each change."""
    layouts: dict[str, int]
    """Parts of changed tensors by their layout."""
    n_elements: int
    """Elements of the tensors that both models have."""
    n_changed: int
    """Elements that changed; in a chain the sum over its patches, in each of which one counts."""
    n_bytes: int
    """Bytes of the patches."""
    model_bytes: int
    """Bytes of the tensors of the new model."""
    files: dict[str, int]
    small_files: dict[str, str]
    """The changes of small files, by their paths."""
    warnings: list[str] = field(default_factory=list)
    data: bytes | None = field(default=None, repr=False)
    """The patch, where no place for it was named."""

    def to_json_dict(self) -> dict[str, Any]:
        """Return the report as plain data, without the bytes of a patch."""
        found = super().to_json_dict()
        del found["data"]
        return found

    def to_json(self) -> str:
        """Return the report as indented JSON."""
        return json.dumps(self.to_json_dict(), indent=2, ensure_ascii=False) + "\n"

    def __str__(self) -> str:
        return summary(self)


def counts(tensors: Iterable[TensorChange]) -> dict[str, Any]:
    """Return the counts of a report over the records of tensors, of one patch or of several."""
    records = list(tensors)
    layouts = Counter(
        part.layout for one in records if not one.is_stored_whole for part in one.parts
    )
    return {
        "tensors": dict(sorted(Counter(one.change for one in records).items())),
        "layouts": dict(sorted(layouts.items())),
        "n_changed": sum(one.n_changed for one in records),
    }


def summary(report: PatchReport, screen: int | None = None) -> str:
    """Return the lines that a command prints.

    Args:
        report: The report.
        screen: The columns of a terminal; None where the text goes elsewhere.
    """
    rows = [labelled(label, text, screen) for label, text in _rows(report)]
    warnings = [warned(text, screen) for text in report.warnings]
    return "\n".join([_headline(report), *rows, *warnings, done_line(report, screen)])


def _headline(report: PatchReport) -> str:
    if report.kind == "made":
        return f"patch ({report.values}, coder {report.coder})"
    if report.kind == "restored":
        return "the old model restored, as an earlier run was interrupted"
    if report.kind == "nothing":
        return "nothing to take back: no run was interrupted here"
    n = len(report.patches)
    return f"{n} {'patch' if n == 1 else 'patches'} {report.kind}"


def _ratio(n_bytes: int, model_bytes: int) -> str:
    """Word the size of a patch beside that of the new tensors."""
    if n_bytes < model_bytes:
        return f"{model_bytes / max(n_bytes, 1):.3g}x smaller than the new tensors"
    return f"{n_bytes / max(model_bytes, 1):.3g}x the size of the new tensors"


def _elements(report: PatchReport) -> str:
    if len(report.patches) > 1:
        return f"{report.n_changed} changes of {report.n_elements} elements, in all patches"
    share = 100 * report.n_changed / report.n_elements
    return f"{report.n_changed} of {report.n_elements} changed ({share:.3g} %)"


def _rows(report: PatchReport) -> Iterator[tuple[str, str]]:
    if report.kind == "nothing":
        yield "model", str(report.path)
        return
    yield "old", f"{report.old}, fingerprint {report.old_fingerprint}"
    if report.new is not None:
        yield "new", f"{report.new}, fingerprint {report.new_fingerprint}"
    if report.kind == "made":
        place, size = report.path or "bytes", format_size(report.n_bytes)
        yield "patch", f"{place}: {size}, {_ratio(report.n_bytes, report.model_bytes)}"
    else:
        yield "output", f"{report.path}, fingerprint {report.new_fingerprint}"
    if report.kind == "restored":
        return
    if report.n_elements:
        yield "elements", _elements(report)
    words = {"none": "the same", "replaced": "replaced (another dtype or shape)"}
    kinds = [f"{n} {words.get(kind, kind)}" for kind, n in report.tensors.items()]
    several = " (in all patches)" if len(report.patches) > 1 else ""
    yield "tensors", ", ".join(kinds) + several if kinds else "none"
    if report.layouts:
        yield "parts", ", ".join(f"{n} {layout}" for layout, n in report.layouts.items())
    if report.small_files:
        yield "files", ", ".join(f"{path} {what}" for path, what in report.small_files.items())
