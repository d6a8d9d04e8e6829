"""The report on a mixture of experts, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .._version import __version__
from ..engine.usage import Usage, done_line
from ..messages import counted, labelled, warned
from ..sizes import format_size


@dataclass(frozen=True, kw_only=True)
class MoeReport(Usage):
    """The report on a mixture of experts; also in ``tallies.json`` beside it."""

    path: str
    recipe: dict[str, Any]
    """The request, with models named relative to the result."""
    layout: str
    """The layout of the result: mixtral, deepseek, qwen2 or qwen3."""
    n_layers: int
    n_experts: int
    gates: str
    """The origin of the gates: random, uniform_random or statistics."""
    dtypes: dict[str, int]
    """The number of tensors of each dtype."""
    files: dict[str, int]
    """Bytes of every tensor file."""
    other_files: list[str]
    warnings: list[str]

    def to_json_dict(self) -> dict[str, Any]:
        """Return the report as plain data, which names no place outside the result by its path."""
        data = super().to_json_dict()
        del data["path"]
        return {**data, "tallies": __version__}

    def to_json(self) -> str:
        """Return the report as indented JSON."""
        return json.dumps(self.to_json_dict(), indent=2, ensure_ascii=False) + "\n"

    def __str__(self) -> str:
        return summary(self)


def summary(report: MoeReport, screen: int | None = None) -> str:
    """Return the lines that the making of a mixture prints.

    Args:
        report: The report on it.
        screen: The columns of a terminal; None where the text goes elsewhere.
    """
    return "\n".join(
        [
            f"mixture of {counted(report.n_experts, 'expert')} ({report.layout} layout)",
            *(labelled(label, text, screen) for label, text in _rows(report)),
            *(warned(one, screen) for one in report.warnings),
            done_line(report, screen),
        ]
    )


def _rows(report: MoeReport) -> Iterator[tuple[str, str]]:
    yield "base", report.recipe["base_model"]
    for expert in report.recipe["experts"]:
        yield "expert", expert["source_model"]
    for expert in report.recipe.get("shared_experts", ()):
        yield "shared", expert["source_model"]
    yield "gates", f"{report.gates}, in {counted(report.n_layers, 'layer')}"
    kinds = ", ".join(f"{n} {dtype}" for dtype, n in report.dtypes.items())
    size = f"{format_size(sum(report.files.values()))} in {counted(len(report.files), 'file')}"
    yield "output", f"{report.path}: {size} ({kinds})"
