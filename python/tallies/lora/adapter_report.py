"""Reports a merge of adapters to an adapter, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .._version import __version__
from ..engine.usage import Usage, done_line
from ..merging.report import without_nonfinite
from ..merging.values import listed
from ..messages import counted, headline, labelled, some, warned
from ..sizes import format_size
from .adapter_explain import rank_span
from .matrix_report import MatrixReport, overall_error, worst


@dataclass(frozen=True, slots=True)
class AdapterModel:
    """One adapter that went in."""

    path: str
    kind: str
    rank: list[int]
    """The least and the most rank of its factors."""
    tensors: int
    base: str | None
    """The base as the adapter names it."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """The parameters of this adapter: a value, or the least and the most over the tensors."""


@dataclass(frozen=True, kw_only=True)
class AdapterReport(Usage):
    """The report of a merge of adapters; also in ``tallies.json`` beside the result."""

    path: str
    recipe: dict[str, Any]
    method: str
    semantics: str
    base: str | None
    """The base as the adapter's configuration names it."""
    adapters: list[AdapterModel]
    rank: int | str
    """The rank that was asked for, or ``full``."""
    exact: bool
    """The product of the factors is the merge, up to the rounding of the factors."""
    way: str
    dtype: str
    matrices: list[MatrixReport]
    saved: list[str]
    """Tensors that the adapters and the result hold whole."""
    parameters: dict[str, Any]
    """The parameters that all adapters share."""
    files: dict[str, int]
    other_files: list[str]
    warnings: list[str]
    tallies: str = __version__

    @property
    def error(self) -> float:
        """The relative error of all matrices together."""
        return overall_error(self.matrices)

    def to_json_dict(self) -> dict[str, Any]:
        """Return the report as plain data, which names no place outside the result by its path."""
        data = super().to_json_dict()
        del data["path"]
        return {"error": self.error, **data}

    def to_json(self) -> str:
        """Return the report as JSON, indented; numbers that are not finite are null."""
        data = without_nonfinite(self.to_json_dict())
        return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def __str__(self) -> str:
        return summary(self)


def summary(report: AdapterReport, screen: int | None = None) -> str:
    """Return the lines that a merge of adapters prints.

    Args:
        report: The report on the adapter.
        screen: The columns of a terminal; None where the text goes elsewhere.
    """
    return "\n".join(
        [
            headline(report.method, report.semantics, len(report.adapters)),
            *(labelled(label, text, screen) for label, text in _rows(report)),
            *(warned(one, screen) for one in report.warnings),
            done_line(report, screen),
        ]
    )


def _rows(report: AdapterReport) -> Iterator[tuple[str, str]]:
    yield "base", report.base or "named by no adapter"
    for one in report.adapters:
        facts = f"{one.kind}, rank {rank_span(one.rank)}, {counted(one.tensors, 'tensor')}"
        yield "adapter", ", ".join(filter(None, [f"{one.path}: {facts}", listed(one.parameters)]))
    yield "parameters", listed(report.parameters)
    ranks = rank_span([one.rank for one in report.matrices])
    yield "rank", f"{ranks} for {counted(len(report.matrices), 'tensor')}, factors {report.dtype}"
    yield "way", report.way
    yield "error", f"{report.error:.3g} of the change of all tensors together"
    yield "worst", worst(report.matrices)
    if report.saved:
        yield "saved", f"{counted(len(report.saved), 'tensor')} merged whole: {some(report.saved)}"
    yield "output", f"{report.path}: {format_size(sum(report.files.values()))}"
