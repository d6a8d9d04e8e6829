"""The report on an extracted adapter, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .._version import __version__
from ..engine.usage import Usage, done_line
from ..messages import counted, labelled, warned
from ..sizes import format_size
from .matrix_report import MatrixReport, overall_error, worst


@dataclass(frozen=True, kw_only=True)
class LoraReport(Usage):
    """The report on an extracted adapter."""

    path: str
    base: str
    """The base as the adapter's configuration names it."""
    finetuned: str
    rank: int | float
    """The rank, or the share of the energy, that was asked for."""
    alpha: float | None
    """The alpha that was asked for; None where it is each matrix's rank."""
    dtype: str
    seed: int
    matrices: list[MatrixReport]
    saved: list[str]
    """Tensors that the adapter holds whole."""
    left_out: list[str]
    """Tensors that differ from the base's, and that the adapter leaves as in the base."""
    files: dict[str, int]
    warnings: list[str]

    @property
    def error(self) -> float:
        """The relative error of all matrices together."""
        return overall_error(self.matrices)

    def to_json_dict(self) -> dict[str, Any]:
        """Return the report as plain data, which names no place outside the result by its path."""
        data = super().to_json_dict()
        del data["path"]
        return {"error": self.error, **data, "tallies": __version__}

    def to_json(self) -> str:
        """Return the report as indented JSON."""
        return json.dumps(self.to_json_dict(), indent=2, ensure_ascii=False) + "\n"

    def __str__(self) -> str:
        return summary(self)


def summary(report: LoraReport, screen: int | None = None) -> str:
    """Return the lines that an extraction prints.

    Args:
        report: The report on the adapter.
        screen: The columns of a terminal; None where the text goes elsewhere.
    """
    return "\n".join(
        [
            f"adapter of {counted(len(report.matrices), 'tensor')}",
            *(labelled(label, text, screen) for label, text in _rows(report)),
            *(warned(one, screen) for one in report.warnings),
            done_line(report, screen),
        ]
    )


def _rows(report: LoraReport) -> Iterator[tuple[str, str]]:
    yield "output", f"{report.path}: {format_size(sum(report.files.values()))}"
    yield "base", report.base
    yield "finetuned", report.finetuned
    ranks = sorted({one.rank for one in report.matrices})
    span = f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
    if isinstance(report.rank, float):
        span += f", for {report.rank:.4g} of the energy"
    yield "rank", span
    yield "error", f"{report.error:.3g} of the change of all tensors together"
    yield "worst", worst(report.matrices)
    if report.saved:
        yield "saved", f"{counted(len(report.saved), 'tensor')} whole"
